//! The right to make one named call now.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Class;
use tokio::time::Instant;

use super::circuit::{BreakerPermit, CallOrigin};
use super::learn::{LearnedLimits, RefusedCall};
use super::ledger::AccountLedger;
use super::outage::{EarlierFailures, FailedCall, FailureCause};
use super::state::ReadyState;
use super::unexplained_refusals::{RefusalJudgement, UnexplainedRefusal};
use super::{Account, AccountKey};
use crate::accounts::team_limits::{TeamLimits, TeamShare};
use forebay_providers::cost::CallCost;
use forebay_providers::{Endpoint, ErrorScope, RateLimitHeaders, StatedUse};

/// The longest cooldown of an overloaded model while one job alone has met the overload.
const LONGEST_COOLDOWN_BY_ONE_JOB: Duration = Duration::from_secs(1);

/// The right to make one call to one model with one key, taken from all meters at once. Dropping it gives back what the
/// call has not used: everything, if the call was never sent.
#[derive(Debug)]
#[must_use = "a permit that is dropped gives its room back"]
pub struct Permit {
    account: Arc<Account>,
    call: u64,
    model: String,
    key: usize,
    /// Set until the permit is dropped.
    breaker: Option<BreakerPermit>,
    granted: Instant,
    /// The cost that was reserved on the account's meters.
    cost: CallCost,
    /// True if the provider answered: a probe without an answer has shown nothing.
    answered: bool,
    /// Until when a call that was given up on may run on at the provider.
    runs_until: Option<Instant>,
    /// Its part of its team's limits, if the team has some.
    share: Option<TeamShare>,
}

impl Permit {
    pub(super) fn new(
        account: Arc<Account>,
        call: u64,
        model: String,
        key: usize,
        breaker: BreakerPermit,
        (granted, cost): (Instant, CallCost),
    ) -> Self {
        let breaker = Some(breaker);
        Self {
            account,
            call,
            model,
            key,
            breaker,
            granted,
            cost,
            answered: false,
            runs_until: None,
            share: None,
        }
    }

    /// Notes the job that makes the call: the circuit breaker counts each job once, and tells teams apart.
    pub(crate) fn set_origin(&mut self, origin: CallOrigin) {
        if let Some(breaker) = &mut self.breaker {
            breaker.set_origin(origin);
        }
    }

    /// Holds what the call takes of its team's limits until the permit is dropped.
    pub(crate) fn charge(&mut self, share: TeamShare) {
        self.share = Some(share);
    }

    /// Adds one more job to the call, which was not sent yet. Takes the job's tokens from all meters, or from none if one
    /// of them has no room. Returns true if they were taken.
    pub(crate) fn extend(&self, cost: &CallCost, now: Instant) -> bool {
        let mut ledger = self.account.ledger();
        let AccountLedger { models, meters, .. } = &mut *ledger;
        let Some(model) = models.get(&self.model) else {
            return false;
        };
        // A team's limits count the estimate until the usage is known.
        let team_cost = CallCost {
            requests: 0,
            ..*cost
        };
        let account_cost = model.counting.apply(CallCost {
            input_tokens: model.factor.apply(cost.input_tokens),
            ..team_cost
        });
        let used = &model.meters;
        let account_has_room = used
            .iter()
            .all(|meter| meters[*meter].has_room_for(&account_cost, now));
        let takes = account_has_room
            && self
                .share
                .as_ref()
                .is_none_or(|share| share.extend(&team_cost, now));
        if takes {
            for meter in used {
                meters[*meter].extend(self.call, &account_cost);
            }
        }
        takes
    }

    /// The account that was charged.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Where the call goes.
    pub fn endpoint(&self) -> &Endpoint {
        &self.account.config.endpoint
    }

    /// The model that may be called.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The key to use.
    pub fn key(&self) -> &AccountKey {
        &self.account.config.keys[self.key]
    }

    /// Returns the marker with which the sender reports that the request left.
    pub fn send_marker(&self) -> SendMarker {
        SendMarker {
            account: Arc::clone(&self.account),
            call: self.call,
            model: self.model.clone(),
            granted: self.granted,
            share: self.share.as_ref().map(TeamShare::send_marker),
        }
    }

    /// Reports that the provider answered, be it with an error: a probe has shown something.
    pub fn mark_answered(&mut self) {
        self.answered = true;
    }

    /// Reports the prompt tokens that the provider counted, where `estimated` were reserved. Later estimates are corrected
    /// by it.
    pub fn record_prompt_tokens(&mut self, estimated: u64, reported: u64) {
        if let Some(model) = self.account.ledger().models.get_mut(&self.model) {
            model.factor.learn(estimated, reported);
        }
    }

    /// Corrects the tokens that were reserved for the call, now that its prompt and answer are known. A provider that does not
    /// give back what was not used (`provider_settles`) has counted the prompt, and the longest answer that was stated.
    pub fn settle(&mut self, actual: CallCost, provider_settles: bool) {
        if let Some(share) = &self.share {
            share.settle(&actual);
        }
        let mut ledger = self.account.ledger();
        let counting = ledger.models.get(&self.model).map(|model| &model.counting);
        let counted = match counting {
            Some(counting) if !provider_settles => counting.admitted(self.cost, actual),
            _ => actual,
        };
        ledger.each_meter_of(&self.model, |meter| meter.correct(self.call, &counted));
    }

    /// Reports to the circuit breaker that the provider works, be it that it refused the call.
    pub fn record_success(&self, now: Instant) {
        if let Some(breaker) = &self.breaker {
            breaker.answered(now);
        }
    }

    /// Reports to the circuit breaker that the provider failed.
    pub fn record_failure(&self, class: Class, now: Instant) {
        if let Some(breaker) = &self.breaker {
            breaker.failed(class, now);
        }
    }

    /// Returns the cause of the failure that the provider or the network reported.
    pub(crate) fn judge_failure(
        &self,
        class: Class,
        before: EarlierFailures,
        now: Instant,
    ) -> FailureCause {
        let Some(breaker) = &self.breaker else {
            return FailureCause::Job;
        };
        let failed = FailedCall {
            job: breaker.job(),
            began: self.granted,
            before,
            is_probe: breaker.is_probe() || self.probes_failed_model(),
            names_outage: names_outage(class),
        };
        breaker.judge_failure(failed, now)
    }

    /// Returns true if the call shows whether a model serves again that an outage had stopped.
    fn probes_failed_model(&self) -> bool {
        let ledger = self.account.ledger();
        let state = ledger.models.get(&self.model).map(|model| &model.state);
        matches!(state, Some(ReadyState::Probing { first, reason, .. })
            if *first <= self.call && names_outage(*reason))
    }

    /// Cools the model at the account for `wait`, since the provider is overloaded.
    ///
    /// It does not cool if calls of another team succeed: the overload may be that of one team's prompts. After the failure
    /// of a single job it cools for a second at most. The next job then shows whether the provider is overloaded for all.
    pub(crate) fn cool_overloaded_model(&self, wait: Duration, now: Instant) {
        let Some(breaker) = &self.breaker else {
            return;
        };
        if breaker.may_be_one_teams() {
            return;
        }
        let wait = match breaker.failing_jobs() {
            0 | 1 => wait.min(LONGEST_COOLDOWN_BY_ONE_JOB),
            _ => wait,
        };
        self.cool_model(Class::Overloaded, wait, now);
    }

    /// Reports that the provider did what the call asked for, or refused it for a fault of the request.
    pub(crate) fn served(&self, now: Instant) {
        if let Some(model) = self.account.ledger().models.get_mut(&self.model) {
            model.unexplained.succeeded(now);
        }
    }

    /// Judges a refusal that names no fault of the request.
    pub(crate) fn judge_refusal(
        &self,
        refusal: UnexplainedRefusal,
        now: Instant,
    ) -> RefusalJudgement {
        let Some(breaker) = &self.breaker else {
            return RefusalJudgement::OfJob;
        };
        let (origin, teams) = (breaker.origin(), breaker.teams());
        let mut ledger = self.account.ledger();
        let model = ledger.models.get_mut(&self.model);
        model.map_or(RefusalJudgement::OfJob, |model| {
            model.unexplained.judge(origin, refusal, teams, now)
        })
    }

    /// Reports that no limit refused the call, whatever its outcome.
    pub fn accepted(&mut self, now: Instant) {
        let mut ledger = self.account.ledger();
        ledger.key_waits[self.key].accepted();
        ledger.accepted(self.call, &self.model, self.granted, now);
    }

    /// Takes in the rate-limit headers of the answer.
    pub fn observe(&self, headers: &[RateLimitHeaders], now: Instant) {
        let age = now.saturating_duration_since(self.granted);
        let mut ledger = self.account.ledger();
        ledger.observe(&self.model, headers, age, now);
    }

    /// Takes in the figures of the limit that refused the call. `states_maximum` is true if the job limits the length of its
    /// answer.
    pub(crate) fn observe_refusal(&self, stated: &StatedUse, states_maximum: bool, now: Instant) {
        let mut ledger = self.account.ledger();
        let call = (self.cost, self.granted, states_maximum);
        ledger.observe_refusal(&self.model, call, stated, now);
    }

    /// Returns how long a wait that the provider requests is believed before a call probes.
    pub(crate) fn believed_wait(
        &self,
        requested: Duration,
        scope: ErrorScope,
        now: Instant,
    ) -> Duration {
        let mut ledger = self.account.ledger();
        let AccountLedger {
            models, key_waits, ..
        } = &mut *ledger;
        let Some(model) = models.get_mut(&self.model) else {
            return requested;
        };
        let configured = self.account.config.longest_period(&self.model);
        let learned = model.learned.as_ref();
        let longest = configured.max(learned.and_then(LearnedLimits::longest_period));
        let wait = match scope {
            ErrorScope::Key => &mut key_waits[self.key],
            _ => &mut model.requested_wait,
        };
        wait.believe(requested, longest, self.granted, now)
    }

    /// Reports that a limit refused the call. The key cools if the refusal is about the key, else the model. Without
    /// `wait`, each refusal in a row cools for longer.
    pub fn refused(&self, scope: ErrorScope, reason: Class, wait: Option<Duration>, now: Instant) {
        let mut ledger = self.account.ledger();
        ledger.totals.refusals += 1;
        if reason == Class::RateLimited && scope != ErrorScope::Key {
            let job = self.breaker.as_ref().map_or(self.call, BreakerPermit::job);
            let refused = RefusedCall {
                number: self.call,
                job,
                granted: self.granted,
                hint: wait,
            };
            ledger.refused(&self.model, refused, now);
        }
        let wait = wait.unwrap_or_else(|| ledger.wait_without_hint(&self.model, self.granted, now));
        if scope == ErrorScope::Key {
            ledger.keys[self.key].cool(reason, wait, now);
            return;
        }
        drop(ledger);
        self.cool_model(reason, wait, now);
    }

    /// Cools the model at the account for `wait`.
    pub fn cool_model(&self, reason: Class, wait: Duration, now: Instant) {
        self.account.cool_model(&self.model, reason, wait, now);
    }

    /// Stops all calls with the key until an operator enables it: the provider does not accept it.
    pub fn disable_key(&self, reason: Class) {
        self.account.ledger().keys[self.key].disable(reason);
    }

    /// Reports that the call was given up on at `now`, and may run on at the provider for `rest`: it counts among the calls
    /// at once until then.
    pub fn abandoned(&mut self, now: Instant, rest: Duration) {
        self.runs_until = Some(now + rest);
        if let Some(share) = &mut self.share {
            share.abandoned(now + rest);
        }
    }
}

/// Returns true if a failure of `class` is one of the provider or the network, whatever the job.
fn names_outage(class: Class) -> bool {
    matches!(class, Class::Overloaded | Class::NetBeforeSend)
}

/// Reports when a permitted call leaves. What it took of a limit over a period begins to return only then.
#[derive(Debug)]
pub struct SendMarker {
    account: Arc<Account>,
    call: u64,
    model: String,
    granted: Instant,
    share: Option<(Arc<TeamLimits>, u64)>,
}

impl SendMarker {
    /// The call was handed to the network at `at`.
    pub fn sent(self, at: Instant) {
        let mut ledger = self.account.ledger();
        ledger.totals.calls += 1;
        let delay = at.saturating_duration_since(self.granted);
        ledger.each_meter_of(&self.model, |meter| meter.sent(self.call, at, delay));
        drop(ledger);
        if let Some((limits, call)) = &self.share {
            limits.sent(*call, at, delay);
        }
        self.account.wake.release();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut ledger = self.account.ledger();
        ledger.totals.in_flight -= 1;
        let (call, until) = (self.call, self.runs_until);
        ledger.each_meter_of(&self.model, |meter| {
            meter.release(call, until);
            debug_assert!(!meter.has_open(call), "a dropped permit holds nothing");
        });
        let now = Instant::now();
        if let Some(model) = ledger.models.get_mut(&self.model) {
            model.state.probe_ended(call, self.answered, now);
        }
        ledger.keys[self.key].probe_ended(call, self.answered, now);
        drop(ledger);
        // All of it is given back before the dispatcher is woken.
        drop((self.breaker.take(), self.share.take()));
        self.account.wake.release();
    }
}
