//! Operators' orders in a key-value bucket. They outlive restarts until they are revoked.

use std::time::Duration;

use anyhow::anyhow;
use forebay_schemas::subjects::hex;
use forebay_workers::{CancelledJobs, PauseTarget, WorkerControls};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{debug, warn};

use crate::nats::bucket::{self, Bucket, BucketEntry, BucketSettings, BucketWrite};
use crate::nats::connection::{Connection, Error};

/// The time for which an order is kept if it is not revoked. No job waits longer.
const ORDER_MAX_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The interval of checks that the bucket exists.
const BUCKET_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Tries to replace a key's value while other writers replace it too.
const MAX_CONFLICTS: usize = 8;

/// The bucket of orders, and the same orders as the worker follows them.
#[derive(Debug, Clone)]
pub struct OrderBook {
    bucket: Bucket,
    controls: WorkerControls,
}

/// An order as it is stored.
#[derive(Debug, Serialize, Deserialize)]
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
    /// Reads all stored orders.
    ///
    /// # Errors
    /// Returns an error when the bucket cannot be created or read.
    pub async fn read(connection: &Connection) -> Result<Self, Error> {
        let failed = |problem: String| Error::Unreachable(anyhow!("operators' orders: {problem}"));
        let bucket = open(connection).await;
        let bucket = bucket.map_err(|error| failed(error.to_string()))?;
        let controls = WorkerControls::default();
        let keys = bucket.keys().await;
        for key in keys.map_err(|error| failed(error.to_string()))? {
            let entry = bucket.get(&key).await;
            let value = match entry.map_err(|error| failed(error.to_string()))? {
                BucketEntry::Ours { value, .. } => value,
                BucketEntry::Missing { .. } => continue,
                BucketEntry::Foreign { .. } => {
                    warn!(key, "an order that Forebay did not write is left out");
                    continue;
                }
            };
            match serde_json::from_slice(&value) {
                Ok(ControlOrder::Pause(what)) => controls.pause(what),
                Ok(ControlOrder::Cancel { what, at }) => controls.cancel(what, at),
                Err(error) => warn!(key, %error, "an order is not understood"),
            }
        }
        Ok(Self { bucket, controls })
    }

    /// Makes the bucket again, with all orders, if it is deleted while Forebay runs.
    pub fn keep(&self) -> tokio::task::JoinHandle<()> {
        let book = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(BUCKET_CHECK_INTERVAL).await;
                if let Err(problem) = book.restore_bucket().await {
                    debug!(problem, "the bucket of orders cannot be looked at");
                }
            }
        })
    }

    async fn restore_bucket(&self) -> Result<(), String> {
        let made_again = self.bucket.ensure().await;
        if !made_again.map_err(|error| error.to_string())? {
            return Ok(());
        }
        warn!("the bucket of operators' orders was deleted; writing them again");
        for what in self.controls.paused() {
            self.store_order(&ControlOrder::Pause(what)).await?;
        }
        for (what, at) in self.controls.cancelled() {
            self.store_order(&ControlOrder::Cancel { what, at }).await?;
        }
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
        self.store_order(&ControlOrder::Pause(what)).await
    }

    /// Resumes calls for `what`.
    ///
    /// # Errors
    /// Returns why the stored pause cannot be deleted. The order is in force all the same until a
    /// restart.
    pub async fn resume(&self, what: &PauseTarget) -> Result<(), String> {
        self.controls.resume(what);
        let key = ControlOrder::Pause(what.clone()).key();
        self.replace(&key, None).await
    }

    /// Cancels jobs that were published until `at`.
    ///
    /// # Errors
    /// Returns why the order cannot be stored. It is in force all the same until a restart.
    pub async fn cancel(&self, what: CancelledJobs, at: Timestamp) -> Result<(), String> {
        self.controls.cancel(what.clone(), at);
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
    Bucket::open(&connection.context, &settings, is_order).await
}
