//! Operators' orders in a key-value bucket. They outlive restarts until they are revoked.

use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::context::CreateKeyValueError;
use async_nats::jetstream::kv::{self, Store};
use forebay_schemas::subjects::hex;
use forebay_workers::{CancelledJobs, PauseTarget, WorkerControls};
use futures::TryStreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::nats::connection::{Connection, Error};

/// The time for which an order is kept if it is not revoked. No job waits longer.
const ORDER_MAX_AGE: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// The bucket of orders, and the same orders as the worker follows them.
#[derive(Debug, Clone)]
pub struct OrderBook {
    store: Store,
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
        let store = make(connection)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let controls = WorkerControls::default();
        let keys = store
            .keys()
            .await
            .map_err(|error| failed(error.to_string()))?;
        let keys: Vec<_> = keys
            .try_collect()
            .await
            .map_err(|error| failed(error.to_string()))?;
        for key in keys {
            let value = store
                .get(key.as_str())
                .await
                .map_err(|error| failed(error.to_string()))?;
            match value.as_deref().map(serde_json::from_slice) {
                Some(Ok(ControlOrder::Pause(what))) => controls.pause(what),
                Some(Ok(ControlOrder::Cancel { what, at })) => controls.cancel(what, at),
                Some(Err(error)) => warn!(key, %error, "an order is not understood"),
                None => {}
            }
        }
        Ok(Self { store, controls })
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
        self.store
            .purge(ControlOrder::Pause(what.clone()).key())
            .await
            .map_err(|error| error.to_string())
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
        self.store
            .put(order.key(), value.into())
            .await
            .map_err(|error| error.to_string())?;
        Ok(())
    }
}

fn key_of(verb: &str, what: &impl Serialize) -> String {
    let text = serde_json::to_vec(what).unwrap_or_default();
    format!("{verb}.{}", hex(&Sha256::digest(text)[..16]))
}

/// Creates the bucket if it does not exist.
pub(crate) async fn make(connection: &Connection) -> Result<Store, CreateKeyValueError> {
    let bucket = connection.names.controls_bucket();
    let config = kv::Config {
        bucket,
        history: 1,
        max_age: ORDER_MAX_AGE,
        ..kv::Config::default()
    };
    connection.context.create_or_update_key_value(config).await
}
