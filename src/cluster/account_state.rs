//! What of accounts and of teams' limits outlives a process, in a key-value bucket: read before the worker
//! starts, and written while it works.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::context::CreateKeyValueError;
use async_nats::jetstream::kv::{self, Store};
use forebay_workers::accounts::AccountState;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::nats::connection::{Connection, Error};
use crate::worker::Worker;

/// How often it is looked whether something changed.
const CHANGE_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How often all is written, changed or not.
const FULL_WRITE_INTERVAL: Duration = Duration::from_secs(60);

/// How many may ask at once that all be written down; more wait.
const ASKED: usize = 16;

/// The way to have it written down at once what an operator did.
#[derive(Debug, Clone)]
pub struct StateWriter(mpsc::Sender<oneshot::Sender<bool>>);

impl StateWriter {
    /// Has all that is known written down; false if that cannot be done now.
    pub async fn write(&self) -> bool {
        let (done, written) = oneshot::channel();
        self.0.send(done).await.is_ok() && written.await == Ok(true)
    }
}

/// Who asked that all be written down.
pub type FlushRequest = mpsc::Receiver<oneshot::Sender<bool>>;

/// The two ends of the way to have it written down what an operator did.
pub fn writer() -> (StateWriter, FlushRequest) {
    let (ask, asked) = mpsc::channel(ASKED);
    (StateWriter(ask), asked)
}

/// The bucket, and what it holds under each name.
#[derive(Debug)]
pub struct AccountStates {
    connection: Connection,
    store: Store,
    written: HashMap<String, WrittenState>,
}

#[derive(Debug, Default)]
struct WrittenState {
    /// As far as is known.
    standing: Option<AccountState>,
    /// Of the entry; 0 if there is none.
    revision: u64,
}

impl AccountStates {
    /// Reads what a process before this one left under these names. What cannot be understood is not known.
    ///
    /// # Errors
    /// When the bucket cannot be made or read.
    pub async fn read(connection: &Connection, names: Vec<String>) -> Result<Self, Error> {
        let failed =
            |problem: String| Error::Unreachable(anyhow!("what is known of limits: {problem}"));
        let store = make(connection)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut written = HashMap::new();
        for name in names {
            let entry = store
                .entry(name.as_str())
                .await
                .map_err(|error| failed(error.to_string()))?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let standing = entry
                .filter(|entry| entry.operation == kv::Operation::Put)
                .map(|entry| {
                    serde_json::from_slice(&entry.value).unwrap_or_else(|error| {
                        warn!(name, %error, "what was known of these limits is not understood");
                        AccountState::default()
                    })
                });
            written.insert(name, WrittenState { standing, revision });
        }
        Ok(Self {
            connection: connection.clone(),
            store,
            written,
        })
    }

    /// What is known, by name.
    pub fn known(&self) -> HashMap<String, AccountState> {
        let known = self.written.iter();
        known
            .filter_map(|(name, written)| Some((name.clone(), written.standing.clone()?)))
            .collect()
    }

    /// Writes down what changes until `stop`, at once when `asked`, and then what is left; nothing any more
    /// once somebody else has the work, whose word it would replace.
    pub async fn keep(
        mut self,
        worker: Arc<Worker>,
        mut asked: FlushRequest,
        stop: CancellationToken,
        unseated: CancellationToken,
    ) {
        let written = async {
            let mut look = tokio::time::interval(CHANGE_CHECK_INTERVAL);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut anew = tokio::time::interval(FULL_WRITE_INTERVAL);
            loop {
                tokio::select! {
                    _ = look.tick() => { self.write(&worker, true).await; }
                    _ = anew.tick() => self.doubt(),
                    Some(done) = asked.recv() => {
                        self.doubt();
                        let written = self.write(&worker, true).await || self.write(&worker, true).await;
                        // Whoever asked may have gone.
                        let _ = done.send(written);
                    }
                    () = stop.cancelled() => break,
                }
            }
            self.doubt();
            if !self.write(&worker, false).await {
                self.write(&worker, false).await;
            }
        };
        tokio::select! {
            () = written => {}
            () = unseated.cancelled() => {}
        }
    }

    /// What was written may be there no more: somebody may have deleted it.
    fn doubt(&mut self) {
        self.written
            .values_mut()
            .for_each(|written| written.standing = None);
    }

    /// Writes down what has changed; with `ahead`, what may be spent until the next time too. False if
    /// something could not be.
    async fn write(&mut self, worker: &Worker, ahead: bool) -> bool {
        let mut all = true;
        for (name, standing) in worker.standings(ahead) {
            let written = self.written.entry(name.clone()).or_default();
            if written.standing.as_ref() == Some(&standing) {
                worker.confirm(&name);
                continue;
            }
            let Ok(value) = serde_json::to_vec(&standing) else {
                continue;
            };
            match self
                .store
                .update(name.as_str(), value.into(), written.revision)
                .await
            {
                Ok(revision) => {
                    *written = WrittenState {
                        standing: Some(standing),
                        revision,
                    };
                    worker.confirm(&name);
                }
                Err(error) => {
                    warn!(name, %error, "what is known of these limits cannot be written down yet");
                    all = false;
                    // It may be written all the same.
                    written.standing = None;
                    // Somebody else may have written, or deleted all; what comes next must not be stopped by that.
                    match self.store.entry(name.as_str()).await {
                        Ok(entry) => written.revision = entry.map_or(0, |entry| entry.revision),
                        Err(_) => match make(&self.connection).await {
                            Ok(_) => written.revision = 0,
                            Err(error) => {
                                warn!(%error, "the bucket of what is known of limits cannot be made");
                            }
                        },
                    }
                }
            }
        }
        all
    }
}

/// Makes the bucket, if there is none.
pub(crate) async fn make(connection: &Connection) -> Result<Store, CreateKeyValueError> {
    let bucket = connection.names.accounts_bucket();
    let config = kv::Config {
        bucket,
        history: 1,
        ..kv::Config::default()
    };
    connection.context.create_or_update_key_value(config).await
}
