//! Plays the rules of accounts and targets ahead of time. A call takes [`CALL`], which passes at once.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::{Job, Usage};
use jiff::Timestamp;
use rust_decimal::Decimal;
use tokio::time::Instant;

use super::clock::ForecastClock;
use super::{CALL, Forecast};
use crate::accounts::{Account, CircuitBreakers, Denied, Permit, TeamLimits, Wake};
use crate::clock::Clock;
use crate::config::Config;
use crate::intake::route::route;
use crate::job::candidates::CandidateState;
use crate::job::merge_key::MergeCandidate;
use crate::job::share::CoalesceRequest;
use crate::pools::{PoolTarget, Pools};
use forebay_providers::Endpoint;
use forebay_providers::cost::CallCost;

/// The likely share of the estimated tokens of a prompt, as numerator and denominator. Estimates are on the safe
/// side.
const LIKELY: (u64, u64) = (3, 4);
/// The pause before another attempt to start a call, if no limit states a time.
const STEP: Duration = Duration::from_millis(1);

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

impl PendingJob {
    /// Returns the number of inputs that the job adds to a merged call.
    fn inputs(&self) -> usize {
        match &self.join {
            Some(join) => join.inputs,
            None => 1,
        }
    }

    /// Returns the likely usage of the job.
    fn likely_usage(&self) -> Usage {
        Usage {
            input_tokens: likely(self.cost.input_tokens),
            output_tokens: self.cost.output_tokens,
            ..Usage::default()
        }
    }

    /// Returns the most tokens of the answer; `None` if neither the job nor the target states a maximum.
    fn max_output(&self, target: &PoolTarget) -> Option<u64> {
        let is_bound = self.states_maximum || self.cost.output_tokens == 0;
        if is_bound {
            Some(self.cost.output_tokens)
        } else {
            target.max_output
        }
    }

    /// Returns the prices of the prompt and of the answer of a call with this usage, if they are known.
    fn prices(&self, used: &Usage, target: &PoolTarget) -> Option<(Decimal, Decimal)> {
        let prices = target.prices.as_ref()?;
        let tier = self.tier.as_deref();
        let prompt = Usage {
            output_tokens: 0,
            ..*used
        };
        let prompt = prices.amount(&prompt, tier)?;
        let both = prices.amount(used, tier)?;
        Some((prompt, both.checked_sub(prompt)?))
    }
}

impl Forecast {
    /// Adds the longest answer of a job with the usage `used`, and the prices of the job.
    fn add_answer(&mut self, job: &PendingJob, used: Usage, target: &PoolTarget) {
        let most = job.max_output(target);
        self.unbounded += usize::from(most.is_none());
        let longest = Usage {
            output_tokens: most.unwrap_or(used.output_tokens),
            ..used
        };
        self.output_tokens += longest.output_tokens;
        let sums = job.prices(&longest, target).and_then(|(prompt, answer)| {
            let prompts = self.prompts.checked_add(prompt)?;
            Some((prompts, self.answers.checked_add(answer)?))
        });
        if let Some((prompts, answers)) = sums {
            self.prompts = prompts;
            self.answers = answers;
        } else {
            self.unpriced += 1;
        }
    }
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
        let clock = Arc::new(ForecastClock::new(now));
        let wake = Arc::new(Wake::default());
        let circuits = Arc::new(CircuitBreakers::default());
        let shown: Arc<dyn Clock> = Arc::<ForecastClock>::clone(&clock);
        let mut accounts = Vec::new();
        for account in config.accounts {
            let (wake, circuits) = (Arc::clone(&wake), Arc::clone(&circuits));
            let clock = Arc::clone(&shown);
            accounts.push(Account::new(account, wake, circuits, None, clock));
        }
        let team = config.teams.get(team);
        let limits = team.map_or_else(Vec::new, |team| team.limits.clone());
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
        let found = match route(&self.pools, pool, job, true) {
            Ok(found) if found.rejection.is_none() => found,
            _ => {
                self.forecast.unserved += 1;
                return;
            }
        };
        let is_shared = CoalesceRequest::of(job, found.pool.cache).is_some();
        if is_shared && !seen.insert((team.to_owned(), job.fingerprint(pool))) {
            return;
        }
        let choices = found.candidates.left().to_vec();
        let prompt = likely(found.cost.input_tokens);
        let is_too_long = found.candidates.are_too_small_for(prompt);
        self.forecast.too_long += usize::from(is_too_long);
        let join = if found.pool.merge {
            MergeCandidate::of(job, pool)
        } else {
            None
        };
        let tier = job.body.get("service_tier");
        let job = Box::new(PendingJob {
            choices,
            cost: found.cost,
            join: join.filter(|join| join.inputs > 1 || !is_too_long),
            states_maximum: Endpoint::states_maximum(job),
            tier: tier.and_then(|raw| serde_json::from_str(raw.get()).ok()),
        });
        let line = self.line_of(&job);
        line.jobs.push_back(job);
    }

    /// Returns the line of the jobs that wait for the same targets and may be merged with `job`.
    fn line_of(&mut self, job: &PendingJob) -> &mut ForecastLine {
        let targets = job.choices.iter().map(|choice| choice.target);
        let targets: Vec<_> = targets.collect();
        let join = job.join.as_ref().map(|join| Arc::clone(&join.key));
        let new = self.lines.len();
        let key = (targets.clone(), join);
        let place = *self.places.entry(key).or_insert(new);
        if place == new {
            self.lines.push(ForecastLine {
                targets,
                jobs: VecDeque::new(),
            });
        }
        &mut self.lines[place]
    }

    pub(super) fn play(mut self) -> Forecast {
        let mut last = self.start;
        loop {
            let next = self.start_all();
            let ends = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let Some(at) = next.into_iter().chain(ends).min() else {
                break;
            };
            self.pass(at.max(self.now + STEP));
            while let Some(entry) = self.under_way.first_entry()
                && entry.key().0 <= self.now
            {
                last = last.max(entry.key().0);
                end(entry.remove(), self.now);
            }
        }
        let is_limited = self.forecast.unlimited.is_empty();
        let takes = last.saturating_duration_since(self.start);
        self.forecast.takes = is_limited.then_some(takes);
        self.forecast
    }

    /// Starts all calls that can start now. Returns the earliest time that a limit states for another one.
    fn start_all(&mut self) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        // A job that is denied keeps its turn: later jobs for the same targets are not tried.
        let mut denied_here: Vec<Vec<usize>> = Vec::new();
        for line in 0..self.lines.len() {
            if denied_here.contains(&self.lines[line].targets) {
                continue;
            }
            let Some(denied) = self.start_line(line) else {
                continue;
            };
            let targets = self.lines[line].targets.clone();
            denied_here.push(targets);
            if let Denied::Until(at) = denied {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        self.lines
            .retain(|ForecastLine { jobs, .. }| !jobs.is_empty());
        next
    }

    /// Starts the calls of a line, until a job of it has to wait. Returns the reason then.
    fn start_line(&mut self, line: usize) -> Option<Denied> {
        while let Some(first) = self.lines[line].jobs.pop_front() {
            match self.start(first, line) {
                Ok(()) => {}
                Err((_, Denied::TooLarge | Denied::NotAllowed | Denied::Disabled(_))) => {
                    self.forecast.unserved += 1;
                }
                Err((first, denied @ (Denied::Until(_) | Denied::UntilRelease))) => {
                    let jobs = &mut self.lines[line].jobs;
                    jobs.push_front(first);
                    return Some(denied);
                }
            }
        }
        None
    }

    fn pass(&mut self, at: Instant) {
        self.now = at;
        self.clock.set(at.saturating_duration_since(self.start));
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
        let mut merged = vec![*first];
        self.join(&mut merged, line, target, &permit);
        let place = self.pools.target(target);
        let account = &place.account;
        let name = account.name().to_owned();
        if account.learns() {
            self.forecast.unlimited.insert(name.clone());
        }
        let mut call = ForecastCall {
            permit,
            estimated: 0,
            used: Usage::default(),
        };
        for job in &merged {
            let used = job.likely_usage();
            self.forecast.add_answer(job, used, place);
            call.estimated += job.cost.input_tokens;
            call.used.input_tokens += used.input_tokens;
            call.used.output_tokens += used.output_tokens;
        }
        self.forecast.input_tokens += call.used.input_tokens;
        let of_target = (name, place.model.clone());
        let calls = &mut self.forecast.calls;
        *calls.entry(of_target).or_default() += 1;
        let marker = call.permit.send_marker();
        marker.sent(self.now);
        self.sent += 1;
        let end = (self.now + CALL, self.sent);
        self.under_way.insert(end, call);
        Ok(())
    }

    /// Returns a permit of the first target with room. Lower tiers come first.
    fn reserve(&self, job: &PendingJob) -> Result<(usize, Permit), Denied> {
        if let Some(cap) = &self.cap {
            cap.peek(&job.cost, self.now)?;
        }
        let room = |choice: &CandidateState| {
            let target = self.pools.target(choice.target);
            let (account, model) = (&target.account, &target.model);
            account.headroom(model, self.now) * choice.weight
        };
        let choices = job.choices.iter();
        let mut order: Vec<_> = choices.map(|choice| (choice, room(choice))).collect();
        order.sort_by(|(one, one_room), (other, other_room)| {
            let by_rank = one.rank().cmp(&other.rank());
            by_rank.then(other_room.total_cmp(one_room))
        });
        let mut denied: Option<Denied> = None;
        for (choice, _) in order {
            let waits_for_lower = denied.is_some_and(Denied::is_temporary)
                && choice.enters_at(self.start) > self.start;
            if waits_for_lower {
                continue;
            }
            let target = self.pools.target(choice.target);
            let (account, model) = (&target.account, &target.model);
            match account.reserve(model, choice.cost, self.now) {
                Ok(mut permit) => {
                    if let Some(cap) = &self.cap {
                        let share = cap.take(&job.cost, self.now)?;
                        permit.charge(share);
                    }
                    return Ok((choice.target, permit));
                }
                Err(other) => denied = Some(denied.map_or(other, |known| sooner(known, other))),
            }
        }
        Err(denied.unwrap_or(Denied::TooLarge))
    }

    /// Adds jobs of the line to `merged` and to its permit, as long as limits and the provider's maximum allow.
    fn join(&mut self, merged: &mut Vec<PendingJob>, line: usize, target: usize, permit: &Permit) {
        let account = permit.account();
        let may_join = merged[0].join.is_some();
        if !may_join || !account.counts_calls(permit.model()) {
            return;
        }
        let provider = &account.config().endpoint.provider;
        let most = provider.merges;
        let (mut inputs, mut tokens) = (merged[0].inputs(), merged[0].cost.input_tokens);
        let jobs = &mut self.lines[line].jobs;
        while let Some(next) = jobs.front() {
            let mut choices = next.choices.iter();
            let choice = choices.find(|choice| choice.target == target);
            inputs += next.inputs();
            tokens += next.cost.input_tokens;
            let fits = inputs <= most.inputs && tokens <= most.tokens;
            let is_taken = |choice: &CandidateState| permit.extend(&choice.cost, self.now);
            if !fits || !choice.is_some_and(is_taken) {
                break;
            }
            merged.extend(jobs.pop_front().map(|job| *job));
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
    let spent = endpoint.spent(used, permit.model());
    permit.settle(spent, endpoint.settles());
    permit.mark_answered();
    permit.record_success(now);
    permit.accepted(now);
}
