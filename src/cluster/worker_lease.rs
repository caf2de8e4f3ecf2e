//! The lease of the worker: one process per prefix works, and the others stay away.
//!
//! # Why
//!
//! Two workers would each spend the whole of every limit, and the provider would refuse half of their calls. Until limits
//! are shared between nodes, a second process must learn that there is a first.
//!
//! # How
//!
//! The lease is a key in a bucket, with a time to live of 9 seconds. Its holder writes it again every 3 seconds. Each write
//! names the revision that it expects, so that two holders cannot overwrite each other. The time to live is part of the
//! same publish as the value.
//!
//! A process that finds the key waits. If the key is renewed meanwhile, its holder lives, and the process ends with a
//! message that names the host and the process. If it is not renewed for 12 seconds, the key is taken over although it still
//! exists: servers that ignore the time to live would otherwise keep it for ever.
//!
//! A value that Forebay did not write ends no lease. Its holder puts its own value back. A process that waits cannot know
//! whether there is a holder, so it waits for 12 seconds without a sign of one.
//!
//! # Invariants
//!
//! - The lease is lost when another process holds the key, and only then. While NATS is away no process can take
//!   it, so the holder goes on. If the key is gone afterwards, the holder creates it again.
//! - A process that has lost the lease stops its work.
//! - A lease is taken or renewed only at the expected revision.
//! - A process that ends in order releases the lease, but only its own revision of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::nats::bucket::{self, Bucket, BucketEntry, BucketSettings, BucketWrite};
use crate::nats::connection::{Connection, Error};

/// The key of the lease.
const KEY: &str = "worker";
/// Time to live of the key. Without renewal the lease is free after it. Servers count in whole
/// seconds.
const TTL: Duration = Duration::from_secs(9);
/// The interval at which the holder renews the lease.
const RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// The time without renewal after which a lease is taken over, even if its key still exists.
const LEASE_TIMEOUT: Duration = Duration::from_secs(12);
/// The interval at which a process that wants the lease looks at it.
const CLAIM_INTERVAL: Duration = Duration::from_millis(500);

/// The holder of a lease. It is named in the message of a second process, and identifies one's own
/// key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseHolder {
    host: String,
    pid: u32,
    /// Distinguishes two processes with the same host name and process number.
    nonce: u64,
}

impl LeaseHolder {
    fn this_process() -> Self {
        let uname = rustix::system::uname();
        Self {
            host: uname.nodename().to_string_lossy().into_owned(),
            pid: std::process::id(),
            nonce: rand::rng().random(),
        }
    }
}

/// The lease of the worker, held by this process.
#[derive(Debug)]
pub struct WorkerLease {
    bucket: Bucket,
    lost: CancellationToken,
    renewal: tokio::task::JoinHandle<()>,
    /// The key's revision, as far as it is known.
    revision: Arc<AtomicU64>,
}

impl WorkerLease {
    /// Takes the lease. Waits for a lease whose holder has died.
    ///
    /// # Errors
    /// Returns an error when another worker holds it, or when NATS does not answer.
    pub async fn take(connection: &Connection) -> Result<Self, Error> {
        let failed = |problem: String| Error::Unreachable(anyhow!("the worker's seat: {problem}"));
        let bucket = open(connection).await;
        let bucket = bucket.map_err(|error| failed(error.to_string()))?;
        let me = LeaseHolder::this_process();
        let value = serde_json::to_vec(&me).map_err(|error| failed(error.to_string()))?;
        let value = Bytes::from(value);
        let mut claim = LeaseClaim::default();
        let revision = loop {
            let entry = bucket.get(KEY).await;
            let entry = entry.map_err(|error| failed(error.to_string()))?;
            match claim.judge(&entry) {
                ClaimStep::Take => {
                    let write = bucket
                        .put(KEY, value.clone(), entry.revision(), Some(TTL))
                        .await;
                    match write.map_err(|error| failed(error.to_string()))? {
                        BucketWrite::Stored(revision) => break revision,
                        // Another process was faster, or a foreign value came. The next look decides.
                        BucketWrite::Conflict => {}
                    }
                }
                ClaimStep::Wait => {}
                ClaimStep::GiveUp => return Err(taken_error(connection, holder(&entry))),
            }
            tokio::time::sleep(CLAIM_INTERVAL).await;
        };
        let (lost, revision) = (CancellationToken::new(), Arc::new(AtomicU64::new(revision)));
        let renewal = LeaseRenewal {
            bucket: bucket.clone(),
            me,
            value,
            revision: Arc::clone(&revision),
        };
        let renewal = tokio::spawn(renewal.run(lost.clone()));
        Ok(Self {
            bucket,
            lost,
            renewal,
            revision,
        })
    }

    /// Returns true if a process holds the lease, or if its key cannot be read. Returns false if
    /// the bucket does not exist.
    pub async fn is_taken(connection: &Connection) -> bool {
        let stream = format!("KV_{}", connection.names.nodes_bucket());
        match connection.context.get_stream(&stream).await {
            Ok(_) => match open(connection).await {
                Ok(bucket) => !matches!(bucket.get(KEY).await, Ok(BucketEntry::Missing { .. })),
                Err(_) => true,
            },
            Err(_) => false,
        }
    }

    /// Returns when the lease is lost. This process must then stop its work.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns a token that is cancelled when the lease is lost.
    pub fn loss_token(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Releases the lease, unless another process holds it already.
    pub async fn release(self) {
        self.renewal.abort();
        if self.lost.is_cancelled() {
            return;
        }
        let revision = self.revision.load(Ordering::Relaxed);
        let purged = self.bucket.purge(KEY, revision);
        match tokio::time::timeout(RENEW_INTERVAL, purged).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, "the worker's seat stays taken for some seconds"),
            Err(_) => {
                warn!("NATS does not answer, so the worker's seat stays taken for some seconds")
            }
        }
    }
}

/// Opens the bucket of leases. Creates it if it does not exist.
async fn open(connection: &Connection) -> Result<Bucket, bucket::Error> {
    let settings = BucketSettings {
        name: connection.names.nodes_bucket(),
        max_age: Duration::ZERO,
        has_ttl: true,
    };
    let is_holder = |_: &str, value: &[u8]| serde_json::from_slice::<LeaseHolder>(value).is_ok();
    Bucket::open(&connection.context, &settings, is_holder).await
}

/// The next step of a process that wants the lease.
#[derive(Debug, PartialEq, Eq)]
enum ClaimStep {
    /// It may take the lease at the revision that it sees.
    Take,
    /// It cannot know yet.
    Wait,
    /// A living process holds the lease.
    GiveUp,
}

/// The signs of a holder that a process saw which wants the lease.
#[derive(Debug, Default)]
struct LeaseClaim {
    /// The revision of the first holder's value that was seen.
    holder: Option<u64>,
    /// When the last sign of a holder, or the first foreign value, was seen.
    since: Option<Instant>,
}

impl LeaseClaim {
    /// Decides by the entry that is seen now.
    fn judge(&mut self, entry: &BucketEntry) -> ClaimStep {
        match entry {
            BucketEntry::Missing { .. } => ClaimStep::Take,
            BucketEntry::Ours { revision, .. } => match self.holder {
                // A living holder has renewed it meanwhile.
                Some(seen) if seen != *revision => ClaimStep::GiveUp,
                Some(_) => self.take_after_timeout(),
                None => {
                    (self.holder, self.since) = (Some(*revision), Some(Instant::now()));
                    ClaimStep::Wait
                }
            },
            BucketEntry::Foreign { .. } => {
                self.since.get_or_insert_with(Instant::now);
                self.take_after_timeout()
            }
        }
    }

    fn take_after_timeout(&self) -> ClaimStep {
        match self.since {
            Some(since) if since.elapsed() > LEASE_TIMEOUT => ClaimStep::Take,
            _ => ClaimStep::Wait,
        }
    }
}

fn taken_error(connection: &Connection, by: Option<LeaseHolder>) -> Error {
    let by = by.map_or_else(String::new, |by| {
        format!(" (host {}, process {})", by.host, by.pid)
    });
    Error::Usage(anyhow!(
        "another worker serves the prefix `{}`{by}; one process at a time may spend its limits",
        connection.names.prefix()
    ))
}

fn holder(entry: &BucketEntry) -> Option<LeaseHolder> {
    match entry {
        BucketEntry::Ours { value, .. } => serde_json::from_slice(value).ok(),
        _ => None,
    }
}

struct LeaseRenewal {
    bucket: Bucket,
    me: LeaseHolder,
    value: Bytes,
    revision: Arc<AtomicU64>,
}

impl LeaseRenewal {
    /// Renews the lease until another process holds it.
    ///
    /// While NATS is away no process can take the lease, so this one keeps it.
    async fn run(self, lost: CancellationToken) {
        loop {
            tokio::time::sleep(RENEW_INTERVAL).await;
            match self.renew().await {
                Ok(true) => {}
                Ok(false) => {
                    error!("another worker has the seat");
                    lost.cancel();
                    return;
                }
                Err(problem) => {
                    warn!(%problem, "the worker's seat cannot be renewed yet");
                    // The bucket may have been lost with the store.
                    if let Err(problem) = self.bucket.ensure().await {
                        debug!(%problem, "the bucket of the seat cannot be made again yet");
                    }
                }
            }
        }
    }

    /// Renews the lease. Returns false if another process holds it.
    async fn renew(&self) -> Result<bool, bucket::Error> {
        let expected = self.revision.load(Ordering::Relaxed);
        if self.write(expected).await? {
            return Ok(true);
        }
        let entry = self.bucket.get(KEY).await?;
        match &entry {
            BucketEntry::Ours { revision, .. } => {
                // One's own value was stored although its acknowledgement was lost.
                let is_mine = holder(&entry).is_some_and(|holder| holder == self.me);
                if is_mine {
                    self.revision.store(*revision, Ordering::Relaxed);
                }
                Ok(is_mine)
            }
            BucketEntry::Missing { revision } => {
                self.write(*revision).await?;
                Ok(true)
            }
            BucketEntry::Foreign { revision } => {
                // It is foreign too if another process made a lost bucket again.
                self.bucket.ensure().await?;
                if let BucketEntry::Ours { .. } = self.bucket.get(KEY).await? {
                    return Ok(false);
                }
                warn!("a value that Forebay did not write was under the worker's seat");
                self.write(*revision).await?;
                Ok(true)
            }
        }
    }

    /// Writes the value at the expected revision. Returns false if the key has another one.
    async fn write(&self, expected: u64) -> Result<bool, bucket::Error> {
        let value = self.value.clone();
        match self.bucket.put(KEY, value, expected, Some(TTL)).await? {
            BucketWrite::Stored(revision) => {
                self.revision.store(revision, Ordering::Relaxed);
                Ok(true)
            }
            BucketWrite::Conflict => Ok(false),
        }
    }
}
