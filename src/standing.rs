//! What of accounts outlives a process, in a key-value bucket: read before the worker starts, and written
//! while it works.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::kv::{self, Store};
use forebay_workers::quota::Standing;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::connection::{Connection, Error};
use crate::control::Worker;

/// How often it is looked whether something changed.
const LOOK: Duration = Duration::from_millis(250);

/// The bucket, and what it holds of each account.
#[derive(Debug)]
pub struct Standings {
    store: Store,
    written: HashMap<String, Written>,
}

#[derive(Debug, Default)]
struct Written {
    standing: Standing,
    /// Of the entry; 0 if there is none.
    revision: u64,
}

impl Standings {
    /// Reads what a process before this one left of these accounts. What cannot be understood is not known.
    ///
    /// # Errors
    /// When the bucket cannot be made or read.
    pub async fn read(connection: &Connection, quotas: Vec<String>) -> Result<Self, Error> {
        let failed = |problem: String| Error::Unreachable(anyhow!("what is known of accounts: {problem}"));
        let bucket = connection.names.quotas_bucket();
        let config = kv::Config { bucket, history: 1, ..kv::Config::default() };
        let made = connection.context.create_or_update_key_value(config).await;
        let store = made.map_err(|error| failed(error.to_string()))?;
        let mut written = HashMap::new();
        for quota in quotas {
            let entry = store.entry(quota.as_str()).await.map_err(|error| failed(error.to_string()))?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let standing = entry.filter(|entry| entry.operation == kv::Operation::Put).map(|entry| {
                serde_json::from_slice(&entry.value).unwrap_or_else(|error| {
                    warn!(quota, %error, "what was known of this account is not understood");
                    Standing::default()
                })
            });
            written.insert(quota, Written { standing: standing.unwrap_or_default(), revision });
        }
        Ok(Self { store, written })
    }

    /// What is known of each account.
    pub fn known(&self) -> HashMap<String, Standing> {
        self.written.iter().map(|(quota, written)| (quota.clone(), written.standing.clone())).collect()
    }

    /// Writes down what changes until `stop`, and then what is left.
    pub async fn keep(mut self, worker: Arc<Worker>, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => self.write(&worker, true).await,
                () = stop.cancelled() => break,
            }
        }
        self.write(&worker, false).await;
    }

    /// Writes down what has changed; with `ahead`, what may be spent until the next time too.
    async fn write(&mut self, worker: &Worker, ahead: bool) {
        for (quota, standing) in worker.standings(ahead) {
            let written = self.written.entry(quota.clone()).or_default();
            if written.standing == standing {
                worker.confirm(&quota);
                continue;
            }
            let Ok(value) = serde_json::to_vec(&standing) else { continue };
            match self.store.update(quota.as_str(), value.into(), written.revision).await {
                Ok(revision) => {
                    *written = Written { standing, revision };
                    worker.confirm(&quota);
                }
                Err(error) => {
                    warn!(quota, %error, "what is known of this account cannot be written down yet");
                    // Somebody else may have written; whoever works next must not be stopped by that.
                    if let Ok(entry) = self.store.entry(quota.as_str()).await {
                        written.revision = entry.map_or(0, |entry| entry.revision);
                    }
                }
            }
        }
    }
}
