//! An account at a provider: its limits, and the keys that share them.
//!
//! A call reserves from all meters of an account together, under one lock. The meters count what is taken and when it
//! returns. Governor (`pacer`) spaces the starts. It is asked last, so that nothing it granted has to be taken back.

// One limit: how much of it is taken, and when each part returns.
mod limit;
mod meter;

// The right to make one call, taken from all meters at once.
mod ledger;
mod permit;
mod team_limits;
mod wake;

// Whether a key and a model may be called at all.
mod circuit;
mod denied;
mod requested_wait;
mod state;

// What is learned from answers: limits, and how far estimates of tokens are off.
mod learn;
mod learned_counting;
mod outage;
mod refused_jobs;
mod token_correction;
mod unexplained_refusals;

// The state of an account, for operators and for the process after this one.
mod clock_change;
mod persist;
mod saved;
mod snapshot;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Class;
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::time::Instant;

pub use crate::accounts::team_limits::{TeamLimits, TeamShare};
pub(crate) use circuit::{CallOrigin, CircuitBreakers};
pub use denied::Denied;
use ledger::{AccountLedger, ModelLedger, choose_key};
pub use limit::{Algorithm, Amount, Limit};
pub(crate) use outage::{EarlierFailures, FailureCause};
pub use permit::{Permit, SendMarker};
use requested_wait::RequestedWait;
pub use saved::{AccountState, ClockPair, FoundLimit, ModelState, PausedState, SpentLimits};
pub use snapshot::{AccountSnapshot, KeySnapshot, ModelSnapshot};
use state::CallGate;
pub use state::ReadyState;
pub(crate) use unexplained_refusals::{RefusalJudgement, UnexplainedRefusal};
pub use wake::Wake;

use crate::clock::Clock;
use forebay_providers::Endpoint;
use forebay_providers::Secret;
use forebay_providers::cost::CallCost;

/// Limit of calls at once to one model whose limits are learned.
const CONCURRENT_WHILE_LEARNING: u64 = 256;

/// One credential of an account. Clones share it.
#[derive(Debug, Clone)]
pub struct AccountKey {
    /// The key's name, for people.
    pub name: String,
    secret: Arc<RwLock<Arc<Secret>>>,
}

impl AccountKey {
    /// A key of this name.
    pub fn new(name: impl Into<String>, secret: Secret) -> Self {
        Self {
            name: name.into(),
            secret: Arc::new(RwLock::new(Arc::new(secret))),
        }
    }

    /// The credential.
    pub fn secret(&self) -> Arc<Secret> {
        Arc::clone(&self.secret.read())
    }

    /// Replaces the credential. Returns true if it is another one.
    fn replace(&self, secret: Secret) -> bool {
        let mut known = self.secret.write();
        let differs = **known != secret;
        if differs {
            *known = Arc::new(secret);
        }
        differs
    }
}

/// The configuration of an account.
#[derive(Debug, Clone)]
pub struct Config {
    /// The account's name, for people.
    pub name: String,
    /// The provider's endpoint, to which its calls are sent.
    pub endpoint: Endpoint,
    /// The account's credentials, at least one.
    pub keys: Vec<AccountKey>,
    /// The account's limits. If the list is empty, they are learned.
    pub limits: Vec<Limit>,
}

impl Config {
    /// Returns true if `model` shares a limit with other models.
    pub(crate) fn shares_limits(&self, model: &str) -> bool {
        self.limits_of(model).any(Limit::is_shared)
    }

    /// Returns the longest period of the limits that cover `model`; `None` if none of them has a period.
    fn longest_period(&self, model: &str) -> Option<Duration> {
        self.limits_of(model).filter_map(Limit::period).max()
    }

    /// Returns the limits that cover `model`, in their order.
    fn limits_of(&self, model: &str) -> impl Iterator<Item = &Limit> {
        let limits = self.limits.iter();
        limits.filter(move |limit| limit.covers(model))
    }
}

/// An account at a provider.
#[derive(Debug)]
pub struct Account {
    config: Config,
    /// True if its limits are learned.
    learns: bool,
    ledger: Mutex<AccountLedger>,
    wake: Arc<Wake>,
    circuits: Arc<CircuitBreakers>,
    clock: Arc<dyn Clock>,
}

/// The totals of an account since it was built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountTotals {
    /// The number of calls that were sent.
    pub calls: u64,
    /// The number of calls under way.
    pub in_flight: u64,
    /// The number of calls that a limit refused.
    pub refusals: u64,
}

impl Account {
    /// Builds an account. It releases `wake` whenever a call that had to wait might now start, and shares `circuits`
    /// with the other accounts. A process before this one may have spent its limits up to `spent_at`.
    pub(crate) fn new(
        mut config: Config,
        wake: Arc<Wake>,
        circuits: Arc<CircuitBreakers>,
        spent_at: Option<Instant>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let learns = config.limits.is_empty();
        if learns {
            let amount = Amount::Concurrent(CONCURRENT_WHILE_LEARNING);
            config.limits.push(Limit {
                amount,
                models: None,
            });
        }
        let ledger = AccountLedger {
            next_call: 0,
            next_key: 0,
            keys: vec![ReadyState::Ready; config.keys.len()],
            key_waits: vec![RequestedWait::default(); config.keys.len()],
            models: HashMap::new(),
            meters: Vec::new(),
            shared: vec![None; config.limits.len()],
            totals: AccountTotals::default(),
            last_problem: None,
            has_unknown_state: false,
            spent_at,
            save_requests: None,
            spent_of_new_models: SpentLimits::new(),
        };
        Arc::new(Self {
            config,
            learns,
            ledger: Mutex::new(ledger),
            wake,
            circuits,
            clock,
        })
    }

    /// Returns the account's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Returns the configuration from which it was built.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn ledger(&self) -> MutexGuard<'_, AccountLedger> {
        // The ledger is consistent between any two statements that can panic.
        self.ledger.lock()
    }

    /// Reserves `cost` on all meters that cover `model`, or on none.
    ///
    /// # Errors
    /// Returns what the call has to wait for.
    pub fn reserve(
        self: &Arc<Self>,
        model: &str,
        cost: CallCost,
        now: Instant,
    ) -> Result<Permit, Denied> {
        let mut ledger = self.ledger();
        let ledger = &mut *ledger;
        ledger.ensure_model(model, self, now);
        let AccountLedger { models, meters, .. } = ledger;
        let Some(model_ledger) = models.get_mut(model) else {
            return Err(Denied::Disabled(None));
        };
        model_ledger.grow(meters, now);
        let ModelLedger {
            state,
            circuit,
            factor,
            counting,
            meters: used,
            learned,
            lowered,
            ..
        } = model_ledger;
        let cost = counting.apply(CallCost {
            input_tokens: factor.apply(cost.input_tokens),
            ..cost
        });
        let model_gate = state.gate(now).pass()?;
        let circuit_gate = circuit.gate(now).pass()?;
        let (key, key_gate) = choose_key(&ledger.keys, ledger.next_key, now)?;
        let probing = [model_gate, circuit_gate].contains(&CallGate::Probe);
        let mut passed_over = None;
        for meter in used.iter() {
            let Err(wait) = meters[*meter].peek(&cost, now) else {
                continue;
            };
            let passes_as_probe = learned
                .as_mut()
                .is_some_and(|learned| learned.may_pass_as_probe(*meter, wait, now, probing));
            if !passes_as_probe {
                lowered.note_wait(*meter);
                return Err(wait.into());
            }
            passed_over = Some(*meter);
        }
        let passage = circuit.enter(now)?;
        for meter in used.iter().filter(|meter| passed_over != Some(**meter)) {
            meters[*meter].start(now).map_err(Denied::Until)?;
        }
        ledger.next_call += 1;
        let call = ledger.next_call;
        for meter in used.iter() {
            meters[*meter].take(call, &cost);
        }
        debug_assert!(
            used.iter().all(|meter| meters[*meter].has_open(call)),
            "a permit takes from all meters"
        );
        state.begin();
        lowered.began(call, now);
        ledger.keys[key].begin();
        if model_gate == CallGate::Probe {
            state.probe(call, now);
        }
        if let Some(learned) = learned.as_mut().filter(|_| passed_over.is_some()) {
            learned.begin_probe(call);
        }
        if key_gate == CallGate::Probe {
            ledger.keys[key].probe(call, now);
        }
        ledger.next_key = (key + 1) % ledger.keys.len();
        ledger.totals.in_flight += 1;
        Ok(Permit::new(
            Arc::clone(self),
            call,
            model.to_owned(),
            key,
            passage,
            (now, cost),
        ))
    }

    /// Returns true if its limits are learned.
    pub(crate) fn learns(&self) -> bool {
        self.learns
    }

    /// Returns true if a limit on `model` counts calls. Jobs that travel in one call then save other calls.
    pub(crate) fn counts_calls(&self, model: &str) -> bool {
        let mut limits = self.config.limits_of(model);
        self.learns || limits.any(|limit| !limit.counts_tokens())
    }

    /// Returns the free part of the tightest limit on `model`, 0 to 1, or a negative number if no call can be made now.
    pub fn headroom(&self, model: &str, now: Instant) -> f64 {
        let mut ledger = self.ledger();
        let ledger = &mut *ledger;
        ledger.ensure_model(model, self, now);
        let AccountLedger { models, meters, .. } = ledger;
        let Some(ModelLedger {
            state,
            circuit,
            meters: used,
            ..
        }) = models.get(model)
        else {
            return -1.0;
        };
        if state.gate(now) != CallGate::Open || circuit.gate(now) != CallGate::Open {
            return -1.0;
        }
        used.iter()
            .map(|meter| meters[*meter].headroom(now))
            .fold(1.0, f64::min)
    }

    /// Returns true if the next call to `model` shows whether calls are accepted again.
    pub(crate) fn is_probed_next(&self, model: &str, now: Instant) -> bool {
        let ledger = self.ledger();
        let model = ledger.models.get(model);
        let gates = model.map(|model| [model.state.gate(now), model.circuit.gate(now)]);
        gates.is_some_and(|gates| gates.contains(&CallGate::Probe))
    }

    /// Returns true if the provider said a short while ago that the account may not use `model`.
    pub(crate) fn refuses_model(&self, model: &str, now: Instant) -> bool {
        let ledger = self.ledger();
        let model = ledger.models.get(model);
        model.is_some_and(|model| model.state.gate(now) == CallGate::NotAllowed)
    }

    /// Cools calls to `model`.
    pub fn cool_model(&self, model: &str, reason: Class, wait: Duration, now: Instant) {
        let mut ledger = self.ledger();
        ledger.ensure_model(model, self, now);
        if let Some(model) = ledger.models.get_mut(model) {
            model.state.cool(reason, wait, now);
        }
    }

    /// Stops all calls with every key until an operator acts.
    pub fn disable(&self, reason: Class) {
        for key in &mut self.ledger().keys {
            key.disable(reason);
        }
        self.wake.release();
    }

    /// Stops all calls with `key`, or with every key if that is `None`, until [`Account::enable`]. Returns false if
    /// there is no such key.
    pub fn disable_by_hand(&self, key: Option<&str>) -> bool {
        self.each_key(key, |state| *state = ReadyState::Disabled { reason: None })
    }

    /// Replaces the credential of a key. A key that the provider did not accept is used again. Returns true if the credential
    /// is another one.
    pub fn replace_key(&self, name: &str, secret: Secret) -> bool {
        let mut keys = self.config.keys.iter();
        let key = keys.find(|key| key.name == name);
        let is_replaced = key.is_some_and(|key| key.replace(secret));
        if is_replaced {
            self.each_key(Some(name), |state| {
                if matches!(state, ReadyState::Disabled { reason: Some(_) }) {
                    *state = ReadyState::Ready;
                }
            });
            self.wake.release();
        }
        is_replaced
    }

    /// Enables a disabled key and ends its cooldown, or every key if `key` is `None`. The latter also ends the cooldowns of
    /// all models. Returns false if there is no such key.
    pub fn enable(&self, key: Option<&str>) -> bool {
        let now = Instant::now();
        self.ledger().has_unknown_state = false;
        let found = self.each_key(key, |state| state.enable(now));
        if key.is_none() {
            let mut ledger = self.ledger();
            let models = ledger.models.values_mut();
            models.for_each(|model| model.state.enable(now));
        }
        self.wake.release();
        found
    }

    fn each_key(&self, key: Option<&str>, mut act: impl FnMut(&mut ReadyState)) -> bool {
        let mut ledger = self.ledger();
        let chosen = |name: &str| key.is_none_or(|key| key == name);
        let keys = self.config.keys.iter();
        let states = keys
            .zip(&mut ledger.keys)
            .filter(|(key, _)| chosen(&key.name));
        states.map(|(_, state)| act(state)).count() > 0
    }

    /// Notes the message of a call that was not accepted.
    pub fn note_problem(&self, problem: &str) {
        self.ledger().last_problem = Some(problem.to_owned());
    }

    /// Notes that the saved state was lost, and that the one that counts is the safe one.
    pub(crate) fn note_unknown_state(&self) {
        self.ledger().has_unknown_state = true;
    }

    /// Returns true if a limit counts tokens, or the limits are learned.
    pub(crate) fn counts_tokens(&self) -> bool {
        let limits = &self.config.limits;
        self.learns || limits.iter().any(Limit::counts_tokens)
    }

    /// Returns the calls per second that the limits for periods of up to a minute allow to `model`; `None` if none of
    /// them counts calls. Limits for longer periods do not bound the rate of calls.
    pub(crate) fn short_rate(&self, model: &str) -> Option<f64> {
        let short = |limit: &&Limit| limit.covers(model) && limit.is_short();
        let limits = self.config.limits.iter();
        limits
            .filter(short)
            .filter_map(Limit::requests_per_second)
            .reduce(f64::min)
    }

    /// Returns the calls per second that the tightest limit on calls allows to one model; `None` if there is no such
    /// limit. Limits for periods of more than a minute count only if there is none for a shorter period.
    pub fn requests_per_second(&self) -> Option<f64> {
        let limits = &self.config.limits;
        let short = limits
            .iter()
            .filter(|limit| limit.is_short())
            .filter_map(Limit::requests_per_second);
        let all = limits.iter().filter_map(Limit::requests_per_second);
        short.reduce(f64::min).or_else(|| all.reduce(f64::min))
    }
}

#[cfg(test)]
mod leaks;
#[cfg(test)]
mod tests;
