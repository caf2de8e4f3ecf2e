//! The state of accounts and of teams' limits that outlives a process, in a key-value bucket. It is
//! read before the worker starts and written while it works.

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
use crate::worker::JetStreamWorker;

/// The interval of checks for changed states.
const CHANGE_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The interval at which all states are written, changed or not.
const FULL_WRITE_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum number of pending requests to write all states. Further requests wait.
const MAX_PENDING_FLUSHES: usize = 16;

/// Sends requests to write all states at once, for example after an order of an operator.
#[derive(Debug, Clone)]
pub struct StateWriter(mpsc::Sender<oneshot::Sender<bool>>);

impl StateWriter {
    /// Has all states written. Returns false if that fails.
    pub async fn write(&self) -> bool {
        let (done, written) = oneshot::channel();
        self.0.send(done).await.is_ok() && written.await == Ok(true)
    }
}

/// Receives requests to write all states at once. Each request carries the channel for its result.
pub type FlushRequests = mpsc::Receiver<oneshot::Sender<bool>>;

/// Returns both ends of the channel for requests to write all states.
pub fn writer() -> (StateWriter, FlushRequests) {
    let (request, requests) = mpsc::channel(MAX_PENDING_FLUSHES);
    (StateWriter(request), requests)
}

/// The bucket, and its known contents by name.
#[derive(Debug)]
pub struct AccountStates {
    connection: Connection,
    store: Store,
    written: HashMap<String, WrittenState>,
}

#[derive(Debug, Default)]
struct WrittenState {
    /// The state that was written. `None` means unknown.
    state: Option<AccountState>,
    /// The revision of the entry; 0 if there is none.
    revision: u64,
}

impl AccountStates {
    /// Reads what an earlier process stored under these names. An entry that cannot be parsed
    /// counts as a default state.
    ///
    /// # Errors
    /// Returns an error when the bucket cannot be created or read.
    pub async fn read(connection: &Connection, names: Vec<String>) -> Result<Self, Error> {
        let failed =
            |problem: String| Error::Unreachable(anyhow!("what is known of limits: {problem}"));
        let store = make(connection)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut written = HashMap::new();
        for name in names {
            let entry = store.entry(&name).await;
            let entry = entry.map_err(|error| failed(error.to_string()))?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let put = entry.filter(|entry| entry.operation == kv::Operation::Put);
            let state = put.map(|entry| parse_state(&name, &entry.value));
            written.insert(name, WrittenState { state, revision });
        }
        Ok(Self {
            connection: connection.clone(),
            store,
            written,
        })
    }

    /// Returns the known states, by name.
    pub fn known(&self) -> HashMap<String, AccountState> {
        let with_state = |(name, written): (&String, &WrittenState)| {
            let state = written.state.clone()?;
            Some((name.clone(), state))
        };
        let written = self.written.iter();
        written.filter_map(with_state).collect()
    }

    /// Writes changed states until `stop`, and then the rest. Writes all states on each request.
    ///
    /// Ends at once when another process took over the work: its states must not be overwritten.
    pub async fn keep(
        mut self,
        worker: Arc<JetStreamWorker>,
        mut requests: FlushRequests,
        stop: CancellationToken,
        lease_lost: CancellationToken,
    ) {
        let written = async {
            let mut checks = tokio::time::interval(CHANGE_CHECK_INTERVAL);
            checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut full_writes = tokio::time::interval(FULL_WRITE_INTERVAL);
            loop {
                tokio::select! {
                    _ = checks.tick() => { self.write(&worker, true).await; }
                    _ = full_writes.tick() => self.forget_written(),
                    Some(done) = requests.recv() => {
                        self.forget_written();
                        let written = self.write_or_retry(&worker, true).await;
                        // The requester may have ended.
                        let _ = done.send(written);
                    }
                    () = stop.cancelled() => break,
                }
            }
            self.forget_written();
            self.write_or_retry(&worker, false).await;
        };
        tokio::select! {
            () = written => {}
            () = lease_lost.cancelled() => {}
        }
    }

    /// Forgets what was written, so that everything is written again: the bucket may have been
    /// deleted.
    fn forget_written(&mut self) {
        self.written
            .values_mut()
            .for_each(|written| written.state = None);
    }

    /// Writes changed states like [`Self::write`], and once more if that fails.
    async fn write_or_retry(&mut self, worker: &JetStreamWorker, ahead: bool) -> bool {
        let written = self.write(worker, ahead).await;
        written || self.write(worker, ahead).await
    }

    /// Writes changed states. With `ahead`, they include what may be spent until the next write.
    /// Returns false if a state could not be written.
    async fn write(&mut self, worker: &JetStreamWorker, ahead: bool) -> bool {
        let mut all = true;
        for (name, state) in worker.saved_states(ahead) {
            let entry = self.written.entry(name.clone());
            let written = entry.or_default();
            if written.state.as_ref() == Some(&state) {
                worker.confirm(&name);
                continue;
            }
            let Ok(value) = serde_json::to_vec(&state) else {
                continue;
            };
            let revision = written.revision;
            let stored = self.store.update(&name, value.into(), revision);
            match stored.await {
                Ok(revision) => {
                    *written = WrittenState {
                        state: Some(state),
                        revision,
                    };
                    worker.confirm(&name);
                }
                Err(error) => {
                    warn!(name, %error, "what is known of these limits cannot be written down yet");
                    all = false;
                    // It may have been stored all the same.
                    written.state = None;
                    // Another process may have written the entry, or the bucket was deleted.
                    // Reading the revision lets the next write succeed.
                    match self.store.entry(&name).await {
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

fn parse_state(name: &str, value: &[u8]) -> AccountState {
    serde_json::from_slice(value).unwrap_or_else(|error| {
        warn!(name, %error, "what was known of these limits is not understood");
        AccountState::default()
    })
}

/// Creates the bucket if it does not exist.
pub(crate) async fn make(connection: &Connection) -> Result<Store, CreateKeyValueError> {
    let bucket = connection.names.accounts_bucket();
    let config = kv::Config {
        bucket,
        history: 1,
        ..kv::Config::default()
    };
    connection.context.create_or_update_key_value(config).await
}
