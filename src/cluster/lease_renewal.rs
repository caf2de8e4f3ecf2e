//! Writes the lease again while its holder lives, and moves the end of the [`CallFence`] with each write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::fence::CallFence;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::lease_claim::{Others, holder};
use super::lease_holder::LeaseHolder;
use crate::nats::bucket::{self, Bucket, BucketEntry, BucketWrite};

/// The key of the lease.
pub(super) const KEY: &str = "worker";
/// Time to live of the key. Without renewal the lease is free after it. Servers count in whole
/// seconds.
pub(super) const TTL: Duration = Duration::from_secs(6);
/// The time from the sending of a stored write for which its holder may call providers. The rest of the time to live is
/// a margin.
const VALIDITY: Duration = Duration::from_secs(5);
/// The interval at which the holder renews the lease.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_secs(2);

/// The age up to which a bucket without a lease may stand for one that was lost with the store. It is larger than
/// [`VALIDITY`], since the server tells the age by its own clock.
const LONGEST_NEW: Duration = Duration::from_secs(60);

/// How long this process holds the lease for certain. Clones share it.
#[derive(Debug, Clone)]
pub struct LeaseValidity {
    /// The end, in nanoseconds of the clock that counts suspension.
    until: Arc<AtomicU64>,
    lost: CancellationToken,
}

impl LeaseValidity {
    /// Returns the validity of a lease that needs no renewal, for a process that has its NATS server for itself.
    pub fn unlimited() -> Self {
        Self {
            until: Arc::new(AtomicU64::new(u64::MAX)),
            lost: CancellationToken::new(),
        }
    }

    fn not_yet() -> Self {
        let unlimited = Self::unlimited();
        unlimited.until.store(0, Ordering::Relaxed);
        unlimited
    }

    /// Returns true if no other process can hold the lease now.
    pub fn is_held(&self) -> bool {
        let until = Duration::from_nanos(self.until.load(Ordering::Relaxed));
        !self.is_lost() && SystemClock.since_boot() < until
    }

    /// Returns true if another process holds the lease.
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Returns when another process holds the lease.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Renews the lease that this process holds.
pub(super) struct LeaseRenewal {
    pub(super) bucket: Bucket,
    me: LeaseHolder,
    value: Bytes,
    /// The key's revision, as far as it is known.
    pub(super) revision: Arc<AtomicU64>,
    fence: Arc<CallFence>,
    /// The time on the fence's clock from which this process may call providers, in nanoseconds.
    valid_from: AtomicU64,
    pub(super) validity: LeaseValidity,
}

impl LeaseRenewal {
    /// Returns the renewal of a lease that this process does not hold yet.
    ///
    /// # Errors
    /// Returns an error if the name of this process cannot be encoded.
    pub(super) fn new(bucket: Bucket, fence: Arc<CallFence>) -> Result<Self, serde_json::Error> {
        let me = LeaseHolder::this_process();
        let value = serde_json::to_vec(&me)?;
        Ok(Self {
            bucket,
            me,
            value: value.into(),
            revision: Arc::default(),
            fence,
            valid_from: AtomicU64::new(0),
            validity: LeaseValidity::not_yet(),
        })
    }

    /// Renews the lease until another process holds it.
    pub(super) async fn run(self) {
        loop {
            tokio::time::sleep(self.pause()).await;
            match tokio::time::timeout(RENEW_INTERVAL, self.renew()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    error!("another worker has the lease");
                    self.fence.close();
                    self.validity.lost.cancel();
                    return;
                }
                Ok(Err(problem)) => self.report_failure(&problem),
                Err(_) => self.report_failure("NATS does not answer"),
            }
        }
    }

    /// Returns the time until the next renewal.
    fn pause(&self) -> Duration {
        let valid_from = Duration::from_nanos(self.valid_from.load(Ordering::Relaxed));
        match valid_from.checked_sub(self.fence.now()) {
            Some(wait) => wait.min(RENEW_INTERVAL),
            None => RENEW_INTERVAL,
        }
    }

    fn report_failure(&self, problem: impl std::fmt::Display) {
        if self.fence.is_open() {
            warn!(%problem, "the worker's lease cannot be renewed yet");
        } else {
            warn!(%problem, "the worker's lease could not be renewed in time, so no call is made until it is");
        }
    }

    /// Renews the lease. Returns false if another process holds it.
    async fn renew(&self) -> Result<bool, bucket::Error> {
        let expected = self.revision.load(Ordering::Relaxed);
        match self.write(expected, Others::Unknown).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // The bucket may have been lost with the store.
            Err(_) => {
                self.bucket.ensure().await?;
            }
        }
        let entry = self.bucket.get(KEY).await?;
        match &entry {
            BucketEntry::Ours { revision, .. } => {
                let is_mine = holder(&entry).is_some_and(|holder| holder == self.me);
                if is_mine {
                    // It was stored although its acknowledgement was lost. When it was sent is not known.
                    self.write(*revision, Others::Unknown).await?;
                }
                Ok(is_mine)
            }
            BucketEntry::Missing { revision } => {
                self.write(*revision, Others::Unknown).await?;
                Ok(true)
            }
            BucketEntry::Foreign { revision } => {
                // It is foreign too if another process made a lost bucket again.
                self.bucket.ensure().await?;
                if let BucketEntry::Ours { .. } = self.bucket.get(KEY).await? {
                    return Ok(false);
                }
                warn!("a value that Forebay did not write was under the worker's lease");
                self.write(*revision, Others::Unknown).await?;
                Ok(true)
            }
        }
    }

    /// Writes the value at the expected revision, and moves the end of the fence. Returns false if the key has another
    /// revision.
    pub(super) async fn write(&self, expected: u64, others: Others) -> Result<bool, bucket::Error> {
        let sent = self.fence.now();
        let value = self.value.clone();
        match self.bucket.put(KEY, value, expected, Some(TTL)).await? {
            BucketWrite::Stored(revision) => {
                self.revision.store(revision, Ordering::Relaxed);
                let may_be_lost = expected == 0 && self.bucket.age() < LONGEST_NEW;
                self.validate(sent, may_be_lost && others == Others::Unknown);
                Ok(true)
            }
            BucketWrite::Conflict => Ok(false),
        }
    }

    /// Moves the end of the fence for a write that was sent at `sent`. If the holder of a lost lease may still call, the
    /// fence opens later.
    fn validate(&self, sent: Duration, others_may_call: bool) {
        let until = u64::try_from((sent + VALIDITY).as_nanos()).unwrap_or(u64::MAX);
        self.validity.until.store(until, Ordering::Relaxed);
        if others_may_call && !self.fence.is_open() {
            let valid_from = sent + VALIDITY;
            let nanos = u64::try_from(valid_from.as_nanos()).unwrap_or(u64::MAX);
            self.valid_from.store(nanos, Ordering::Relaxed);
            info!(
                "the bucket of leases is new, so calls begin in {VALIDITY:?}: a worker whose lease was lost with it may still call"
            );
        }
        let valid_from = Duration::from_nanos(self.valid_from.load(Ordering::Relaxed));
        if sent < valid_from {
            return;
        }
        let was_open = self.fence.is_open();
        self.fence.extend(sent + VALIDITY);
        if !was_open {
            debug!("the worker's lease is valid");
        }
    }
}
