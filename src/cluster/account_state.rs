//! The state of accounts and of teams' limits that outlives a process, in a key-value bucket. It is
//! read before the worker starts and written while it works.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use forebay_workers::accounts::AccountState;
use forebay_workers::clock::{SavedMoment, SystemClock};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::lease_renewal::LeaseValidity;
use super::state_copies::{StateCopies, StateCopy};
use crate::nats::bucket::{self, Bucket, BucketEntry, BucketSettings, BucketWrite};
use crate::nats::connection::{Connection, Error};
use crate::worker::JetStreamWorker;

/// The key of the data directory that wrote last to the bucket. No account's name and no team's key has this form.
const LAST_WRITER: &str = "last.writer";
/// The interval of checks for changed states.
const CHANGE_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The shortest interval of writes that calls wait for.
const SHORTEST_WRITE_INTERVAL: Duration = Duration::from_millis(20);
/// The interval of checks that the bucket exists.
const BUCKET_CHECK_INTERVAL: Duration = Duration::from_secs(5);
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
    bucket: Bucket,
    copies: StateCopies,
    written: HashMap<String, WrittenState>,
    /// The revision of [`LAST_WRITER`].
    last_writer: u64,
}

#[derive(Debug, Default)]
struct WrittenState {
    /// The state that was written. `None` means unknown.
    state: Option<AccountState>,
    /// The revision of the entry; 0 if there is none.
    revision: u64,
    /// True if a foreign value replaced the true state, and there is no copy of that.
    is_unknown: bool,
}

/// The state that a start finds under a name.
struct FoundState {
    entry: BucketEntry,
    copy: Option<StateCopy<AccountState>>,
}

impl AccountStates {
    /// Reads what an earlier process stored under these names, in the bucket or in the data directory. `unknown` has the state
    /// of each name that counts where a foreign value replaced the true one, and there is no copy.
    ///
    /// # Errors
    /// Returns an error when the bucket cannot be created or read.
    pub async fn read(
        connection: &Connection,
        data_dir: &Path,
        unknown: HashMap<String, AccountState>,
    ) -> Result<Self, Error> {
        let failed =
            |problem: String| Error::Unreachable(anyhow!("what is known of limits: {problem}"));
        let copies = StateCopies::open(data_dir, &connection.names.accounts_bucket());
        let copies = copies.map_err(|error| Error::Usage(error.into()))?;
        let bucket = open(connection).await;
        let bucket = bucket.map_err(|error| failed(error.to_string()))?;
        let last_writer = bucket.get(LAST_WRITER).await;
        let last_writer = last_writer.map_err(|error| failed(error.to_string()))?;
        let copies_are_newest =
            matches!(&last_writer, BucketEntry::Ours { value, .. } if *value == copies.id());
        let mut found = HashMap::new();
        for name in unknown.keys() {
            let entry = bucket.get(name).await;
            let entry = entry.map_err(|error| failed(error.to_string()))?;
            let copy = copies.read(name);
            found.insert(name.clone(), FoundState { entry, copy });
        }
        delete_foreign(&bucket, &unknown).await;
        let mut written = HashMap::new();
        for (name, unknown) in unknown {
            let Some(found) = found.remove(&name) else {
                continue;
            };
            let state = choose_state(&name, found, copies_are_newest, unknown);
            written.insert(name, state);
        }
        let mut states = Self {
            bucket,
            copies,
            written,
            last_writer: last_writer.revision(),
        };
        let signed = states.sign().await;
        signed.map_err(|error| failed(error.to_string()))?;
        Ok(states)
    }

    /// Writes this data directory into the bucket as the last one that wrote to it.
    async fn sign(&mut self) -> Result<(), bucket::Error> {
        let id = self.copies.id();
        let signed = self.bucket.put(LAST_WRITER, id, self.last_writer, None);
        self.last_writer = match signed.await? {
            BucketWrite::Stored(revision) => revision,
            BucketWrite::Conflict => self.bucket.get(LAST_WRITER).await?.revision(),
        };
        Ok(())
    }

    /// Returns the names whose true state is not known.
    pub fn unknown_names(&self) -> Vec<String> {
        let written = self.written.iter();
        let unknown = written.filter(|(_, written)| written.is_unknown);
        unknown.map(|(name, _)| name.clone()).collect()
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
    /// Ends at once when another process took over the work, and writes nothing while one may have: its states must not be
    /// overwritten.
    pub async fn keep(
        mut self,
        worker: Arc<JetStreamWorker>,
        mut requests: FlushRequests,
        stop: CancellationToken,
        lease: LeaseValidity,
    ) {
        let written = async {
            let mut checks = tokio::time::interval(CHANGE_CHECK_INTERVAL);
            checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut bucket_checks = tokio::time::interval(BUCKET_CHECK_INTERVAL);
            bucket_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut full_writes = tokio::time::interval(FULL_WRITE_INTERVAL);
            loop {
                tokio::select! {
                    () = next_write(&mut checks, &worker), if lease.is_held() => {
                        self.write(&worker, true, &lease).await;
                    }
                    _ = bucket_checks.tick() => self.restore_bucket().await,
                    _ = full_writes.tick() => self.forget_written(),
                    Some(done) = requests.recv() => {
                        self.forget_written();
                        let written = self.write_or_retry(&worker, true, &lease).await;
                        // The requester may have ended.
                        let _ = done.send(written);
                    }
                    () = stop.cancelled() => break,
                }
            }
            self.forget_written();
            self.write_or_retry(&worker, false, &lease).await;
        };
        tokio::select! {
            () = written => {}
            () = lease.lost() => {}
        }
    }

    /// Makes the bucket again if it was lost with the store. Everything is then written again.
    async fn restore_bucket(&mut self) {
        match self.bucket.ensure().await {
            Ok(false) => {}
            Ok(true) => {
                warn!("the bucket of what is known of limits was deleted; writing it again");
                self.forget_written();
                self.written
                    .values_mut()
                    .for_each(|written| written.revision = 0);
                self.last_writer = 0;
                if let Err(error) = self.sign().await {
                    debug!(%error, "the last writer cannot be written down");
                }
            }
            Err(error) => {
                debug!(%error, "the bucket of what is known of limits cannot be looked at")
            }
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
    async fn write_or_retry(
        &mut self,
        worker: &JetStreamWorker,
        ahead: bool,
        lease: &LeaseValidity,
    ) -> bool {
        let written = self.write(worker, ahead, lease).await;
        written || self.write(worker, ahead, lease).await
    }

    /// Writes changed states. With `ahead`, they include what may be spent until the next write.
    /// Returns false if a state could not be written.
    async fn write(
        &mut self,
        worker: &JetStreamWorker,
        ahead: bool,
        lease: &LeaseValidity,
    ) -> bool {
        let (mut all, mut is_refused) = (true, false);
        for (name, state) in worker.saved_states(ahead) {
            let entry = self.written.entry(name.clone());
            let written = entry.or_default();
            if written.state.as_ref() == Some(&state) {
                worker.confirm(&name);
                continue;
            }
            let written_down = AccountState {
                saved_at: Some(SavedMoment::of(&SystemClock)),
                ..state.clone()
            };
            let Ok(value) = serde_json::to_vec(&written_down) else {
                continue;
            };
            if !lease.is_held() {
                // Another worker may have taken over. What it wrote must not be overwritten.
                return false;
            }
            let stored = self.bucket.put(&name, value.into(), written.revision, None);
            let stored = stored.await;
            let copy = StateCopy {
                bucket_made: self.bucket.made_at(),
                value: written_down,
            };
            self.copies.write(&name, &copy);
            match stored {
                Ok(BucketWrite::Stored(revision)) => {
                    written.state = Some(state);
                    written.revision = revision;
                    worker.confirm(&name);
                    continue;
                }
                Ok(BucketWrite::Conflict) => debug!(name, "another value is there"),
                Err(error) => {
                    warn!(name, %error, "what is known of these limits cannot be written down yet");
                    is_refused = true;
                }
            }
            all = false;
            // It may have been stored all the same, or a foreign value is there. With its revision the next write replaces
            // it.
            written.state = None;
            if let Ok(entry) = self.bucket.get(&name).await {
                written.revision = entry.revision();
            }
        }
        if is_refused {
            self.restore_bucket().await;
        }
        all
    }
}

/// Waits until changed states should be written: in intervals, and soon after calls wait for that.
async fn next_write(checks: &mut Interval, worker: &JetStreamWorker) {
    let requested = async {
        worker.save_requested().await;
        tokio::time::sleep(SHORTEST_WRITE_INTERVAL).await;
    };
    tokio::select! {
        _ = checks.tick() => {}
        () = requested => {}
    }
}

/// Deletes values that Forebay did not write under names that are not in use.
async fn delete_foreign(bucket: &Bucket, used: &HashMap<String, AccountState>) {
    let deleted = async {
        for key in bucket.keys().await? {
            if used.contains_key(&key) || key == LAST_WRITER {
                continue;
            }
            if let BucketEntry::Foreign { revision } = bucket.get(&key).await? {
                warn!(key, "a value that Forebay did not write is deleted");
                bucket.purge(&key, revision).await?;
            }
        }
        Ok::<_, bucket::Error>(())
    };
    if let Err(error) = deleted.await {
        debug!(%error, "the bucket of accounts cannot be searched for foreign values");
    }
}

/// Returns the state that counts: that of the bucket, or its copy where that is newer or the only one.
fn choose_state(
    name: &str,
    found: FoundState,
    copies_are_newest: bool,
    unknown: AccountState,
) -> WrittenState {
    let revision = found.entry.revision();
    let copy = found.copy.map(|copy| copy.value);
    let stored = match &found.entry {
        BucketEntry::Ours { value, .. } => parse_state(name, value),
        _ => None,
    };
    let is_lost = stored.is_none() && !matches!(found.entry, BucketEntry::Missing { .. });
    let state = match (stored, copy) {
        (Some(stored), Some(copy)) if copies_are_newest && is_newer(&copy, &stored) => Some(copy),
        (Some(stored), _) => Some(stored),
        (None, copy) if !is_lost => copy,
        (None, Some(copy)) if copies_are_newest => {
            warn!(
                name,
                "what was known of these limits was replaced by a value that Forebay did not write; the copy in the data \
                 directory counts"
            );
            Some(copy)
        }
        (None, _) => {
            warn!(
                name,
                "what was known of these limits was replaced by a value that Forebay did not write: long limits count as \
                 spent, and keys stay disabled until `forebay accounts enable`"
            );
            return WrittenState {
                state: Some(unknown),
                revision,
                is_unknown: true,
            };
        }
    };
    WrittenState {
        state,
        revision,
        is_unknown: false,
    }
}

/// Returns true if `copy` was written down after `stored`.
fn is_newer(copy: &AccountState, stored: &AccountState) -> bool {
    match (&stored.saved_at, &copy.saved_at) {
        (Some(stored), Some(copy)) => !stored.time_until(copy).is_zero(),
        (stored, copy) => stored.is_none() && copy.is_some(),
    }
}

fn parse_state(name: &str, value: &[u8]) -> Option<AccountState> {
    let parsed = serde_json::from_slice(value);
    parsed
        .inspect_err(
            |error| warn!(name, %error, "what was known of these limits is not understood"),
        )
        .ok()
}

/// Opens the bucket. Creates it if it does not exist.
pub(crate) async fn open(connection: &Connection) -> Result<Bucket, bucket::Error> {
    let settings = BucketSettings {
        name: connection.names.accounts_bucket(),
        max_age: Duration::ZERO,
        has_ttl: false,
    };
    let is_state = |_: &str, value: &[u8]| serde_json::from_slice::<AccountState>(value).is_ok();
    Bucket::open(connection, &settings, is_state).await
}
