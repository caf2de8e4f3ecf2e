//! Plays the rules of accounts and targets ahead of time. A call takes [`CALL`], which passes at once.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use forebay_schemas::{Job, Usage};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{CALL, Forecast};
use crate::accounts::{Account, CircuitBreakers, Denied, Permit, TeamLimits, Wake};
use crate::clock::Clock;
use crate::config::Config;
use crate::intake::route::route;
use crate::job::candidates::CandidateState;
use crate::job::merge_key::MergeCandidate;
use crate::job::share::CoalesceRequest;
use crate::pools::Pools;
use forebay_providers::Endpoint;
use forebay_providers::cost::CallCost;

/// The likely share of the estimated tokens of a prompt, as numerator and denominator. Estimates are on the safe
/// side.
const LIKELY: (u64, u64) = (3, 4);
/// The pause before another attempt to start a call, if no limit states a time.
const STEP: Duration = Duration::from_millis(1);

/// A clock that shows the wall time of the played moment.
#[derive(Debug)]
struct ForecastClock {
    from: Timestamp,
    nanos: AtomicU64,
}

impl Clock for ForecastClock {
    fn now(&self) -> Timestamp {
        let passed = Duration::from_nanos(self.nanos.load(Ordering::Relaxed));
        self.from.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

/// A waiting job.
struct PendingJob {
    choices: Vec<CandidateState>,
    cost: CallCost,
    join: Option<MergeCandidate>,
    /// True if the job states the longest answer.
    states_maximum: bool,
    /// The service tier that the job requests.
    tier: Option<String>,
}

/// Jobs that wait for the same targets and may be merged into one call.
struct ForecastLine {
    targets: Vec<usize>,
    jobs: VecDeque<Box<PendingJob>>,
}

/// A call in flight.
struct ForecastCall {
    permit: Permit,
    estimated: u64,
    used: Usage,
}

pub(super) struct ForecastPlayer {
    pools: Pools,
    cap: Option<Arc<TeamLimits>>,
    clock: Arc<ForecastClock>,
    start: Instant,
    now: Instant,
    lines: Vec<ForecastLine>,
    under_way: BTreeMap<(Instant, u64), ForecastCall>,
    sent: u64,
    pub(super) forecast: Forecast,
    places: HashMap<(Vec<usize>, Option<Arc<str>>), usize>,
}

impl ForecastPlayer {
    pub(super) fn new(config: Config, team: &str, now: Timestamp) -> Self {
        let clock = Arc::new(ForecastClock {
            from: now,
            nanos: AtomicU64::new(0),
        });
        let (wake, circuits) = (
            Arc::new(Wake::default()),
            Arc::new(CircuitBreakers::default()),
        );
        let shown: Arc<dyn Clock> = Arc::<ForecastClock>::clone(&clock);
        let account = |account| {
            Account::new(
                account,
                Arc::clone(&wake),
                Arc::clone(&circuits),
                None,
                Arc::clone(&shown),
            )
        };
        let accounts: Vec<_> = config.accounts.into_iter().map(account).collect();
        let limits = config
            .teams
            .get(team)
            .map(|team| team.limits.clone())
            .unwrap_or_default();
        let cap =
            (!limits.is_empty()).then(|| TeamLimits::new(&limits, Arc::clone(&wake), None, &shown));
        let start = Instant::now();
        Self {
            pools: Pools::new(config.pools, &accounts, config.on_demand),
            cap,
            clock,
            start,
            now: start,
            lines: Vec::new(),
            under_way: BTreeMap::new(),
            sent: 0,
            forecast: Forecast::default(),
            places: HashMap::new(),
        }
    }

    pub(super) fn take_in(
        &mut self,
        pool: &str,
        job: &Job,
        team: &str,
        seen: &mut HashSet<(String, String)>,
    ) {
        let found = route(&self.pools, pool, job, true)
            .ok()
            .filter(|found| found.rejection.is_none());
        let Some(found) = found else {
            self.forecast.unserved += 1;
            return;
        };
        let is_shared = CoalesceRequest::of(job, found.pool.cache).is_some();
        if is_shared && !seen.insert((team.to_owned(), job.fingerprint(pool))) {
            return;
        }
        let choices = found.candidates.left().to_vec();
        let is_too_long = found
            .candidates
            .are_too_small_for(likely(found.cost.input_tokens));
        self.forecast.too_long += usize::from(is_too_long);
        let join = found
            .pool
            .merge
            .then(|| MergeCandidate::of(job, pool))
            .flatten();
        let join = join.filter(|join| join.inputs > 1 || !is_too_long);
        let tier = job
            .body
            .get("service_tier")
            .and_then(|raw| serde_json::from_str(raw.get()).ok());
        let states_maximum = Endpoint::states_maximum(job);
        let targets: Vec<_> = choices.iter().map(|choice| choice.target).collect();
        let key = (
            targets.clone(),
            join.as_ref().map(|join| Arc::clone(&join.key)),
        );
        let lines = &mut self.lines;
        let place = *self.places.entry(key).or_insert_with(|| {
            lines.push(ForecastLine {
                targets,
                jobs: VecDeque::new(),
            });
            lines.len() - 1
        });
        self.lines[place].jobs.push_back(Box::new(PendingJob {
            choices,
            cost: found.cost,
            join,
            states_maximum,
            tier,
        }));
    }

    pub(super) fn play(mut self) -> Forecast {
        let mut last = self.start;
        while !self.lines.is_empty() || !self.under_way.is_empty() {
            let mut next = None;
            // A job that is denied keeps its turn: later jobs for the same targets are not tried.
            let mut denied_here: Vec<Vec<usize>> = Vec::new();
            for line in 0..self.lines.len() {
                if denied_here.contains(&self.lines[line].targets) {
                    continue;
                }
                while let Some(first) = self.lines[line].jobs.pop_front() {
                    let Err((first, denied)) = self.start(first, line) else {
                        continue;
                    };
                    match denied {
                        Denied::TooLarge | Denied::Disabled(_) => self.forecast.unserved += 1,
                        Denied::Until(_) | Denied::UntilRelease => {
                            self.lines[line].jobs.push_front(first);
                            denied_here.push(self.lines[line].targets.clone());
                            let until = if let Denied::Until(at) = denied {
                                Some(at)
                            } else {
                                None
                            };
                            next = next.into_iter().chain(until).min();
                            break;
                        }
                    }
                }
            }
            self.lines.retain(|line| !line.jobs.is_empty());
            let ends = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let Some(at) = next.into_iter().chain(ends).min() else {
                break;
            };
            self.pass(at.max(self.now + STEP));
            while let Some(entry) = self
                .under_way
                .first_entry()
                .filter(|entry| entry.key().0 <= self.now)
            {
                last = last.max(entry.key().0);
                end(entry.remove(), self.now);
            }
        }
        let takes = last.saturating_duration_since(self.start);
        self.forecast.takes = self.forecast.unlimited.is_empty().then_some(takes);
        self.forecast
    }

    fn pass(&mut self, at: Instant) {
        self.now = at;
        let passed =
            u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX);
        self.clock.nanos.store(passed, Ordering::Relaxed);
    }

    /// Starts a call for `first` and the jobs that are merged with it. Returns `first` and the reason if it has to
    /// wait.
    fn start(
        &mut self,
        first: Box<PendingJob>,
        line: usize,
    ) -> Result<(), (Box<PendingJob>, Denied)> {
        let (target, permit) = match self.reserve(&first) {
            Ok(reserved) => reserved,
            Err(denied) => return Err((first, denied)),
        };
        let mut party = vec![*first];
        self.join(&mut party, line, target, &permit);
        let place = self.pools.target(target);
        let account = &place.account;
        if account.learns() {
            self.forecast.unlimited.insert(account.name().to_owned());
        }
        let mut all = ForecastCall {
            permit,
            estimated: 0,
            used: Usage::default(),
        };
        for PendingJob {
            cost,
            states_maximum,
            tier,
            ..
        } in &party
        {
            let input_tokens = likely(cost.input_tokens);
            let is_bound = *states_maximum || cost.output_tokens == 0;
            let most = if is_bound {
                Some(cost.output_tokens)
            } else {
                place.max_output
            };
            self.forecast.unbounded += usize::from(most.is_none());
            let used = Usage {
                input_tokens,
                output_tokens: cost.output_tokens,
                ..Usage::default()
            };
            let longest = Usage {
                output_tokens: most.unwrap_or(cost.output_tokens),
                ..used
            };
            self.forecast.output_tokens += longest.output_tokens;
            let prompt = Usage {
                output_tokens: 0,
                ..used
            };
            let price = |used| {
                place
                    .prices
                    .as_ref()
                    .and_then(|prices| prices.amount(used, tier.as_deref()))
            };
            let priced = price(&prompt)
                .zip(price(&longest))
                .and_then(|(prompt, both)| {
                    let prompts = self.forecast.prompts.checked_add(prompt)?;
                    Some((
                        prompts,
                        self.forecast
                            .answers
                            .checked_add(both.checked_sub(prompt)?)?,
                    ))
                });
            match priced {
                Some(sums) => (self.forecast.prompts, self.forecast.answers) = sums,
                None => self.forecast.unpriced += 1,
            }
            all.estimated += cost.input_tokens;
            all.used.input_tokens += input_tokens;
            all.used.output_tokens += cost.output_tokens;
        }
        self.forecast.input_tokens += all.used.input_tokens;
        *self
            .forecast
            .calls
            .entry((account.name().to_owned(), place.model.clone()))
            .or_default() += 1;
        all.permit.send_marker().sent(self.now);
        self.sent += 1;
        self.under_way.insert((self.now + CALL, self.sent), all);
        Ok(())
    }

    /// Returns a permit of the first target with room. Lower tiers come first.
    fn reserve(&self, job: &PendingJob) -> Result<(usize, Permit), Denied> {
        if let Some(cap) = &self.cap {
            cap.peek(&job.cost, self.now)?;
        }
        let room = |choice: &CandidateState| {
            let target = self.pools.target(choice.target);
            target.account.headroom(&target.model, self.now) * choice.weight
        };
        let mut order: Vec<_> = job
            .choices
            .iter()
            .map(|choice| (choice, room(choice)))
            .collect();
        order.sort_by(|(one, one_room), (other, other_room)| {
            one.rank()
                .cmp(&other.rank())
                .then(other_room.total_cmp(one_room))
        });
        let mut denied: Option<Denied> = None;
        for (choice, _) in order {
            let waits_for_lower = denied.is_some_and(Denied::is_temporary)
                && choice.enters_at(self.start) > self.start;
            if waits_for_lower {
                continue;
            }
            let target = self.pools.target(choice.target);
            match target.account.reserve(&target.model, choice.cost, self.now) {
                Ok(mut permit) => {
                    if let Some(cap) = &self.cap {
                        permit.charge(cap.take(&job.cost, self.now)?);
                    }
                    return Ok((choice.target, permit));
                }
                Err(other) => denied = Some(denied.map_or(other, |known| sooner(known, other))),
            }
        }
        Err(denied.unwrap_or(Denied::TooLarge))
    }

    fn join(&mut self, party: &mut Vec<PendingJob>, line: usize, target: usize, permit: &Permit) {
        let account = permit.account();
        if party[0].join.is_none() || !account.counts_calls(permit.model()) {
            return;
        }
        let joins = account.config().endpoint.provider.merges;
        let size = |job: &PendingJob| job.join.as_ref().map_or(1, |join| join.inputs);
        let (mut inputs, mut tokens) = (size(&party[0]), party[0].cost.input_tokens);
        while let Some(next) = self.lines[line].jobs.front() {
            let cost = next
                .choices
                .iter()
                .find(|choice| choice.target == target)
                .map(|choice| choice.cost);
            let (all, all_tokens) = (inputs + size(next), tokens + next.cost.input_tokens);
            let fits = all <= joins.inputs && all_tokens <= joins.tokens;
            if !fits || !cost.is_some_and(|cost| permit.extend(&cost, self.now)) {
                break;
            }
            (inputs, tokens) = (all, all_tokens);
            party.extend(self.lines[line].jobs.pop_front().map(|job| *job));
        }
    }
}

/// Returns the likely tokens of a prompt with `estimated` tokens.
fn likely(estimated: u64) -> u64 {
    estimated.saturating_mul(LIKELY.0) / LIKELY.1
}

/// Returns the reason to wait of a job that two targets deny.
fn sooner(one: Denied, other: Denied) -> Denied {
    match (one, other) {
        (Denied::Until(one), Denied::Until(other)) => Denied::Until(one.min(other)),
        (Denied::TooLarge | Denied::Disabled(_), other) => other,
        (one, _) => one,
    }
}

fn end(call: ForecastCall, now: Instant) {
    let ForecastCall {
        mut permit,
        estimated,
        used,
    } = call;
    let account = Arc::clone(permit.account());
    let endpoint = &account.config().endpoint;
    permit.record_prompt_tokens(estimated, used.input_tokens);
    permit.settle(endpoint.spent(used, permit.model()), endpoint.settles());
    permit.mark_answered();
    permit.record_success(now);
    permit.accepted(now);
}
