//! A schedule: what is published when, against which provider; and how it is run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_providers::Endpoint;
use forebay_providers::Secret;
use forebay_providers::cost::LimitDimension;
use forebay_providers::registry::provider;
use forebay_schemas::{Cache, Flow, Lane};
use forebay_workers::accounts::{self, AccountKey, Algorithm, Amount, Limit};
use forebay_workers::clock::SystemClock;
use forebay_workers::fence::CallFence;
use forebay_workers::outcome::patience::Patience;
use forebay_workers::outcome::policy::RetryPolicy;
use forebay_workers::sim::VirtualClock;
use forebay_workers::sim::queue::SimQueue;
use forebay_workers::sim::upstream::{SimAccount, SimBehaviour, SimCounting, SimUpstream, Tells};
use forebay_workers::store::journal::Journal;
use forebay_workers::store::results::{ResultStore, Retention};
use forebay_workers::{Config, PoolConfig, SubjectRules, TargetConfig, Worker};
use jiff::SignedDuration;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub(crate) const MILLI: Duration = Duration::from_millis(1);

/// One account, as the provider enforces it and as it is configured.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) requests: usize,
    pub(crate) per: Duration,
    /// What the configuration says; what the provider enforces if it is true.
    pub(crate) configured: usize,
    /// How the provider counts, and whether the configuration names it.
    pub(crate) counting: SimCounting,
    pub(crate) algorithm: Algorithm,
    /// What the provider's answers tell; if `learned`, nothing is configured.
    pub(crate) tells: Tells,
    pub(crate) learned: bool,
}

impl Limits {
    /// Limits that are configured truly and spent smoothly.
    pub(crate) fn smooth(requests: usize, per: Duration, counting: SimCounting) -> Self {
        Self {
            requests,
            per,
            configured: requests,
            counting,
            algorithm: Algorithm::Smooth,
            tells: Tells::Waits,
            learned: false,
        }
    }

    /// Limits that are configured truly and spent as calls come.
    pub(crate) fn counted(requests: usize, per: Duration, counting: SimCounting) -> Self {
        Self {
            algorithm: Algorithm::Counted,
            ..Self::smooth(requests, per, counting)
        }
    }
}

/// What can happen to time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Time {
    /// The machine's clock is set forward or back.
    Set(SignedDuration),
    /// The process is stopped and continued: the world goes on meanwhile, and nothing here runs.
    Absence(Duration),
}

#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) accounts: Vec<Limits>,
    pub(crate) jobs: usize,
    /// Between two publishes: anything up to this.
    pub(crate) gap: Duration,
    pub(crate) behaviour: SimBehaviour,
    pub(crate) teams: Vec<&'static str>,
    /// How often the worker is stopped, and another started in its place.
    pub(crate) restarts: usize,
    /// What happens to time, each within some seconds of the one before.
    pub(crate) times: Vec<Time>,
    pub(crate) seed: u64,
}

/// What a run left behind.
pub(crate) struct Run {
    pub(crate) schedule: Schedule,
    pub(crate) queue: SimQueue,
    pub(crate) upstream: SimUpstream,
    pub(crate) worker: Worker<SimQueue, SimUpstream>,
    pub(crate) keys: Vec<String>,
    _dir: tempfile::TempDir,
}

/// Has these things happen to time.
async fn pass(times: Vec<Time>, clock: Arc<VirtualClock>, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed ^ 0x71e);
    for time in times {
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..5_000))).await;
        match time {
            Time::Set(by) => clock.set(by),
            Time::Absence(absence) => tokio::time::advance(absence).await,
        }
    }
}

impl Schedule {
    /// A schedule without faults, drawn from `seed`.
    pub(crate) fn calm(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let accounts = (0..rng.random_range(1..4)).map(|_| {
            let requests = rng.random_range(5..60);
            let per = Duration::from_secs(rng.random_range(1..20));
            let counting = [
                SimCounting::Sliding,
                SimCounting::Fixed,
                SimCounting::Bucket,
            ][rng.random_range(0..3)];
            Limits::smooth(requests, per, counting)
        });
        let accounts: Vec<_> = accounts.collect();
        let latency = Duration::from_millis(rng.random_range(1..3_000));
        let behaviour = SimBehaviour {
            accounts: Vec::new(),
            send_delay: Duration::from_millis(rng.random_range(0..400)),
            way: 2 * MILLI,
            latency: (latency / 4, latency),
            errors: 0.0,
            outage: Duration::ZERO,
            lost: 0.0,
            seed,
        };
        let gap = Duration::from_millis(rng.random_range(0..50));
        Self {
            accounts,
            jobs: 200,
            gap,
            behaviour,
            teams: vec!["a", "b"],
            restarts: 0,
            times: Vec::new(),
            seed,
        }
    }

    /// The same with faults.
    pub(crate) fn stormy(seed: u64) -> Self {
        let mut schedule = Self::calm(seed);
        schedule.behaviour.errors = 0.05;
        schedule.behaviour.lost = 0.02;
        schedule
    }

    pub(crate) async fn run(mut self) -> Run {
        let clock = Arc::new(VirtualClock::new(
            "2026-11-24T10:00:00Z".parse().expect("a time"),
        ));
        // In memory where there is such a place: what is stored here need not survive a power loss.
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.expect("a directory");
        let keys: Vec<_> = (0..self.accounts.len())
            .map(|index| format!("key-{index}"))
            .collect();
        let account = |(limits, key): (&Limits, &String)| SimAccount {
            key: key.clone(),
            limits: vec![(limits.requests, limits.per)],
            counting: limits.counting,
            tells: limits.tells,
        };
        self.behaviour.accounts = self.accounts.iter().zip(&keys).map(account).collect();
        let queue = SimQueue::new(clock.clone());
        let upstream = SimUpstream::new(self.behaviour.clone());
        let retention = Retention {
            keep_days: 7,
            horizon_days: 2,
        };
        let now = forebay_workers::clock::Clock::now(&*clock);
        let start = async |saved_states, restart: usize| {
            // Two workers cannot have one store at once; what the first has answered, its completions tell.
            let folder = dir.path().join(restart.to_string());
            let results = ResultStore::open_in_place(&folder, retention, now).expect("a store");
            let idle = (restart > 0).then_some(Duration::ZERO);
            let config = Config {
                saved_states,
                idle,
                ..self.config(&keys)
            };
            let journal = Journal::open(&dir.path().join("journal")).expect("a journal");
            let stores = (results, journal);
            let worker = Worker::start(
                config,
                queue.clone(),
                upstream.clone(),
                stores,
                clock.clone(),
            );
            worker.await.expect("it starts")
        };
        let mut worker = start(HashMap::new(), 0).await;
        let times = tokio::spawn(pass(self.times.clone(), Arc::clone(&clock), self.seed));
        self.publish(&queue).await;
        for restart in 1..=self.restarts {
            queue
                .completed(self.jobs * restart / (self.restarts + 1))
                .await;
            worker.stop(Duration::from_secs(3_600), true).await;
            let saved_states = worker.saved_states(false).into_iter().collect();
            worker = start(saved_states, restart).await;
        }
        queue.completed(self.jobs).await;
        worker.stop(Duration::from_secs(3_600), true).await;
        times.abort();
        Run {
            schedule: self,
            queue,
            upstream,
            worker,
            keys,
            _dir: dir,
        }
    }

    /// The flow of each job.
    pub(crate) fn flows(&self) -> Vec<Flow> {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0xf10);
        let flow = |_| {
            let team = self.teams[rng.random_range(0..self.teams.len())];
            let lane = Lane::ALL[rng.random_range(0..3)];
            Flow {
                pool: "p".to_owned(),
                team: team.to_owned(),
                lane,
            }
        };
        (0..self.jobs).map(flow).collect()
    }

    async fn publish(&self, queue: &SimQueue) {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ 0x5eed);
        for (job, flow) in self.flows().into_iter().enumerate() {
            queue.publish(
                &flow,
                format!(r#"{{"id":"{job}","body":{{"messages":[{job}],"max_tokens":1}}}}"#),
            );
            if !self.gap.is_zero() {
                tokio::time::sleep(self.gap.mul_f64(rng.random::<f64>())).await;
            }
        }
    }

    fn config(&self, keys: &[String]) -> Config {
        let account = |(limits, key): (&Limits, &String)| accounts::Config {
            name: key.clone(),
            endpoint: Endpoint::new(
                provider("openai").expect("a known provider"),
                "http://provider",
            ),
            keys: vec![AccountKey::new("only", Secret::new(key.as_str()))],
            limits: [Limit {
                amount: Amount::PerPeriod {
                    dimension: LimitDimension::Requests,
                    limit: limits.configured as u64,
                    per: limits.per,
                    algorithm: limits.algorithm,
                    day_in: None,
                },
                models: None,
            }]
            .into_iter()
            .filter(|_| !limits.learned)
            .collect(),
        };
        let target = |account| TargetConfig::new(account, "m");
        Config {
            accounts: self.accounts.iter().zip(keys).map(account).collect(),
            on_demand: None,
            pools: vec![PoolConfig {
                name: "p".to_owned(),
                targets: (0..keys.len()).map(target).collect(),
                content_fallback: false,
                merge: true,
                cache: Cache::Off,
                patience: None,
            }],
            teams: HashMap::new(),
            policy: RetryPolicy {
                max_attempts: 6,
                patience: Patience::default(),
            },
            lane_weights: [(Lane::Interactive, 16), (Lane::Normal, 4), (Lane::Bulk, 1)],
            idle: None,
            saved_states: HashMap::new(),
            kept: false,
            controls: forebay_workers::WorkerControls::default(),
            fence: CallFence::unlimited(Arc::new(SystemClock)),
            addressing: SubjectRules::default(),
            results_are_complete: true,
            max_request: usize::MAX,
        }
    }
}
