//! A running worker: its tasks, its snapshot, and how it stops.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_schemas::Status;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::accounts::{self, Account, AccountState, ClockPair};
use crate::clock::Clock;
use crate::config::{Config, saved_name_of_team};
use crate::dispatch::dispatcher::Dispatcher;
use crate::intake::consumer;
use crate::intake::read::may_reply;
use crate::job::inbox::DispatcherHandle;
use crate::pools::Pool;
use crate::queue::jetstream::ACK_WAIT;
use crate::queue::{self, Queue, QueueReading};
use crate::store::journal::Journal;
use crate::store::results::{Error, ResultRecord, ResultStore};
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;
use forebay_providers::Secret;

/// How long it may take to give back the unacked deliveries and delete the consumers.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Consumers that are deleted at once.
const DELETED_AT_ONCE: usize = 16;
/// How often days of results are opened and deleted.
const DAY_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// A running worker.
#[derive(Debug)]
pub struct Worker<Q, U> {
    state: Arc<WorkerState<Q, U>>,
    /// Stops reading queues.
    stop_fetching: CancellationToken,
    /// Stops the dispatcher, once no queue is read any more.
    stop_dispatching: CancellationToken,
    /// Stops the tickers that keep deliveries and days of results.
    stop_keepalives: CancellationToken,
    readers: TaskTracker,
    jobs: TaskTracker,
}

/// The state of a worker, for operators.
#[derive(Debug, Clone)]
pub struct WorkerSnapshot {
    /// Its accounts.
    pub accounts: Vec<accounts::AccountSnapshot>,
    /// Names of its pools, and the names of each one's accounts.
    pub pools: Vec<(String, Vec<String>)>,
    /// Names of its pools, and the models of each one's targets.
    pub models: Vec<(String, Vec<String>)>,
    /// True if a pool is made for each model that is asked for.
    pub makes_pools: bool,
    /// The teams that are served; `None` if every team is.
    pub teams: Option<BTreeSet<String>>,
    /// Jobs that are here and wait for a permit, a time or another job.
    pub prefetched: u64,
    /// Jobs that are being called or completed.
    pub in_flight: u64,
    /// Bytes of memory that the jobs here take, by estimate.
    pub job_memory: usize,
    /// Objects that wait for memory before they are fetched, and queues that wait before they read a large message.
    pub waiting_for_memory: usize,
    /// Jobs that ended since the start, by status.
    pub ended: Vec<(Status, u64)>,
    /// How often calls were stopped since the start because NATS did not acknowledge completions.
    pub publishing_stops: u64,
}

impl<Q: Queue, U: Upstream> Worker<Q, U> {
    /// Starts to work.
    ///
    /// # Errors
    /// When the streams cannot be read.
    pub async fn start(
        config: Config,
        queue: Q,
        upstream: U,
        stores: (ResultStore, Journal),
        clock: Arc<dyn Clock>,
    ) -> Result<Self, queue::Error> {
        let lane_weights = config.lane_weights;
        let (handle, inbox) = DispatcherHandle::new();
        let state = Arc::new(WorkerState::new(
            config, queue, upstream, stores, clock, handle,
        ));
        let found = state.queue.find(Arc::clone(&state.readings)).await?;
        let worker = Self {
            state: Arc::clone(&state),
            stop_fetching: CancellationToken::new(),
            stop_dispatching: CancellationToken::new(),
            stop_keepalives: CancellationToken::new(),
            readers: TaskTracker::new(),
            jobs: TaskTracker::new(),
        };
        let tasks = worker.jobs.clone();
        let dispatcher = Dispatcher::new(Arc::clone(&state), inbox, lane_weights, tasks);
        let dispatching = dispatcher.run(worker.stop_dispatching.clone());
        worker.jobs.spawn(dispatching);
        worker.readers.spawn(read_queues(
            Arc::clone(&state),
            found,
            worker.stop_fetching.clone(),
            worker.readers.clone(),
        ));
        tokio::spawn(extend_ack_waits(
            Arc::clone(&state),
            worker.stop_keepalives.clone(),
        ));
        tokio::spawn(rotate_days(state, worker.stop_keepalives.clone()));
        Ok(worker)
    }

    /// Its state now.
    pub fn snapshot(&self) -> WorkerSnapshot {
        let state = &self.state;
        let (now, pools) = (Instant::now(), state.pools.all());
        let mut accounts_of_pools = Vec::with_capacity(pools.len());
        let mut models_of_pools = Vec::with_capacity(pools.len());
        for (name, pool) in pools {
            accounts_of_pools.push((name.clone(), account_names(state, &pool)));
            models_of_pools.push((name, model_names(state, &pool)));
        }
        let statuses = [
            Status::Succeeded,
            Status::Failed,
            Status::Expired,
            Status::Cancelled,
        ];
        let snapshot = |account: &Arc<Account>| account.snapshot(now);
        WorkerSnapshot {
            accounts: state.accounts.iter().map(snapshot).collect(),
            pools: accounts_of_pools,
            models: models_of_pools,
            makes_pools: state.pools.are_made_on_demand(),
            teams: state.addressing.served(&state.teams),
            prefetched: state.counters.prefetched.load(Ordering::Relaxed),
            in_flight: state.counters.jobs_in_flight(),
            job_memory: state.memory.held(),
            waiting_for_memory: state.memory.waiting(),
            ended: statuses
                .into_iter()
                .map(|status| (status, state.counters.ended(status)))
                .collect(),
            publishing_stops: state.backpressure.stops(),
        }
    }

    /// The state of each account and of each team's limits that outlives this process, by the names of
    /// [`Config::saved_states`]. With `ahead`, what may be spent before the next call of this counts as spent.
    pub fn saved_states(&self, ahead: bool) -> Vec<(String, AccountState)> {
        let moment = ClockPair {
            instant: Instant::now(),
            wall: self.state.now(),
        };
        let mut states = Vec::new();
        for account in &self.state.accounts {
            let state = account.saved_state(ahead, moment);
            states.push((account.name().to_owned(), state));
        }
        for (team, limits) in &self.state.team_limits {
            states.push((saved_name_of_team(team), limits.saved_state(ahead, moment)));
        }
        states
    }

    /// Waits until a state must be persisted before calls can go on.
    pub async fn save_requested(&self) {
        self.state.save_requests.notified().await;
    }

    /// Reports that the last state under `name` of [`Worker::saved_states`] is persisted.
    pub fn confirm(&self, name: &str) {
        for account in &self.state.accounts {
            if account.name() == name {
                account.confirm();
            }
        }
        for (team, limits) in &self.state.team_limits {
            if saved_name_of_team(team) == name {
                limits.confirm();
            }
        }
    }

    /// Notes that the saved state under `name` of [`Worker::saved_states`] was lost, and that a safe one counts.
    pub fn note_unknown_state(&self, name: &str) {
        let mut accounts = self.state.accounts.iter();
        if let Some(account) = accounts.find(|account| account.name() == name) {
            account.note_unknown_state();
        }
    }

    /// Disables or enables a key, or all keys of an account. Returns false if there is no such account or key.
    pub fn switch(&self, account: &str, key: Option<&str>, on: bool) -> bool {
        let mut accounts = self.state.accounts.iter();
        let Some(account) = accounts.find(|known| known.name() == account) else {
            return false;
        };
        if on {
            account.enable(key)
        } else {
            account.disable_by_hand(key)
        }
    }

    /// Replaces the credential of an account's key. Returns true if it is another one.
    pub fn replace_key(&self, account: &str, key: &str, secret: Secret) -> bool {
        let mut accounts = self.state.accounts.iter();
        let account = accounts.find(|known| known.name() == account);
        account.is_some_and(|account| account.replace_key(key, secret))
    }

    /// Returns true if providers may be called now. Otherwise another worker may have taken over.
    pub fn may_call(&self) -> bool {
        self.state.fence.is_open()
    }

    /// Returns true if a team may have copies of completions published on `subject`.
    pub fn may_reply(&self, subject: &str, team: &str) -> bool {
        may_reply(subject, team, &self.state.team(team).reply_prefixes)
    }

    /// Returns true if a job of this identity is here: it waits for its call, is being called or completed. A job that is
    /// still in the stream is not here.
    pub fn has(&self, identity: &forebay_schemas::Identity) -> bool {
        self.state.in_flight.has(identity)
    }

    /// The stored result of an identity. Blocks on the disk.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn result(
        &self,
        identity: &forebay_schemas::Identity,
    ) -> Result<Option<ResultRecord>, Error> {
        self.state.results.get(identity)
    }

    /// Takes no more jobs, gives back those that have not begun, and completes those in flight within `grace`. The jobs that
    /// are left are given back if `leaves`. Otherwise another process has the work by now, and with it those jobs. Returns
    /// how many were left.
    pub async fn stop(&self, grace: Duration, leaves: bool) -> u64 {
        self.stop_fetching.cancel();
        self.readers.close();
        self.jobs.close();
        let finished = async {
            self.readers.wait().await;
            // Only now: a job that is given back must not be fetched again by this process.
            self.stop_dispatching.cancel();
            self.jobs.wait().await;
        };
        let in_time = timeout(grace, finished).await.is_ok();
        self.stop_dispatching.cancel();
        self.stop_keepalives.cancel();
        // A client that is not connected takes a few messages and then waits.
        if leaves && timeout(LEAVE_TIMEOUT, self.leave_queues()).await.is_err() {
            warn!("NATS does not answer in time; what was given back may wait for {ACK_WAIT:?}");
        }
        if in_time {
            0
        } else {
            self.state.counters.jobs_in_flight()
        }
    }
}

impl<Q: Queue, U: Upstream> Worker<Q, U> {
    /// Gives back the unacked deliveries and deletes this process's consumers. A server that stops together with this process
    /// would forget what was given back. The next process would then have to wait for the ack wait.
    async fn leave_queues(&self) {
        let queue = &self.state.queue;
        for receipt in self.state.unacked.receipts() {
            queue.give_back(receipt).await;
        }
        let leave = |reading: QueueReading| async move {
            if let Err(error) = queue.leave(&reading).await {
                debug!(queue = %reading.flow, %error, "a queue is not left cleanly");
            }
        };
        let readings = futures::stream::iter(self.state.readings.open());
        readings.for_each_concurrent(DELETED_AT_ONCE, leave).await;
    }
}

/// Names of a pool's accounts, in the order of its targets.
fn account_names<Q, U>(state: &WorkerState<Q, U>, pool: &Pool) -> Vec<String> {
    let mut names = Vec::new();
    for candidate in &pool.candidates {
        names.push(state.target(candidate.target).account.name().to_owned());
    }
    names.dedup();
    names
}

/// Models of a pool's targets, sorted.
fn model_names<Q, U>(state: &WorkerState<Q, U>, pool: &Pool) -> Vec<String> {
    let candidates = pool.candidates.iter();
    let models = candidates.map(|candidate| state.target(candidate.target).model.clone());
    models.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Starts a reader for each queue that is found.
async fn read_queues<Q: Queue, U: Upstream>(
    state: Arc<WorkerState<Q, U>>,
    mut found: mpsc::UnboundedReceiver<QueueReading>,
    stop: CancellationToken,
    readers: TaskTracker,
) {
    loop {
        tokio::select! {
            reading = found.recv() => {
                let Some(reading) = reading else { break };
                let reader = consumer::run(Arc::clone(&state), reading, stop.clone());
                readers.spawn(reader);
            }
            () = stop.cancelled() => break,
        }
    }
}

/// Extends the ack wait of all unacked deliveries.
async fn extend_ack_waits<Q: Queue, U: Upstream>(
    state: Arc<WorkerState<Q, U>>,
    end: CancellationToken,
) {
    let mut tick = tokio::time::interval(ACK_WAIT / 3);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let receipts = state.unacked.receipts();
                state.queue.keep(receipts).await;
            }
            () = end.cancelled() => break,
        }
    }
}

/// Opens days of results before they begin, and deletes those that are no longer kept.
async fn rotate_days<Q: Queue, U: Upstream>(state: Arc<WorkerState<Q, U>>, end: CancellationToken) {
    let mut tick = tokio::time::interval(DAY_CHECK_INTERVAL);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let state = Arc::clone(&state);
                let turned = tokio::task::spawn_blocking(move || {
                    let now = state.now();
                    let soon = now.checked_add(2 * DAY_CHECK_INTERVAL).unwrap_or(now);
                    state.results.open_ahead(soon)?;
                    state.results.forget_old(now)
                });
                if let Ok(Err(error)) = turned.await {
                    warn!(%error, "days of results cannot be opened or deleted");
                }
            }
            () = end.cancelled() => break,
        }
    }
}
