//! A property test: every call gives back all that it took, whatever its outcome.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Class;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::time::{Instant, advance};

use super::tests::account;
use super::*;
use crate::clock::SystemClock;
use forebay_providers::cost::{CountedTogether, LimitDimension};
use forebay_providers::{ErrorScope, RateLimitHeaders};

const SECOND: Duration = Duration::from_secs(1);
const MODELS: [&str; 2] = ["m", "n"];

/// One step of a run. A permit is named by its place among those that are held.
#[derive(Debug, Clone)]
enum Step {
    Reserve {
        model: &'static str,
        input: u64,
        output: u64,
    },
    Send(usize),
    Settle {
        permit: usize,
        input: u64,
        output: u64,
        lowers: bool,
    },
    Accepted(usize),
    Refused {
        permit: usize,
        of_key: bool,
        wait: Option<Duration>,
    },
    Failed(usize),
    Abandoned(usize, Duration),
    BadKey(usize),
    Told {
        permit: usize,
        limit: u64,
        remaining: u64,
        rest: Duration,
    },
    /// The call ended, or it or its task was cancelled.
    Dropped(usize),
    Enable,
    Advance(Duration),
    /// All permits are dropped at once.
    Shutdown,
}

fn step() -> impl Strategy<Value = Step> {
    let permit = 0..8_usize;
    let tokens = 0..60_u64;
    let wait = (0..5_000_u64).prop_map(Duration::from_millis);
    prop_oneof![
        6 => (select(&MODELS[..]), tokens.clone(), tokens.clone())
            .prop_map(|(model, input, output)| Step::Reserve { model, input, output }),
        4 => permit.clone().prop_map(Step::Send),
        2 => (permit.clone(), tokens.clone(), tokens.clone(), any::<bool>())
            .prop_map(|(permit, input, output, lowers)| Step::Settle { permit, input, output, lowers }),
        2 => permit.clone().prop_map(Step::Accepted),
        1 => (permit.clone(), any::<bool>(), proptest::option::of(wait.clone()))
            .prop_map(|(permit, of_key, wait)| Step::Refused { permit, of_key, wait }),
        1 => permit.clone().prop_map(Step::Failed),
        1 => (permit.clone(), wait.clone()).prop_map(|(permit, rest)| Step::Abandoned(permit, rest)),
        1 => permit.clone().prop_map(Step::BadKey),
        1 => (permit.clone(), prop_oneof![Just(10), 1..50_u64], 0..50_u64, wait.clone()).prop_map(
            |(permit, limit, remaining, rest)| Step::Told {
                permit,
                limit,
                remaining: remaining.min(limit),
                rest
            }
        ),
        4 => permit.prop_map(Step::Dropped),
        1 => Just(Step::Enable),
        4 => wait.prop_map(Step::Advance),
        1 => Just(Step::Shutdown),
    ]
}

fn per(dimension: LimitDimension, limit: u64, per: Duration, algorithm: Algorithm) -> Limit {
    let amount = Amount::PerPeriod {
        dimension,
        limit,
        per,
        algorithm,
        day_in: None,
    };
    Limit {
        amount,
        models: None,
    }
}

/// Returns limits of some kinds. If there are none, limits are learned.
fn limits() -> impl Strategy<Value = Vec<Limit>> {
    let shared = Limit {
        models: Some(MODELS.map(str::to_owned).to_vec()),
        ..per(
            LimitDimension::InputTokens,
            100,
            10 * SECOND,
            Algorithm::Counted,
        )
    };
    let all = vec![
        per(LimitDimension::Requests, 10, 10 * SECOND, Algorithm::Smooth),
        per(LimitDimension::Requests, 10, 5 * SECOND, Algorithm::Fixed),
        per(LimitDimension::Tokens, 200, 10 * SECOND, Algorithm::Bucket),
        per(
            LimitDimension::OutputTokens,
            100,
            600 * SECOND,
            Algorithm::Counted,
        ),
        Limit {
            amount: Amount::Concurrent(4),
            models: None,
        },
        shared,
    ];
    let count = all.len();
    proptest::sample::subsequence(all, 0..=count)
}

fn cost(input_tokens: u64, output_tokens: u64) -> CallCost {
    CallCost {
        requests: 1,
        input_tokens,
        output_tokens,
        together: CountedTogether::Sum,
    }
}

/// An account, a team with limits, and the permits of the calls under way.
struct World {
    account: Arc<Account>,
    team_limits: Arc<TeamLimits>,
    permits: Vec<Permit>,
}

impl World {
    fn new(limits: Vec<Limit>) -> Self {
        let team = [
            per(
                LimitDimension::Requests,
                20,
                10 * SECOND,
                Algorithm::Counted,
            ),
            Limit {
                amount: Amount::Concurrent(3),
                models: None,
            },
        ];
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let team_limits = TeamLimits::new(&team, Arc::default(), None, &clock);
        Self {
            account: account(limits, 2),
            team_limits,
            permits: Vec::new(),
        }
    }

    async fn apply(&mut self, step: Step) {
        let now = Instant::now();
        match step {
            Step::Reserve {
                model,
                input,
                output,
            } => self.reserve(model, cost(input, output), now),
            Step::Enable => drop(self.account.enable(None)),
            Step::Advance(by) => advance(by).await,
            Step::Shutdown => self.permits.clear(),
            Step::Send(place) => self.with(place, |permit| permit.send_marker().sent(now)),
            Step::Settle {
                permit,
                input,
                output,
                lowers,
            } => {
                self.with(permit, |permit| permit.settle(cost(input, output), lowers));
            }
            Step::Accepted(place) => self.with(place, |permit| {
                permit.mark_answered();
                permit.record_success(now);
                permit.accepted(now);
            }),
            Step::Refused {
                permit,
                of_key,
                wait,
            } => {
                let scope = if of_key {
                    ErrorScope::Key
                } else {
                    ErrorScope::Model
                };
                self.with(permit, |permit| {
                    permit.mark_answered();
                    permit.refused(scope, Class::RateLimited, wait, now);
                });
            }
            Step::Failed(place) => self.with(place, |permit| {
                permit.record_failure(Class::ServerError, now)
            }),
            Step::Abandoned(place, rest) => self.with(place, |permit| permit.abandoned(now, rest)),
            Step::BadKey(place) => self.with(place, |permit| permit.disable_key(Class::BadKey)),
            Step::Told {
                permit,
                limit,
                remaining,
                rest,
            } => {
                let headers = RateLimitHeaders {
                    dimension: LimitDimension::Requests,
                    limit,
                    remaining,
                    whole_in: Some(rest),
                    resolution: Duration::from_millis(1),
                    per: None,
                };
                self.with(permit, |permit| permit.observe(&[headers], now));
            }
            Step::Dropped(place) if !self.permits.is_empty() => {
                let place = place % self.permits.len();
                drop(self.permits.swap_remove(place));
            }
            Step::Dropped(_) => {}
        }
    }

    fn reserve(&mut self, model: &str, cost: CallCost, now: Instant) {
        if self.team_limits.peek(&cost, now).is_err() {
            return;
        }
        if let Ok(mut permit) = self.account.reserve(model, cost, now)
            && let Ok(share) = self.team_limits.take(&cost, now)
        {
            permit.charge(share);
            self.permits.push(permit);
        }
    }

    fn with(&mut self, place: usize, act: impl FnOnce(&mut Permit)) {
        let count = self.permits.len();
        if count > 0 {
            act(&mut self.permits[place % count]);
        }
    }

    /// Checks that each call under way has its permit, and that they are no more than the team's limit.
    fn holds(&self) {
        let snapshot = self.account.snapshot(Instant::now());
        assert_eq!(snapshot.totals.in_flight, self.permits.len() as u64);
        assert!(self.permits.len() <= 3, "the team's calls at once");
    }

    /// Checks that nothing is taken long after all calls have ended, and that calls may be made.
    async fn ends(mut self) {
        self.permits.clear();
        self.account.enable(None);
        advance(7_200 * SECOND).await;
        let now = Instant::now();
        let mut ledger = self.account.ledger();
        let mut inner = self.team_limits.inner();
        let meters = ledger.meters.iter_mut();
        for meter in meters.chain(&mut inner.meters) {
            assert_eq!(meter.taken(now), 0, "{meter:?}");
            assert!(meter.headroom(now) > 0.999, "{meter:?}");
            assert!(meter.is_empty(), "{meter:?}");
        }
        drop((ledger, inner));
        for model in MODELS {
            let permit = self.account.reserve(model, cost(1, 1), now);
            assert!(permit.is_ok(), "{model}: {permit:?}");
            assert!(self.team_limits.peek(&cost(1, 1), now).is_ok());
        }
    }
}

proptest! {
    #[test]
    fn everything_comes_back(limits in limits(), steps in vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut world = World::new(limits);
            for step in steps {
                world.apply(step).await;
                world.holds();
            }
            world.ends().await;
        });
    }
}
