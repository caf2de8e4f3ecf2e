//! Operators' orders in a key-value bucket. They outlive restarts until they are revoked.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use forebay_schemas::subjects::hex;
use forebay_workers::{CancelledJobs, PauseTarget, WorkerControls};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use crate::cluster::state_copies::{StateCopies, StateCopy};
use crate::nats::bucket::{self, Bucket, BucketEntry, BucketSettings, BucketWrite};
use crate::nats::connection::{Connection, Error};

/// The time for which an order is kept if it is not revoked. No job waits longer.
const ORDER_MAX_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The interval of checks that the bucket exists.
const BUCKET_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Tries to replace a key's value while other writers replace it too.
const MAX_CONFLICTS: usize = 8;

/// The key of the copy of all orders.
const COPY: &str = "all";

/// The bucket of orders, and the same orders as the worker follows them.
#[derive(Debug, Clone)]
pub struct OrderBook {
    bucket: Bucket,
    copies: StateCopies,
    controls: WorkerControls,
}

/// An order as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ControlOrder {
    Pause(PauseTarget),
    Cancel { what: CancelledJobs, at: Timestamp },
}

impl ControlOrder {
    /// Returns the key under which the order is stored. It is a hash, since ids may contain
    /// characters that keys cannot.
    pub(crate) fn key(&self) -> String {
        match self {
            ControlOrder::Pause(what) => key_of("pause", what),
            ControlOrder::Cancel { what, .. } => key_of("cancel", what),
        }
    }
}

impl OrderBook {
    /// Reads all stored orders. Where a foreign value replaced one, or the bucket was lost, its copy in the data directory
    /// counts.
    ///
    /// # Errors
    /// Returns an error when the bucket cannot be created or read.
    pub async fn read(connection: &Connection, data_dir: &Path) -> Result<Self, Error> {
        let failed = |problem: String| Error::Unreachable(anyhow!("operators' orders: {problem}"));
        let copies = StateCopies::open(data_dir, &connection.names.controls_bucket());
        let copies = copies.map_err(|error| Error::Usage(error.into()))?;
        let copy: Option<StateCopy<Vec<ControlOrder>>> = copies.read(COPY);
        let bucket = open(connection).await;
        let bucket = bucket.map_err(|error| failed(error.to_string()))?;
        let book = Self {
            bucket,
            copies,
            controls: WorkerControls::default(),
        };
        let is_of_bucket = |copy: &StateCopy<_>| copy.bucket_made == book.bucket.made_at();
        let was_made_again = copy.as_ref().is_some_and(|copy| !is_of_bucket(copy));
        let copied = copy.map(|copy| copy.value).unwrap_or_default();
        let mut has_own = false;
        let keys = book.bucket.keys().await;
        for key in keys.map_err(|error| failed(error.to_string()))? {
            let entry = book.bucket.get(&key).await;
            let entry = entry.map_err(|error| failed(error.to_string()))?;
            has_own |= !matches!(entry, BucketEntry::Foreign { .. });
            match entry {
                BucketEntry::Ours { value, .. } => match serde_json::from_slice(&value) {
                    Ok(order) => book.follow(order),
                    Err(error) => warn!(key, %error, "an order is not understood"),
                },
                BucketEntry::Missing { .. } => {}
                BucketEntry::Foreign { .. } => {
                    let order = copied.iter().find(|order| order.key() == key).cloned();
                    book.replace_foreign(&key, order).await.map_err(failed)?;
                }
            }
        }
        // Orders that were given since the bucket was made again count, and those that were withdrawn do not come back.
        if was_made_again && !has_own && !copied.is_empty() {
            warn!(
                "the bucket of operators' orders was lost; its copy in the data directory counts"
            );
            copied.into_iter().for_each(|order| book.follow(order));
            book.store_all().await.map_err(failed)?;
        }
        book.write_copy();
        Ok(book)
    }

    /// Has the worker follow an order.
    fn follow(&self, order: ControlOrder) {
        match order {
            ControlOrder::Pause(what) => self.controls.pause(what),
            ControlOrder::Cancel { what, at } => self.controls.cancel(what, at),
        }
    }

    /// Replaces a value that Forebay did not write by the order that was there, or deletes it.
    async fn replace_foreign(&self, key: &str, order: Option<ControlOrder>) -> Result<(), String> {
        let Some(order) = order else {
            warn!(key, "an order that Forebay did not write is deleted");
            return self.replace(key, None).await;
        };
        warn!(
            key,
            "an order was replaced by a value that Forebay did not write; its copy in the data directory counts"
        );
        self.store_order(&order).await?;
        self.follow(order);
        Ok(())
    }

    /// Returns the orders that the worker follows, as they are stored.
    fn in_force(&self) -> Vec<ControlOrder> {
        let pauses = self.controls.paused().into_iter().map(ControlOrder::Pause);
        let cancellations = self.controls.cancelled().into_iter();
        let cancellations = cancellations.map(|(what, at)| ControlOrder::Cancel { what, at });
        pauses.chain(cancellations).collect()
    }

    /// Writes the copy of all orders.
    fn write_copy(&self) {
        let copy = StateCopy {
            bucket_made: self.bucket.made_at(),
            value: self.in_force(),
        };
        self.copies.write(COPY, &copy);
    }

    async fn store_all(&self) -> Result<(), String> {
        for order in self.in_force() {
            self.store_order(&order).await?;
        }
        Ok(())
    }

    /// Makes the bucket again, with all orders, if it is deleted while Forebay runs, and puts back orders that foreign values
    /// replace.
    pub fn keep(&self) -> tokio::task::JoinHandle<()> {
        let book = self.clone();
        tokio::spawn(async move {
            let mut last_seen = None;
            loop {
                tokio::time::sleep(BUCKET_CHECK_INTERVAL).await;
                if let Err(problem) = book.restore(&mut last_seen).await {
                    debug!(problem, "the bucket of orders cannot be looked at");
                }
            }
        })
    }

    /// Makes the bucket again if it is gone, and stores each order whose value is missing or was replaced by a foreign one.
    /// Does nothing if the bucket is as it was at the last look.
    async fn restore(&self, last_seen: &mut Option<u64>) -> Result<(), String> {
        let text = |error: bucket::Error| error.to_string();
        let made_again = self.bucket.ensure().await.map_err(text)?;
        if made_again {
            warn!("the bucket of operators' orders was deleted; writing them again");
            *last_seen = None;
        }
        let seen = self.bucket.last_sequence().await.map_err(text)?;
        if *last_seen == Some(seen) {
            return Ok(());
        }
        for order in self.in_force() {
            let entry = self.bucket.get(&order.key()).await.map_err(text)?;
            if !matches!(entry, BucketEntry::Ours { .. }) {
                self.store_order(&order).await?;
            }
        }
        self.write_copy();
        *last_seen = Some(seen);
        Ok(())
    }

    /// Returns the orders that the worker follows.
    pub fn controls(&self) -> &WorkerControls {
        &self.controls
    }

    /// Stops calls for `what` until [`OrderBook::resume`].
    ///
    /// # Errors
    /// Returns why the order cannot be stored. It is in force all the same until a restart.
    pub async fn pause(&self, what: PauseTarget) -> Result<(), String> {
        self.controls.pause(what.clone());
        self.write_copy();
        self.store_order(&ControlOrder::Pause(what)).await
    }

    /// Resumes calls for `what`.
    ///
    /// # Errors
    /// Returns why the stored pause cannot be deleted. The order is in force all the same until a
    /// restart.
    pub async fn resume(&self, what: &PauseTarget) -> Result<(), String> {
        self.controls.resume(what);
        self.write_copy();
        let key = ControlOrder::Pause(what.clone()).key();
        self.replace(&key, None).await
    }

    /// Cancels jobs that were published until `at`.
    ///
    /// # Errors
    /// Returns why the order cannot be stored. It is in force all the same until a restart.
    pub async fn cancel(&self, what: CancelledJobs, at: Timestamp) -> Result<(), String> {
        self.controls.cancel(what.clone(), at);
        self.write_copy();
        self.store_order(&ControlOrder::Cancel { what, at }).await
    }

    async fn store_order(&self, order: &ControlOrder) -> Result<(), String> {
        let value = serde_json::to_vec(order).map_err(|error| error.to_string())?;
        self.replace(&order.key(), Some(value)).await
    }

    /// Writes a value under a key, or deletes it, whatever is there.
    async fn replace(&self, key: &str, value: Option<Vec<u8>>) -> Result<(), String> {
        let text = |error: bucket::Error| error.to_string();
        for _ in 0..MAX_CONFLICTS {
            let revision = self.bucket.get(key).await.map_err(text)?.revision();
            let write = match value.clone() {
                Some(value) => self.bucket.put(key, value.into(), revision, None).await,
                None => self.bucket.purge(key, revision).await,
            };
            if let BucketWrite::Stored(_) = write.map_err(text)? {
                return Ok(());
            }
        }
        Err("other values come all the time".to_owned())
    }
}

fn key_of(verb: &str, what: &impl Serialize) -> String {
    let text = serde_json::to_vec(what).unwrap_or_default();
    format!("{verb}.{}", hex(&Sha256::digest(text)[..16]))
}

/// Opens the bucket. Creates it if it does not exist.
pub(crate) async fn open(connection: &Connection) -> Result<Bucket, bucket::Error> {
    let settings = BucketSettings {
        name: connection.names.controls_bucket(),
        max_age: ORDER_MAX_AGE,
        has_ttl: false,
    };
    let is_order = |key: &str, value: &[u8]| {
        let order = serde_json::from_slice::<ControlOrder>(value);
        order.is_ok_and(|order| order.key() == key)
    };
    Bucket::open(connection, &settings, is_order).await
}
