//! A running worker: its tasks, what it shows of itself, and how it stops.

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

use crate::accounts::{self, AccountState, ClockPair};
use crate::clock::Clock;
use crate::config::{Config, standing_of_team};
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

/// How long it may take to give back what is held and leave all flows, and how many are left at once.
const LEAVE: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 16;
/// How often days of results are opened and deleted.
const DAYS: Duration = Duration::from_secs(60 * 60);

/// A running worker.
#[derive(Debug)]
pub struct Worker<Q, U> {
    state: Arc<WorkerState<Q, U>>,
    /// Ends fetching.
    stop: CancellationToken,
    /// Ends dispatching, when nothing is fetched any more.
    halt: CancellationToken,
    /// Ends what keeps jobs held.
    end: CancellationToken,
    readers: TaskTracker,
    jobs: TaskTracker,
}

/// What a worker is doing.
#[derive(Debug, Clone)]
pub struct WorkerSnapshot {
    /// Its accounts.
    pub accounts: Vec<accounts::AccountSnapshot>,
    /// Names of its pools, and the names of each one's accounts.
    pub pools: Vec<(String, Vec<String>)>,
    /// Names of its pools, and the models of each one's targets.
    pub models: Vec<(String, Vec<String>)>,
    /// Whether pools are made as they are asked for.
    pub makes_pools: bool,
    /// The teams that are served, if others are refused.
    pub teams: Option<BTreeSet<String>>,
    /// Jobs that are here and wait for a permit or for themselves.
    pub prefetched: u64,
    /// Jobs that are being called or finished.
    pub in_flight: u64,
    /// Jobs that ended since the start, by status.
    pub ended: Vec<(Status, u64)>,
}

impl<Q: Queue, U: Upstream> Worker<Q, U> {
    /// Starts to work.
    ///
    /// # Errors
    /// When the queue's flows cannot be read.
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
            stop: CancellationToken::new(),
            halt: CancellationToken::new(),
            end: CancellationToken::new(),
            readers: TaskTracker::new(),
            jobs: TaskTracker::new(),
        };
        let dispatcher =
            Dispatcher::new(Arc::clone(&state), inbox, lane_weights, worker.jobs.clone());
        worker.jobs.spawn(dispatcher.run(worker.halt.clone()));
        worker.readers.spawn(read_flows(
            Arc::clone(&state),
            found,
            worker.stop.clone(),
            worker.readers.clone(),
        ));
        tokio::spawn(keep_held(Arc::clone(&state), worker.end.clone()));
        tokio::spawn(turn_days(state, worker.end.clone()));
        Ok(worker)
    }

    /// What it is doing.
    pub fn snapshot(&self) -> WorkerSnapshot {
        let state = &self.state;
        let account_names = |pool: &Pool| {
            let mut names: Vec<_> = pool
                .candidates
                .iter()
                .map(|candidate| {
                    state
                        .pools
                        .target(candidate.target)
                        .account
                        .name()
                        .to_owned()
                })
                .collect();
            names.dedup();
            names
        };
        let models = |pool: &Pool| {
            let models = pool
                .candidates
                .iter()
                .map(|candidate| state.pools.target(candidate.target).model.clone());
            models.collect::<BTreeSet<_>>().into_iter().collect()
        };
        let (now, pools) = (Instant::now(), state.pools.all());
        let statuses = [
            Status::Succeeded,
            Status::Failed,
            Status::Expired,
            Status::Cancelled,
        ];
        WorkerSnapshot {
            accounts: state
                .accounts
                .iter()
                .map(|account| account.snapshot(now))
                .collect(),
            pools: pools
                .iter()
                .map(|(name, pool)| (name.clone(), account_names(pool)))
                .collect(),
            models: pools
                .iter()
                .map(|(name, pool)| (name.clone(), models(pool)))
                .collect(),
            makes_pools: state.pools.are_made_on_demand(),
            teams: state.addressing.served(&state.teams),
            prefetched: state.counters.prefetched.load(Ordering::Relaxed),
            in_flight: state.counters.jobs_in_flight(),
            ended: statuses
                .into_iter()
                .map(|status| (status, state.counters.ended(status)))
                .collect(),
        }
    }

    /// What of each account and of each team's limits outlives this process, by the names of
    /// [`Config::standing_names`]; with `ahead` what may be spent before this is asked
    /// for again counts as spent.
    pub fn standings(&self, ahead: bool) -> Vec<(String, AccountState)> {
        let moment = ClockPair {
            instant: Instant::now(),
            wall: self.state.clock.now(),
        };
        let accounts = self.state.accounts.iter();
        let accounts =
            accounts.map(|account| (account.name().to_owned(), account.standing(ahead, moment)));
        let teams = self.state.team_limits.iter();
        let teams = teams.map(|(team, cap)| (standing_of_team(team), cap.standing(ahead, moment)));
        accounts.chain(teams).collect()
    }

    /// What [`Worker::standings`] said last under a name is written down.
    pub fn confirm(&self, name: &str) {
        let accounts = self.state.accounts.iter();
        accounts
            .filter(|account| account.config().name == name)
            .for_each(|account| account.confirm());
        let teams = self.state.team_limits.iter();
        teams
            .filter(|(team, _)| standing_of_team(team) == name)
            .for_each(|(_, cap)| cap.confirm());
    }

    /// Disables or enables a key, or all keys of an account. False if there is no such account or key.
    pub fn switch(&self, account: &str, key: Option<&str>, on: bool) -> bool {
        let account = self
            .state
            .accounts
            .iter()
            .find(|known| known.config().name == account);
        account.is_some_and(|account| {
            if on {
                account.enable(key)
            } else {
                account.disable_by_hand(key)
            }
        })
    }

    /// Whether a team may have answers published on `subject`.
    pub fn may_reply(&self, subject: &str, team: &str) -> bool {
        may_reply(subject, team, &self.state.team(team).reply_prefixes)
    }

    /// Whether a job of this identity is here: it waits for its call, is being called or finished. One that is still
    /// in the stream is not.
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

    /// Takes no more jobs, gives back those that have not begun, and finishes those in flight max_age
    /// `grace`. What is left is given back, unless somebody else has the work by now, whose it is then; returns how
    /// many that were.
    pub async fn stop(&self, grace: Duration, leaves: bool) -> u64 {
        self.stop.cancel();
        self.readers.close();
        self.jobs.close();
        let finished = async {
            self.readers.wait().await;
            // What is given back now is not fetched again by this process.
            self.halt.cancel();
            self.jobs.wait().await;
        };
        let in_time = timeout(grace, finished).await.is_ok();
        self.halt.cancel();
        self.end.cancel();
        if !leaves {
            return if in_time {
                0
            } else {
                self.state.counters.jobs_in_flight()
            };
        }
        // A client that is not connected takes a few messages and then waits.
        if timeout(LEAVE, self.leave_all()).await.is_err() {
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
    /// Gives back what is held, and leaves nothing behind that remembers what was delivered to this process: a server that stops with it would
    /// forget what was given back, and the next process would wait for the ack wait.
    async fn leave_all(&self) {
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
        readings.for_each_concurrent(AT_ONCE, leave).await;
    }
}

async fn read_flows<Q: Queue, U: Upstream>(
    state: Arc<WorkerState<Q, U>>,
    mut found: mpsc::UnboundedReceiver<QueueReading>,
    stop: CancellationToken,
    readers: TaskTracker,
) {
    loop {
        tokio::select! {
            reading = found.recv() => match reading {
                Some(reading) => {
                    readers.spawn(consumer::run(Arc::clone(&state), reading, stop.clone()));
                }
                None => break,
            },
            () = stop.cancelled() => break,
        }
    }
}

/// One ticker says for everything that is held that it is still worked on.
async fn keep_held<Q: Queue, U: Upstream>(state: Arc<WorkerState<Q, U>>, end: CancellationToken) {
    let mut tick = tokio::time::interval(ACK_WAIT / 3);
    loop {
        tokio::select! {
            _ = tick.tick() => state.queue.keep(state.unacked.receipts()).await,
            () = end.cancelled() => break,
        }
    }
}

/// Opens days of results before they begin, and deletes those that are no longer kept.
async fn turn_days<Q: Queue, U: Upstream>(state: Arc<WorkerState<Q, U>>, end: CancellationToken) {
    let mut tick = tokio::time::interval(DAYS);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let state = Arc::clone(&state);
                let turned = tokio::task::spawn_blocking(move || {
                    let now = state.clock.now();
                    state.results.open_ahead(now.checked_add(2 * DAYS).unwrap_or(now))?;
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
