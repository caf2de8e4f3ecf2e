//! The ledger of an account: its keys, its models, and the meters that they share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::circuit::CircuitBreaker;
use super::learn::{BelievedRate, LearnedLimits, LoweredLimit, RefusedCall};
use super::limit::Amount;
use super::meter::Meter;
use super::refused_jobs::RefusedJobs;
use super::requested_wait::RequestedWait;
use super::saved::{ClockPair, SpentLimits};
use super::state::{CallGate, ReadyState};
use super::unexplained_refusals::UnexplainedRefusals;
use super::{Account, AccountTotals, Denied};
use crate::accounts::learned_counting::LearnedCounting;
use crate::accounts::token_correction::TokenCorrection;
use forebay_providers::cost::{CallCost, LimitDimension};
use forebay_providers::{RateLimitHeaders, StatedUse};

/// How long a refusal that says nothing of it cools; each that follows without an accepted call between
/// doubles it up to the longest.
const FIRST_WAIT_WITHOUT_HINT: Duration = Duration::from_secs(1);
const LONGEST_WAIT_WITHOUT_HINT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct AccountLedger {
    pub(super) next_call: u64,
    pub(super) next_key: usize,
    pub(super) keys: Vec<ReadyState>,
    /// The waits that the provider requests of each key.
    pub(super) key_waits: Vec<RequestedWait>,
    pub(super) models: HashMap<String, ModelLedger>,
    pub(super) meters: Vec<Meter>,
    pub(super) shared: Vec<Option<usize>>,
    pub(super) totals: AccountTotals,
    pub(super) last_problem: Option<String>,
    /// True if the saved state was lost, until an operator enables a key.
    pub(super) has_unknown_state: bool,
    /// Until then a process before this one may have spent the limits.
    pub(super) spent_at: Option<Instant>,
    /// Notified when more of a limit over more than a minute must be persisted as spent; `None` if that is not persisted.
    pub(super) save_requests: Option<Arc<Notify>>,
    /// Spent parts of the limits of each model that no saved state names.
    pub(super) spent_of_new_models: SpentLimits,
}

#[derive(Debug)]
pub(super) struct ModelLedger {
    pub(super) state: ReadyState,
    /// The breaker of this model at the provider. All accounts there share it.
    pub(super) circuit: Arc<CircuitBreaker>,
    pub(super) factor: TokenCorrection,
    pub(super) counting: LearnedCounting,
    /// The meters that bear on it: first those of what is configured, then those of what was learned, and then that of the
    /// limit which refusals have shown.
    pub(super) meters: Vec<usize>,
    pub(super) configured: usize,
    pub(super) learned: Option<LearnedLimits>,
    /// Counts while refusals show that the others are too high.
    pub(super) lowered: LoweredLimit,
    /// The least of the configured limits on calls for a period of up to a minute; `None` if there is none.
    pub(super) configured_rate: Option<BelievedRate>,
    /// The wait that the provider requests of it.
    pub(super) requested_wait: RequestedWait,
    /// Refusals without a hint since a call was last accepted, and when the last of them came.
    pub(super) unhinted_refusals: u32,
    pub(super) unhinted_refusal_at: Option<Instant>,
    /// The jobs that a limit refused lately.
    pub(super) refused_jobs: RefusedJobs,
    /// The refusals that named no fault of their job.
    pub(super) unexplained: UnexplainedRefusals,
}

impl ModelLedger {
    /// Its state, or that of its circuit if only that keeps calls from being made.
    pub(super) fn shown(&self) -> ReadyState {
        match self.state {
            ReadyState::Ready | ReadyState::Ramping { .. } => self.circuit.state(),
            _ => self.state.clone(),
        }
    }

    /// Finds the meters that count now.
    fn choose_meters(&mut self) {
        self.meters.truncate(self.configured);
        let learned = self.learned.iter();
        self.meters.extend(learned.flat_map(LearnedLimits::meters));
        self.meters.extend(self.lowered.meter());
    }

    /// Returns the least of the configured and the learned limits on calls for a period of up to a minute.
    fn believed_rate(&self) -> Option<BelievedRate> {
        let learned = self.learned.iter().flat_map(LearnedLimits::amounts);
        let learned = learned.filter_map(|amount| BelievedRate::of(&amount));
        self.configured_rate
            .into_iter()
            .chain(learned)
            .reduce(BelievedRate::lesser)
    }

    /// Lets the limits that refusals have shown grow, if it is time.
    pub(super) fn grow(&mut self, meters: &mut Vec<Meter>, now: Instant) {
        if let Some(learned) = &mut self.learned {
            learned.grow(meters, now);
        }
        self.counting.relax(now);
        let believed = self.believed_rate();
        if self.lowered.grow(believed, meters, now) {
            self.choose_meters();
        }
    }
}

impl AccountLedger {
    /// Makes the meters that bear on `model` when it is first heard of.
    pub(super) fn ensure_model(&mut self, model: &str, account: &Account, now: Instant) {
        if self.models.contains_key(model) {
            return;
        }
        let mut used = Vec::new();
        let limits = account.config.limits.iter().enumerate();
        for (index, limit) in limits.filter(|(_, limit)| limit.covers(model)) {
            let shared = limit.models.is_some();
            if let Some(meter) = self.shared[index].filter(|_| shared) {
                used.push(meter);
                continue;
            }
            let meter = Meter::new(limit.amount.clone(), now, self.spent_at);
            let mut meter = meter.with_clock(&account.clock);
            if let Some(requests) = &self.save_requests {
                meter.keep(requests);
            }
            if let Some(parts) = self.spent_of_new_models.get(&limit.key()) {
                let wall = account.clock.now();
                meter.resume(parts, ClockPair { instant: now, wall });
            }
            self.meters.push(meter);
            let meter = self.meters.len() - 1;
            self.shared[index] = shared.then_some(meter);
            used.push(meter);
        }
        let configured = used.len();
        let rates = account.config.limits.iter();
        let rates = rates.filter(|limit| limit.covers(model));
        let rates = rates.filter_map(|limit| BelievedRate::of(&limit.amount));
        let configured_rate = rates.reduce(BelievedRate::lesser);
        let learned = account
            .learns
            .then(|| LearnedLimits::new(&mut self.meters, now, self.spent_at));
        used.extend(learned.iter().flat_map(LearnedLimits::meters));
        let model_state = ModelLedger {
            state: ReadyState::Ready,
            circuit: account
                .circuits
                .of(&account.config.endpoint.base_url, model),
            factor: TokenCorrection::unknown(),
            counting: LearnedCounting::new(now),
            meters: used,
            configured,
            learned,
            lowered: LoweredLimit::default(),
            configured_rate,
            requested_wait: RequestedWait::default(),
            unhinted_refusals: 0,
            unhinted_refusal_at: None,
            refused_jobs: RefusedJobs::default(),
            unexplained: UnexplainedRefusals::default(),
        };
        self.models.insert(model.to_owned(), model_state);
    }

    /// A call to `model` that was permitted at `granted` was accepted.
    pub(super) fn accepted(&mut self, call: u64, model: &str, granted: Instant, now: Instant) {
        let Some(model) = self.models.get_mut(model) else {
            return;
        };
        model.unhinted_refusals = 0;
        model.requested_wait.accepted();
        model.refused_jobs.accepted(granted);
        if let Some(learned) = &mut model.learned {
            learned.accepted(call, granted, &mut self.meters, now);
        }
        model.lowered.accepted();
    }

    /// A limit refused a call to `model`: its meters had admitted it.
    pub(super) fn refused(&mut self, model: &str, call: RefusedCall, now: Instant) {
        let Some(model) = self.models.get_mut(model) else {
            return;
        };
        if !model.refused_jobs.refused(call.job, now) {
            return;
        }
        match &mut model.learned {
            Some(learned) if !learned.follows_headers() => {
                learned.refused(call, &mut self.meters, now);
            }
            learned => {
                let meters = &mut self.meters;
                if let Some(learned) = learned {
                    learned.refused_at_stated(meters, now);
                }
                let believed = model.believed_rate();
                if believed.is_none() {
                    model.counting.refused(call.granted, now);
                }
                if model.lowered.refused(call, believed, meters, now) {
                    // They trust the way to the server too much.
                    let used = model.meters.iter();
                    used.for_each(|meter| meters[*meter].refused(call.granted, now));
                }
                model.choose_meters();
            }
        }
    }

    /// How long a refusal cools that does not say so.
    pub(super) fn wait_without_hint(
        &mut self,
        model: &str,
        granted: Instant,
        now: Instant,
    ) -> Duration {
        let Some(model) = self.models.get_mut(model) else {
            return FIRST_WAIT_WITHOUT_HINT;
        };
        // Calls that were under way together are refused together, which counts once.
        if model.unhinted_refusal_at.is_none_or(|at| granted >= at) {
            model.unhinted_refusals += 1;
            model.unhinted_refusal_at = Some(now);
        }
        (FIRST_WAIT_WITHOUT_HINT * 2u32.saturating_pow(model.unhinted_refusals.saturating_sub(1)))
            .min(LONGEST_WAIT_WITHOUT_HINT)
    }

    pub(super) fn observe(
        &mut self,
        model: &str,
        headers: &[RateLimitHeaders],
        age: Duration,
        now: Instant,
    ) {
        let Some(model) = self.models.get_mut(model) else {
            return;
        };
        let asked = now.checked_sub(age).unwrap_or(now);
        for meter in &model.meters[..model.configured] {
            let meter = &mut self.meters[*meter];
            for headers in headers {
                meter.observe(headers, asked, now);
                meter.correct_by(headers, now);
            }
        }
        if let Some(learned) = &mut model.learned {
            learned.observe(headers, age, &mut self.meters, now);
            model.choose_meters();
        }
    }

    /// Takes in the figures of the limit that refused a call of `cost` to `model`. `states_maximum` is true if the job limits the
    /// length of its answer.
    pub(super) fn observe_refusal(
        &mut self,
        model: &str,
        (cost, granted, states_maximum): (CallCost, Instant, bool),
        stated: &StatedUse,
        now: Instant,
    ) {
        let Some(model) = self.models.get_mut(model) else {
            return;
        };
        if stated.dimension == LimitDimension::Tokens {
            if states_maximum {
                model.counting.learn(&cost, stated.requested);
            }
            // A call that is larger than the whole limit shows nothing of what the others count for.
            if stated.used.is_some() {
                model.counting.refused(granted, now);
            }
        }
        let Some(headers) = stated.as_headers() else {
            return;
        };
        for meter in &model.meters[..model.configured] {
            self.meters[*meter].correct_by(&headers, now);
        }
    }

    /// Calls a second that the least of the learned limits allows.
    pub(super) fn learned_rate(&self) -> Option<f64> {
        let learned = self
            .models
            .values()
            .filter_map(|model| model.learned.as_ref());
        let short = learned
            .flat_map(LearnedLimits::amounts)
            .filter(Amount::is_short);
        short
            .filter_map(|amount| amount.requests_per_second())
            .reduce(f64::min)
    }

    pub(super) fn each_meter_of(&mut self, model: &str, mut act: impl FnMut(&mut Meter)) {
        let AccountLedger { models, meters, .. } = self;
        for meter in models
            .get(model)
            .into_iter()
            .flat_map(|model| &model.meters)
        {
            act(&mut meters[*meter]);
        }
    }
}

/// The next key in turn that may be used, or what the soonest of them waits for.
pub(super) fn choose_key(
    keys: &[ReadyState],
    first: usize,
    now: Instant,
) -> Result<(usize, CallGate), Denied> {
    let mut soonest = None;
    for key in (0..keys.len()).map(|step| (first + step) % keys.len()) {
        match keys[key].gate(now).pass() {
            Ok(gate) => return Ok((key, gate)),
            Err(denied) => {
                soonest = Some(soonest.map_or(denied, |other| sooner(other, denied)));
            }
        }
    }
    Err(soonest.unwrap_or(Denied::Disabled(None)))
}

/// Of two waits, the one that may end first.
fn sooner(left: Denied, right: Denied) -> Denied {
    match (left, right) {
        (Denied::Until(left), Denied::Until(right)) => Denied::Until(left.min(right)),
        // A release wakes by itself; a time must be waited for.
        (Denied::Until(at), _) | (_, Denied::Until(at)) => Denied::Until(at),
        (Denied::UntilRelease, _) | (_, Denied::UntilRelease) => Denied::UntilRelease,
        (Denied::Disabled(reason), _) | (_, Denied::Disabled(reason)) => Denied::Disabled(reason),
        (Denied::NotAllowed, _) | (_, Denied::NotAllowed) => Denied::NotAllowed,
        (Denied::TooLarge, Denied::TooLarge) => Denied::TooLarge,
    }
}
