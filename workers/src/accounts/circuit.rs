//! The circuit breaker of a provider's model: when half of the recent calls fail, calls stop until a probe succeeds.
//!
//! # Why
//!
//! A provider that is down should not get all waiting jobs at once, use up their attempts, or keep them from a target
//! that works. Backing off each job by itself is not enough: new jobs would be called all the time.
//!
//! # How
//!
//! The breaker considers the last 20 calls of the last 60 seconds. When at least 10 have ended and half of them failed,
//! calls stop for one second. Then a single call is let through as a probe. If it fails, the next break is twice as
//! long, up to 30 seconds. If it succeeds, calls start again at a rate that doubles, until there is no bound.
//!
//! All accounts at one address share the breaker of a model, because what is broken there is broken for all of them.
//!
//! A team's prompts can make calls fail at a provider that works. So an outcome counts once a job, however often the job is
//! tried. If several teams had calls within the window, calls stop only if at least two of them fail. A team fails if at
//! least half of its last 10 jobs did: single failures happen to every team. If one team alone had calls, its own failures
//! suffice.
//!
//! # Invariants
//!
//! - Failures of one team alone stop no calls of another team whose calls succeed.
//! - A refusal is no failure: a provider that answers 429 works.
//! - A call that began before the last break proves nothing about the state after it.
//! - There is one probe at a time. It takes a job that has not failed, while one waits. A probe that is dropped without an outcome leaves the state as it was.
//! - The length of a break returns to one second only after most calls have succeeded again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Class;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::Denied;
use super::outage::{FailedCall, FailureCause, OutageWatch};
use super::state::{CallGate, ReadyState};

/// Limit of recent calls that are considered.
const RECENT_CALLS: usize = 20;
/// Age at which an ended call is no longer considered.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Limit of recent jobs of a team that are considered.
const RECENT_JOBS_OF_TEAM: usize = 10;
/// Least number of ended calls from which anything is concluded.
const MIN_CALLS: usize = 10;
/// Length of the first break. It doubles with each further one, until most calls succeed again.
const FIRST_BREAK: Duration = Duration::from_secs(1);
/// Longest break, however many follow each other.
const LONGEST_BREAK: Duration = Duration::from_secs(30);

/// The circuit breakers of all providers, by address and model. The accounts at one address share them, because what is
/// broken there is broken for all.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreakers(Mutex<HashMap<(String, String), Arc<CircuitBreaker>>>);

/// The circuit breaker of one model at a provider, for all accounts there.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker(Mutex<CircuitState>);

/// The job of a call, and its team, as numbers that are equal for the same job and the same team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CallOrigin {
    /// The team.
    pub(crate) team: u64,
    /// The job.
    pub(crate) job: u64,
}

/// A call that has ended.
#[derive(Debug)]
struct EndedCall {
    at: Instant,
    job: u64,
    failed: bool,
}

/// The latest outcomes of a team's calls.
#[derive(Debug)]
struct TeamOutcomes {
    /// The time of the last one.
    at: Instant,
    /// One for each job, with true if it failed.
    recent: VecDeque<(u64, bool)>,
}

impl TeamOutcomes {
    fn new(at: Instant) -> Self {
        Self {
            at,
            recent: VecDeque::new(),
        }
    }

    fn count(&mut self, job: u64, failed: bool, now: Instant) {
        self.at = now;
        self.recent.retain(|(counted, _)| *counted != job);
        self.recent.push_back((job, failed));
        if self.recent.len() > RECENT_JOBS_OF_TEAM {
            self.recent.pop_front();
        }
    }

    fn is_failing(&self) -> bool {
        let failed = self.recent.iter().filter(|(_, failed)| *failed).count();
        failed * 2 >= self.recent.len()
    }
}

#[derive(Debug, Default)]
struct CircuitState {
    state: ReadyState,
    /// The recent calls, one for each job.
    ended: VecDeque<EndedCall>,
    /// The teams of the recent calls.
    teams: HashMap<u64, TeamOutcomes>,
    /// The number of breaks since most calls last succeeded.
    breaks: u32,
    next_call: u64,
    /// The number of the last call before the last break. The outcomes of calls up to this one are ignored.
    last_call_before_break: u64,
    outage: OutageWatch,
}

/// The permit of a circuit breaker for one call. If it is dropped without an outcome, the call does not count.
#[derive(Debug)]
pub(super) struct BreakerPermit {
    circuit: Arc<CircuitBreaker>,
    call: u64,
    /// True if it was let through alone, to see whether the provider works again.
    is_probe: bool,
    /// `None` where it is not known: the call then counts as one of a job of its own.
    origin: Option<CallOrigin>,
}

impl CircuitBreakers {
    /// Returns the circuit breaker of `model` at the provider with this address.
    pub(super) fn of(&self, base_url: &str, model: &str) -> Arc<CircuitBreaker> {
        let mut circuits = self.0.lock();
        let name = (base_url.to_owned(), model.to_owned());
        let circuit = circuits.entry(name).or_default();
        Arc::clone(circuit)
    }
}

impl CircuitBreaker {
    fn inner(&self) -> MutexGuard<'_, CircuitState> {
        self.0.lock()
    }

    pub(super) fn state(&self) -> ReadyState {
        self.inner().state.clone()
    }

    pub(super) fn gate(&self, now: Instant) -> CallGate {
        self.inner().state.gate(now)
    }

    /// Lets a call pass, if one may.
    ///
    /// # Errors
    /// Returns what the call has to wait for.
    pub(super) fn enter(self: &Arc<Self>, now: Instant) -> Result<BreakerPermit, Denied> {
        let mut inner = self.inner();
        let gate = inner.state.gate(now).pass()?;
        inner.next_call += 1;
        let call = inner.next_call;
        inner.state.begin();
        if gate == CallGate::Probe {
            inner.state.probe(call, now);
        }
        Ok(BreakerPermit {
            circuit: Arc::clone(self),
            call,
            is_probe: gate == CallGate::Probe,
            origin: None,
        })
    }
}

impl CircuitState {
    /// Counts the outcome of a call. It replaces an earlier one of the same job.
    fn count(&mut self, origin: CallOrigin, failed: bool, now: Instant) {
        let CallOrigin { team, job } = origin;
        self.ended.retain(|call| call.job != job);
        self.ended.push_back(EndedCall {
            at: now,
            job,
            failed,
        });
        let ended = &mut self.ended;
        let is_old = |call: &EndedCall| call.at + MAX_AGE < now;
        while ended.len() > RECENT_CALLS || ended.front().is_some_and(is_old) {
            ended.pop_front();
        }
        let outcomes = self.teams.entry(team);
        let outcomes = outcomes.or_insert_with(|| TeamOutcomes::new(now));
        outcomes.count(job, failed, now);
        self.teams
            .retain(|_, outcomes| outcomes.at + MAX_AGE >= now);
    }

    /// Returns true if at least half of the recent calls failed; `None` if there were too few.
    fn is_failing(&self) -> Option<bool> {
        let ended = self.ended.len();
        (ended >= MIN_CALLS).then_some(self.failing_jobs() * 2 >= ended)
    }

    /// Returns the number of jobs whose recent calls failed.
    fn failing_jobs(&self) -> usize {
        self.ended.iter().filter(|call| call.failed).count()
    }

    /// Returns true if the failures may be those of one team's prompts: another team had calls, and most of them succeeded.
    fn may_be_one_teams(&self) -> bool {
        let failing = self.teams.values().filter(|outcomes| outcomes.is_failing());
        self.teams.len() > 1 && failing.count() < 2
    }

    fn trip(&mut self, reason: Class, now: Instant) {
        let pause = (FIRST_BREAK * 2u32.saturating_pow(self.breaks)).min(LONGEST_BREAK);
        self.breaks += 1;
        self.last_call_before_break = self.next_call;
        self.ended.clear();
        self.state.cool(reason, pause, now);
    }
}

impl BreakerPermit {
    /// Notes the job that makes the call.
    pub(super) fn set_origin(&mut self, origin: CallOrigin) {
        self.origin = Some(origin);
    }

    /// Returns the number of jobs whose recent calls failed.
    pub(super) fn failing_jobs(&self) -> usize {
        self.circuit.inner().failing_jobs()
    }

    /// Returns true if the recent failures may be those of one team's prompts.
    pub(super) fn may_be_one_teams(&self) -> bool {
        self.circuit.inner().may_be_one_teams()
    }

    /// Returns the number of teams that called lately.
    pub(super) fn teams(&self) -> usize {
        self.circuit.inner().teams.len()
    }

    /// Returns the job that makes the call, or the call as a job of its own.
    pub(super) fn job(&self) -> u64 {
        self.origin().job
    }

    /// Returns the job that makes the call with its team, or the call as a job of its own.
    pub(super) fn origin(&self) -> CallOrigin {
        self.origin.unwrap_or(CallOrigin {
            team: 0,
            job: self.call,
        })
    }

    /// Notes that the provider works, even if it refused the call.
    pub(super) fn answered(&self, now: Instant) {
        let mut inner = self.circuit.inner();
        inner.outage.succeeded(now);
        if self.call <= inner.last_call_before_break {
            return;
        }
        inner.count(self.origin(), false, now);
        if inner.is_failing() == Some(false) {
            inner.breaks = 0;
        }
        inner.state.probe_ended(self.call, true, now);
    }

    /// Returns true if the call was let through alone, to see whether the provider works again.
    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Returns the cause of the call's failure.
    pub(super) fn judge_failure(&self, failure: FailedCall, now: Instant) -> FailureCause {
        self.circuit.inner().outage.failed(failure, now)
    }

    /// Notes that the provider failed.
    pub(super) fn failed(&self, reason: Class, now: Instant) {
        let mut inner = self.circuit.inner();
        if self.call <= inner.last_call_before_break {
            return;
        }
        match inner.state {
            ReadyState::Probing { call, .. } if call == self.call => {
                inner.count(self.origin(), true, now);
                if inner.may_be_one_teams() {
                    // The probe shows that the provider answers, and no more.
                    inner.state.probe_ended(self.call, true, now);
                } else {
                    inner.trip(reason, now);
                }
            }
            ReadyState::Ready | ReadyState::Ramping { .. } => {
                inner.count(self.origin(), true, now);
                if inner.is_failing() == Some(true) && !inner.may_be_one_teams() {
                    inner.trip(reason, now);
                }
            }
            _ => {}
        }
    }
}

impl Drop for BreakerPermit {
    fn drop(&mut self) {
        let mut inner = self.circuit.inner();
        inner.state.probe_ended(self.call, false, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Fails or answers one call after the other while the breaker lets them pass. Returns their number.
    fn call(
        circuit: &Arc<CircuitBreaker>,
        at: Instant,
        most: usize,
        fails: impl Fn(usize) -> bool,
    ) -> usize {
        for index in 0..most {
            let Ok(permit) = circuit.enter(at) else {
                return index;
            };
            match fails(index) {
                true => permit.failed(Class::ServerError, at),
                false => permit.answered(at),
            }
        }
        most
    }

    #[tokio::test(start_paused = true)]
    async fn most_calls_must_fail_and_there_must_be_some() {
        let circuit = Arc::new(CircuitBreaker::default());
        let start = Instant::now();
        assert_eq!(
            call(&circuit, start, 1_000, |index| index % 3 == 0),
            1_000,
            "one in three"
        );
        let circuit = Arc::new(CircuitBreaker::default());
        for minute in 0..10 {
            let at = start + 61 * SECOND * minute;
            assert_eq!(
                call(&circuit, at, MIN_CALLS - 1, |_| true),
                MIN_CALLS - 1,
                "too few in a minute"
            );
        }
        assert_eq!(
            call(&circuit, start + 3_600 * SECOND, 100, |_| true),
            MIN_CALLS
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_each_break_is_longer_until_calls_go_well() {
        let circuit = Arc::new(CircuitBreaker::default());
        let mut at = Instant::now();
        call(&circuit, at, 100, |_| true);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(
                circuit.enter(at).err(),
                Some(Denied::Until(at + pause * SECOND))
            );
            at += pause * SECOND;
            let probe = circuit.enter(at).expect("a probe");
            assert_eq!(
                circuit.enter(at).err(),
                Some(Denied::Until(at + LONGEST_BREAK)),
                "one alone"
            );
            probe.failed(Class::ServerError, at);
        }
        at += 30 * SECOND;
        drop(circuit.enter(at).expect("a probe that is given up"));
        assert_eq!(
            call(&circuit, at, 100, |_| false),
            3,
            "a probe, and then the ramp begins"
        );
        for _ in 0..20 {
            at += SECOND;
            call(&circuit, at, 100, |_| false);
        }
        assert_eq!(circuit.state(), ReadyState::Ready);
        call(&circuit, at, 100, |_| true);
        assert_eq!(
            circuit.enter(at).err(),
            Some(Denied::Until(at + SECOND)),
            "short again"
        );
    }

    const EVIL: u64 = 1;
    const GOOD: u64 = 2;

    /// Makes one call of a team's job. Returns false if the breaker does not let it pass.
    fn call_of(
        circuit: &Arc<CircuitBreaker>,
        at: Instant,
        origin: CallOrigin,
        fails: bool,
    ) -> bool {
        let Ok(mut permit) = circuit.enter(at) else {
            return false;
        };
        permit.set_origin(origin);
        match fails {
            true => permit.failed(Class::ServerError, at),
            false => permit.answered(at),
        }
        true
    }

    #[tokio::test(start_paused = true)]
    async fn single_failures_of_a_good_team_stop_nothing_beside_a_failing_one() {
        let circuit = Arc::new(CircuitBreaker::default());
        let start = Instant::now();
        for job in 0..2_000 {
            let at = start + job * SECOND / 40;
            let job = u64::from(job);
            let is_good = job.is_multiple_of(2);
            let team = if is_good { GOOD } else { EVIL };
            let fails = !is_good || job.is_multiple_of(20);
            let origin = CallOrigin { team, job };
            assert!(call_of(&circuit, at, origin, fails), "call {job}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_one_team_stop_no_calls_of_another_whose_calls_succeed() {
        let circuit = Arc::new(CircuitBreaker::default());
        let start = Instant::now();
        for job in 0..2_000 {
            let at = start + job * SECOND / 40;
            let job = u64::from(job);
            let is_good = job.is_multiple_of(10);
            let team = if is_good { GOOD } else { EVIL };
            let origin = CallOrigin { team, job };
            assert!(call_of(&circuit, at, origin, !is_good), "call {job}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_two_teams_stop_calls() {
        let circuit = Arc::new(CircuitBreaker::default());
        let at = Instant::now();
        let passed = (0..100).take_while(|job| {
            let team = if job % 5 == 0 { GOOD } else { EVIL };
            call_of(&circuit, at, CallOrigin { team, job: *job }, true)
        });
        assert_eq!(passed.count(), MIN_CALLS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_counts_once_however_often_it_is_tried() {
        let circuit = Arc::new(CircuitBreaker::default());
        let at = Instant::now();
        for job in 0..100 {
            let job = job % (MIN_CALLS as u64 - 1);
            assert!(call_of(&circuit, at, CallOrigin { team: EVIL, job }, true));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_team_that_comes_while_another_alone_fails_is_called_after_one_break() {
        let circuit = Arc::new(CircuitBreaker::default());
        let mut at = Instant::now();
        let evil = |job| CallOrigin { team: EVIL, job };
        for job in 0..100 {
            call_of(&circuit, at, evil(job), true);
        }
        for (job, pause) in [(100, 1), (101, 2), (102, 4)] {
            at += pause * SECOND;
            assert!(call_of(&circuit, at, evil(job), true), "a probe");
        }
        at += 8 * SECOND;
        let good = |job| CallOrigin { team: GOOD, job };
        assert!(
            call_of(&circuit, at, good(200), false),
            "a probe of the other team"
        );
        let mut called = 0;
        for job in 201..800 {
            at += SECOND / 40;
            call_of(&circuit, at, evil(job), true);
            called += usize::from(call_of(&circuit, at, good(1_000 + job), false));
        }
        assert!(called > 599 * 9 / 10, "but for the ramp: {called}");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_were_in_flight_prove_nothing_new() {
        let circuit = Arc::new(CircuitBreaker::default());
        let at = Instant::now();
        let under_way: Vec<_> = (0..100).map(|_| circuit.enter(at).expect("open")).collect();
        under_way
            .iter()
            .for_each(|permit| permit.failed(Class::NetAfterSend, at));
        assert_eq!(
            circuit.enter(at).err(),
            Some(Denied::Until(at + SECOND)),
            "one break"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_late_from_before_a_break_neither_breaks_nor_mends() {
        let circuit = Arc::new(CircuitBreaker::default());
        let mut at = Instant::now();
        let before: Vec<_> = (0..40).map(|_| circuit.enter(at).expect("open")).collect();
        before[..10]
            .iter()
            .for_each(|permit| permit.failed(Class::NetAfterSend, at));
        for pause in [1, 2, 4] {
            at += pause * SECOND;
            circuit
                .enter(at)
                .expect("a probe")
                .failed(Class::ServerError, at);
        }
        before[10..20].iter().for_each(|permit| permit.answered(at));
        assert_eq!(
            circuit.enter(at).err(),
            Some(Denied::Until(at + 8 * SECOND)),
            "still the longer break"
        );
        at += 8 * SECOND;
        for _ in 0..20 {
            call(&circuit, at, 100, |_| false);
            at += SECOND;
        }
        assert_eq!(circuit.state(), ReadyState::Ready);
        before[20..]
            .iter()
            .for_each(|permit| permit.failed(Class::NetAfterSend, at));
        assert_eq!(circuit.state(), ReadyState::Ready);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_is_followed_by_another_and_either_answer_counts() {
        let circuit = Arc::new(CircuitBreaker::default());
        let mut at = Instant::now();
        call(&circuit, at, 100, |_| true);
        at += SECOND;
        let first = circuit.enter(at).expect("a probe");
        assert_eq!(
            circuit.enter(at).err(),
            Some(Denied::Until(at + LONGEST_BREAK))
        );
        at += LONGEST_BREAK;
        let second = circuit.enter(at).expect("another");
        assert!(circuit.enter(at).is_err(), "one in that time");
        first.answered(at);
        assert_eq!(call(&circuit, at, 1, |_| false), 1, "it is well");
        drop(second);
        assert_eq!(call(&circuit, at, 1, |_| false), 1, "and stays so");
    }
}
