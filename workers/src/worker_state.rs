//! The state that all steps of a job share: pools, accounts, the queue, the connection to providers, the store.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_schemas::{Flow, Lane};
use jiff::Timestamp;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::accounts::{Account, AccountState, CircuitBreakers, ClockPair, TeamLimits, Wake};
use crate::addressing::SubjectRules;
use crate::backpressure::{PublishingState, StoreBackpressure};
use crate::clock::{Clock, SavedMoment};
use crate::config::{Config, TeamConfig, saved_name_of_team};
use crate::controls::WorkerControls;
use crate::counters::Counters;
use crate::fence::CallFence;
use crate::job::in_flight::InFlightJobs;
use crate::job::inbox::DispatcherHandle;
use crate::job::merge_size::MergeSizes;
use crate::job::unacked::UnackedDeliveries;
use crate::memory_budget::MemoryBudget;
use crate::outcome::policy::RetryPolicy;
use crate::pools::{PoolTarget, Pools};
use crate::queue::{ActiveReadings, Queue};
use crate::store::journal::Journal;
use crate::store::results::ResultStore;

/// The most jobs of one queue that wait here; the rest waits in the stream.
const MAX_PREFETCH: usize = 512;

/// Queues that are read at once. More than this take turns: each costs the server a consumer, and thousands of consumers
/// on one stream slow each other down.
const MAX_OPEN_FLOWS: usize = 1_000;

/// The state that all steps of a job share.
#[derive(Debug)]
pub(crate) struct WorkerState<Q, U> {
    pub(crate) queue: Q,
    pub(crate) upstream: U,
    pub(crate) results: ResultStore,
    pub(crate) journal: Journal,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) accounts: Vec<Arc<Account>>,
    pub(crate) pools: Pools,
    pub(crate) teams: HashMap<String, TeamConfig>,
    pub(crate) addressing: SubjectRules,
    /// The limits of each team that has some.
    pub(crate) team_limits: HashMap<String, Arc<TeamLimits>>,
    /// Notified when an account or a team may not spend on before its state is persisted.
    pub(crate) save_requests: Arc<Notify>,
    pub(crate) policy: RetryPolicy,
    pub(crate) controls: WorkerControls,
    pub(crate) fence: Arc<CallFence>,
    /// True if every answer within the dedupe horizon is in the store.
    pub(crate) results_are_complete: bool,
    /// The largest job that is fetched from an object, in bytes.
    pub(crate) max_request: usize,
    pub(crate) rng: Mutex<SmallRng>,
    pub(crate) unacked: Arc<UnackedDeliveries>,
    pub(crate) in_flight: Arc<InFlightJobs>,
    /// The queues that are read now.
    pub(crate) readings: Arc<ActiveReadings>,
    /// One permit for each queue that may be read at once.
    pub(crate) flow_permits: Semaphore,
    pub(crate) dispatcher: DispatcherHandle,
    pub(crate) wake: Arc<Wake>,
    pub(crate) backpressure: StoreBackpressure,
    /// The memory of the jobs of all queues.
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) counters: Counters,
    /// The learned number of texts of a merged call, by target.
    pub(crate) merge_sizes: MergeSizes,
}

impl<Q, U> WorkerState<Q, U> {
    pub(crate) fn new(
        config: Config,
        queue: Q,
        upstream: U,
        (results, journal): (ResultStore, Journal),
        clock: Arc<dyn Clock>,
        dispatcher: DispatcherHandle,
    ) -> Self {
        let wake = Arc::new(Wake::default());
        let idle = config.idle;
        let spent_at = idle.and_then(|idle| Instant::now().checked_sub(idle));
        let circuits = Arc::new(CircuitBreakers::default());
        let account = |account| {
            let (wake, circuits) = (Arc::clone(&wake), Arc::clone(&circuits));
            Account::new(account, wake, circuits, spent_at, Arc::clone(&clock))
        };
        let accounts: Vec<_> = config.accounts.into_iter().map(account).collect();
        let mut team_limits = HashMap::new();
        for (name, team) in &config.teams {
            if !team.limits.is_empty() {
                let limits = TeamLimits::new(&team.limits, Arc::clone(&wake), spent_at, &clock);
                team_limits.insert(name.clone(), limits);
            }
        }
        let pools = Pools::new(config.pools, &accounts, config.on_demand);
        let moment = ClockPair {
            instant: Instant::now(),
            wall: clock.now(),
        };
        let clocks = SavedMoment::of(clock.as_ref());
        let save_requests = Arc::<Notify>::default();
        // Before anything is resumed: an account makes its meters then.
        if config.kept {
            accounts
                .iter()
                .for_each(|account| account.keep(&save_requests));
            let team_limits = team_limits.values();
            team_limits.for_each(|limits| limits.keep(&save_requests));
        }
        let saved = &config.saved_states;
        for account in &accounts {
            let saved = saved.get(account.name());
            resume_account(account, &pools, saved, &clocks, moment);
        }
        for (team, limits) in &team_limits {
            if let Some(saved) = saved.get(&saved_name_of_team(team)) {
                let saved = saved.clone().on_clock(&clocks, limits.limits());
                limits.resume(&saved, moment);
            }
        }
        Self {
            queue,
            upstream,
            results,
            journal,
            // Jitter only has to differ between processes that start together.
            rng: Mutex::new(SmallRng::seed_from_u64(clock.now().as_nanosecond() as u64)),
            clock,
            accounts,
            pools,
            team_limits,
            save_requests,
            teams: config.teams,
            addressing: config.addressing,
            policy: config.policy,
            controls: config.controls,
            fence: config.fence,
            results_are_complete: config.results_are_complete,
            max_request: config.max_request,
            unacked: Arc::default(),
            in_flight: Arc::default(),
            readings: Arc::default(),
            flow_permits: Semaphore::new(MAX_OPEN_FLOWS),
            dispatcher,
            wake,
            backpressure: StoreBackpressure::default(),
            memory: Arc::default(),
            counters: Counters::default(),
            merge_sizes: MergeSizes::default(),
        }
    }

    pub(crate) fn rng(&self) -> parking_lot::MutexGuard<'_, SmallRng> {
        self.rng.lock()
    }

    /// The wall clock's time.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn target(&self, target: usize) -> &PoolTarget {
        self.pools.target(target)
    }

    /// The team's limits; `None` if it has none.
    pub(crate) fn limits_of(&self, team: &str) -> Option<&Arc<TeamLimits>> {
        self.team_limits.get(team)
    }

    pub(crate) fn team(&self, name: &str) -> TeamConfig {
        self.teams.get(name).cloned().unwrap_or_default()
    }

    /// The lane in which the jobs of a queue are served.
    pub(crate) fn lane_of(&self, flow: &Flow) -> Lane {
        let team = self.teams.get(&flow.team);
        team.map_or(flow.lane, |team| team.lane_for(flow.lane))
    }

    /// How many jobs of a queue of `pool` are prefetched: as many as the pool can call in a quarter of a second, at least one.
    pub(crate) fn prefetch_size(&self, pool: &str) -> usize {
        let Some(pool) = self.pools.get(pool) else {
            return MAX_PREFETCH;
        };
        let rates = pool.candidates.iter().map(|candidate| {
            let target = self.target(candidate.target);
            target.account.short_rate(&target.model)
        });
        let Some(rate) = rates.sum::<Option<f64>>() else {
            return MAX_PREFETCH;
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive rate; a cast saturates"
        )]
        let jobs = (rate * 0.25).ceil() as usize;
        jobs.clamp(1, MAX_PREFETCH)
    }
}

impl<Q: Queue, U> WorkerState<Q, U> {
    /// Returns true if calls may be made now: no other worker may have taken over, and their answers can be kept.
    pub(crate) fn may_call(&self, now: Instant) -> bool {
        let publishing = PublishingState {
            now,
            is_connected: self.queue.is_connected(),
            unpublished: self.counters.unpublished(),
        };
        self.fence.is_open() && !self.backpressure.is_on(publishing)
    }
}

/// Takes in what a process before this one saved of an account. A model that no pool has any more is dropped, unless what
/// it spent counts for others too.
fn resume_account(
    account: &Account,
    pools: &Pools,
    saved: Option<&AccountState>,
    now: &SavedMoment,
    moment: ClockPair,
) {
    let Some(saved) = saved.cloned() else {
        return;
    };
    let mut saved = saved.on_clock(now, &account.config().limits);
    saved.models.retain(|model, _| {
        account.config().shares_limits(model)
            || pools.are_made_on_demand()
            || pools.index_of(account.name(), model).is_some()
    });
    account.resume(&saved, moment);
}
