//! The lease of the worker: one process per prefix works, and the others stay away or stand by.
//!
//! # Why
//!
//! Two workers would each spend the whole of every limit, and the provider would refuse half of their calls. Until limits
//! are shared between nodes, a second process must learn that there is a first.
//!
//! # How
//!
//! The lease is a key in a bucket, with a time to live of 6 seconds. Its holder writes it again every 2 seconds. Each write
//! names the revision that it expects, so that two holders cannot overwrite each other. The time to live is part of the
//! same publish as the value.
//!
//! The holder may call providers for 5 seconds from the moment at which it sent the last write that was stored. The
//! [`CallFence`] holds it to that.
//!
//! A process that finds the key waits. If the key is renewed meanwhile, its holder lives. The process then ends with a
//! message that names the holder, or stands by. If the key is not renewed for 8 seconds, it is taken over although it
//! still exists: servers that ignore the time to live would otherwise keep it for ever. A holder that has ended on the
//! same machine is not waited for.
//!
//! A value that Forebay did not write ends no lease. Its holder puts its own value back. A process that waits cannot know
//! whether there is a holder, so it waits for 8 seconds without a sign of one.
//!
//! A bucket that was made less than 60 seconds ago may be one that was lost with the store. Who finds no lease in it takes
//! the lease at once, but makes no call for 5 seconds: the holder of a lost lease may still call for so long.
//!
//! # Invariants
//!
//! - The lease is lost when another process holds the key, and only then. While NATS is away no process can take
//!   it. If the key is gone afterwards, the holder creates it again.
//! - A process whose lease was not renewed in time makes no call until it is renewed.
//! - A process that has lost the lease stops its work.
//! - A lease is taken or renewed only at the expected revision.
//! - A process that ends in order releases the lease, but only its own revision of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use forebay_schemas::Names;
use forebay_workers::fence::CallFence;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::lease_claim::{ClaimStep, LeaseClaim, holder};
use super::lease_holder::LeaseHolder;
use super::lease_renewal::{KEY, LeaseRenewal, LeaseValidity, RENEW_INTERVAL, TTL};
use crate::nats::bucket::{self, Bucket, BucketEntry, BucketSettings};
use crate::nats::connection::{Connection, Error};

/// The time without renewal after which a lease is taken over, even if its key still exists.
const LEASE_TIMEOUT: Duration = Duration::from_secs(8);
/// The interval at which a process that wants the lease looks at it.
const CLAIM_INTERVAL: Duration = Duration::from_millis(250);
/// The time for which a process that wants the lease retries a failed look at it.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// The conduct of a process that finds a living holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenHeld {
    /// It ends.
    GiveUp,
    /// It waits until the lease is free.
    StandBy,
}

/// The lease of the worker, held by this process.
#[derive(Debug)]
pub struct WorkerLease {
    bucket: Bucket,
    fence: Arc<CallFence>,
    validity: LeaseValidity,
    renewal: tokio::task::JoinHandle<()>,
    /// The key's revision, as far as it is known.
    revision: Arc<AtomicU64>,
}

impl WorkerLease {
    /// Takes the lease. Waits for a lease whose holder has died. `fence` is open while the lease is valid.
    ///
    /// # Errors
    /// Returns an error when another worker holds it and `when_held` is [`WhenHeld::GiveUp`], or when NATS does not
    /// answer.
    pub async fn take(
        connection: &Connection,
        fence: Arc<CallFence>,
        when_held: WhenHeld,
    ) -> Result<Self, Error> {
        let failed = |problem: String| Error::Unreachable(anyhow!("the worker's lease: {problem}"));
        let bucket = open_patiently(connection).await;
        let bucket = bucket.map_err(|error| failed(error.to_string()))?;
        let renewal = LeaseRenewal::new(bucket.clone(), Arc::clone(&fence));
        let renewal = renewal.map_err(|error| failed(error.to_string()))?;
        let mut claimant = Claimant::new(connection, &renewal, when_held);
        claimant.take().await?;
        let (validity, revision) = (renewal.validity.clone(), Arc::clone(&renewal.revision));
        let renewal = tokio::spawn(renewal.run());
        Ok(Self {
            bucket,
            fence,
            validity,
            renewal,
            revision,
        })
    }

    /// Returns true if a process holds the lease, or if its key cannot be read. Returns false if
    /// the bucket does not exist.
    pub async fn is_taken(connection: &Connection) -> bool {
        let stream = Names::key_value_stream(&connection.names.nodes_bucket());
        match connection.context.get_stream(&stream).await {
            Ok(_) => match open(connection).await {
                Ok(bucket) => !matches!(bucket.get(KEY).await, Ok(BucketEntry::Missing { .. })),
                Err(_) => true,
            },
            Err(_) => false,
        }
    }

    /// Returns how long this process holds the lease.
    pub fn validity(&self) -> LeaseValidity {
        self.validity.clone()
    }

    /// Releases the lease, unless another process holds it already. No call is made from now on.
    pub async fn release(self) {
        self.renewal.abort();
        self.fence.close();
        if self.validity.is_lost() {
            return;
        }
        let revision = self.revision.load(Ordering::Relaxed);
        let purged = self.bucket.purge(KEY, revision);
        match tokio::time::timeout(RENEW_INTERVAL, purged).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, "the worker's lease stays taken for some seconds"),
            Err(_) => {
                warn!("NATS does not answer, so the worker's lease stays taken for some seconds")
            }
        }
    }
}

impl Drop for WorkerLease {
    /// A start that fails after it took the lease makes no call any more, and lets the lease end.
    fn drop(&mut self) {
        self.renewal.abort();
        self.fence.close();
    }
}

/// Opens the bucket of leases, and retries that for [`LOOK_PATIENCE`].
async fn open_patiently(connection: &Connection) -> Result<Bucket, bucket::Error> {
    let began = Instant::now();
    loop {
        match open(connection).await {
            Err(problem) if began.elapsed() < LOOK_PATIENCE => {
                debug!(%problem, "the bucket of leases cannot be opened yet");
                tokio::time::sleep(CLAIM_INTERVAL).await;
            }
            ended => return ended,
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
    Bucket::open(connection, &settings, is_holder).await
}

/// A process that wants the lease.
struct Claimant<'a> {
    connection: &'a Connection,
    renewal: &'a LeaseRenewal,
    when_held: WhenHeld,
    claim: LeaseClaim,
    /// The last time at which the lease could be looked at.
    last_look: Instant,
    /// The holder for which this process stands by, as far as it was reported.
    reported: Option<LeaseHolder>,
}

impl<'a> Claimant<'a> {
    fn new(connection: &'a Connection, renewal: &'a LeaseRenewal, when_held: WhenHeld) -> Self {
        Self {
            connection,
            renewal,
            when_held,
            claim: LeaseClaim::new(TTL, LEASE_TIMEOUT),
            last_look: Instant::now(),
            reported: None,
        }
    }

    /// Returns once the lease is taken.
    async fn take(&mut self) -> Result<(), Error> {
        loop {
            match self.look().await {
                Ok(true) => return Ok(()),
                Ok(false) => self.last_look = Instant::now(),
                Err(LookError::Held(by)) if self.when_held == WhenHeld::GiveUp => {
                    return Err(taken_error(self.connection, by));
                }
                Err(LookError::Held(by)) => self.report(by),
                Err(LookError::Bucket(problem)) => self.retry_look(problem).await?,
            }
            tokio::time::sleep(CLAIM_INTERVAL).await;
        }
    }

    /// Looks at the lease once. Returns true if it is taken now.
    async fn look(&mut self) -> Result<bool, LookError> {
        let mut entry = self.renewal.bucket.get(KEY).await?;
        if let BucketEntry::Foreign { .. } = entry {
            // It is foreign too if another process made a lost bucket again.
            self.renewal.bucket.ensure().await?;
            entry = self.renewal.bucket.get(KEY).await?;
        }
        match self.claim.judge(&entry) {
            // After a conflict another process was faster, or a foreign value came. The next look decides.
            ClaimStep::Take => {
                let others = self.claim.others();
                Ok(self.renewal.write(entry.revision(), others).await?)
            }
            ClaimStep::Wait => Ok(false),
            ClaimStep::Held => Err(LookError::Held(holder(&entry))),
        }
    }

    /// Reports the holder for which this process stands by, once.
    fn report(&mut self, by: Option<LeaseHolder>) {
        self.last_look = Instant::now();
        if self.reported.is_some() && self.reported == by {
            return;
        }
        let prefix = self.connection.names.prefix();
        match &by {
            Some(by) => info!(prefix, "standing by for another worker: {by}"),
            None => info!(prefix, "standing by for another worker"),
        }
        self.reported = by;
    }

    /// Returns an error if the lease can no longer be looked at, and this process does not stand by.
    async fn retry_look(&self, problem: bucket::Error) -> Result<(), Error> {
        let elapsed = self.last_look.elapsed();
        if self.when_held == WhenHeld::GiveUp && elapsed > LOOK_PATIENCE {
            return Err(Error::Unreachable(anyhow!("the worker's lease: {problem}")));
        }
        debug!(%problem, "the worker's lease cannot be looked at yet");
        // The bucket may have been lost with the store.
        if let Err(problem) = self.renewal.bucket.ensure().await {
            debug!(%problem, "the bucket of the lease cannot be made again yet");
        }
        Ok(())
    }
}

/// The reason why a look at the lease did not take it.
enum LookError {
    /// A living process holds it.
    Held(Option<LeaseHolder>),
    /// The bucket cannot be read or written now.
    Bucket(bucket::Error),
}

impl From<bucket::Error> for LookError {
    fn from(error: bucket::Error) -> Self {
        Self::Bucket(error)
    }
}

fn taken_error(connection: &Connection, by: Option<LeaseHolder>) -> Error {
    let by = by.map_or_else(String::new, |by| format!(" ({by})"));
    Error::Usage(anyhow!(
        "another worker serves the prefix `{}`{by}; one process at a time may spend its limits. To take over when it ends, use \
         `forebay serve --standby`",
        connection.names.prefix()
    ))
}
