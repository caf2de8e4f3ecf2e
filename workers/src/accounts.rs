//! An account at a provider: its limits, and the keys that share them.
//!
//! All meters of an account are asked together and taken together, under one lock. Division of labour:
//! this ledger counts what is taken and when it returns; governor ([`pacer`]) spaces the starts and is
//! asked last, so that nothing it granted has to be taken back.

mod bucket;
mod circuit;
mod day;
mod learn;
mod ledger;
mod limit;
mod meter;
mod pacer;
mod permit;
mod persist;
mod saved;
mod state;
mod team_limits;
mod timing_margin;
mod token_correction;
mod wake;
mod window;
mod write_ahead;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Class;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

pub use crate::accounts::team_limits::{TeamLimits, TeamShare};
pub(crate) use circuit::CircuitBreakers;
use learn::LearnedLimits;
use ledger::{AccountLedger, ModelLedger, choose_key};
pub use limit::{Algorithm, Amount, Limit};
use meter::MeterWait;
pub use permit::{Permit, SendMarker};
pub use saved::{AccountState, ClockPair, FoundLimit, ModelState, PausedState, SpentLimits};
use state::CallGate;
pub use state::ReadyState;
pub use wake::Wake;

use crate::clock::Clock;
use forebay_providers::Endpoint;
use forebay_providers::Secret;
use forebay_providers::cost::CallCost;

/// Calls at once to one model where limits are learned.
const CONCURRENT_WHILE_LEARNING: u64 = 256;
/// A limit that a call may start under again sooner is not worth telling of.
const SHORTEST_TOLD_WAIT: Duration = Duration::from_secs(5);

/// One credential of an account.
#[derive(Debug, Clone)]
pub struct AccountKey {
    /// Its name, for people.
    pub name: String,
    /// The credential.
    pub secret: Secret,
}

/// What an account is made of.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name, for people.
    pub name: String,
    /// Where its calls go.
    pub endpoint: Endpoint,
    /// Its credentials, at least one.
    pub keys: Vec<AccountKey>,
    /// Its limits; where there are none, they are learned.
    pub limits: Vec<Limit>,
}

impl Config {
    /// Whether `model` has a limit in common with others.
    pub(crate) fn shares_limits(&self, model: &str) -> bool {
        self.limits_of(model).any(|limit| limit.models.is_some())
    }

    /// The limits that bear on `model`, in their order.
    fn limits_of(&self, model: &str) -> impl Iterator<Item = &Limit> {
        self.limits.iter().filter(move |limit| limit.covers(model))
    }
}

/// An account at a provider.
#[derive(Debug)]
pub struct Account {
    config: Config,
    /// Whether its limits are learned.
    learns: bool,
    ledger: Mutex<AccountLedger>,
    wake: Arc<Wake>,
    circuits: Arc<CircuitBreakers>,
    clock: Arc<dyn Clock>,
}

/// Why no call may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It may at this time, if nothing else takes the room first.
    Until(Instant),
    /// Only after a call that is under way has been sent or has ended.
    ForRelease,
    /// Never: the call alone is larger than a limit.
    TooLarge,
    /// Not until an operator acts.
    Shut(Option<Class>),
}

impl From<MeterWait> for Denied {
    fn from(wait: MeterWait) -> Self {
        match wait {
            MeterWait::Until(at) => Denied::Until(at),
            MeterWait::ForRelease => Denied::ForRelease,
            MeterWait::TooLarge => Denied::TooLarge,
        }
    }
}

impl Denied {
    /// Whether it ends, by itself or by an operator's act: only a call that is too large waits in vain.
    pub(crate) fn is_temporary(self) -> bool {
        self != Denied::TooLarge
    }
}

/// What an account has done since it was built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AccountTotals {
    /// Calls that were sent.
    pub calls: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Calls that a limit refused.
    pub refusals: u64,
}

/// An account as an operator sees it.
#[derive(Debug, Clone)]
pub struct AccountSnapshot {
    /// The account's name.
    pub name: String,
    /// The provider's name.
    pub provider: String,
    /// Name and state of each key.
    pub keys: Vec<(String, ReadyState)>,
    /// Each model that was called.
    pub models: Vec<ModelSnapshot>,
    /// Calls a second that its limits on calls allow to one model; `None` if they say nothing of calls.
    pub requests_per_second: Option<f64>,
    /// What it has done.
    pub totals: AccountTotals,
    /// What was said when a call was last not accepted.
    pub last_problem: Option<String>,
}

/// A model at an account, as an operator sees it.
#[derive(Debug, Clone)]
pub struct ModelSnapshot {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: ReadyState,
    /// A limit that is spent for more than some seconds, and when a call may start again.
    pub spent: Option<(String, Instant)>,
    /// What its limits are taken to be, where they are learned: `trying …` while one is searched.
    pub learned: Vec<String>,
}

impl Account {
    /// Builds an account; `wake` is told whenever a call that had to wait might now start, and `circuits` are
    /// shared with the other accounts. A process before this one may have spent its limits up to `spent_at`.
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
            models: HashMap::new(),
            meters: Vec::new(),
            shared: vec![None; config.limits.len()],
            totals: AccountTotals::default(),
            last_problem: None,
            spent_at,
            kept: false,
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

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it was built from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn ledger(&self) -> MutexGuard<'_, AccountLedger> {
        // The ledger is consistent between any two statements that can panic.
        self.ledger.lock()
    }

    /// Takes `cost` from all meters that bear on `model`, or from none.
    ///
    /// # Errors
    /// Says what the call has to wait for.
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
        let Some(ModelLedger {
            state,
            circuit,
            factor,
            meters: used,
            learned,
            ..
        }) = models.get_mut(model)
        else {
            return Err(Denied::Shut(None));
        };
        if let Some(learned) = learned {
            learned.grow(meters, now);
        }
        let cost = CallCost {
            input_tokens: factor.apply(cost.input_tokens),
            ..cost
        };
        let model_gate = state.gate(now).pass()?;
        let circuit_gate = circuit.gate(now).pass()?;
        let (key, key_gate) = choose_key(&ledger.keys, ledger.next_key, now)?;
        let mut passed_over = None;
        for meter in used.iter() {
            let Err(wait) = meters[*meter].peek(&cost, now) else {
                continue;
            };
            let probing = [model_gate, circuit_gate].contains(&CallGate::Probe);
            if learned
                .as_mut()
                .is_some_and(|learned| learned.held_back(*meter, wait, now, probing))
            {
                passed_over = Some(*meter);
                continue;
            }
            return Err(wait.into());
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
        state.begin();
        ledger.keys[key].begin();
        if model_gate == CallGate::Probe {
            state.probe(call, now);
        }
        if let Some(learned) = learned.as_mut().filter(|_| passed_over.is_some()) {
            learned.probes(call);
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
            now,
        ))
    }

    /// Whether its limits are learned.
    pub(crate) fn learns(&self) -> bool {
        self.learns
    }

    /// Whether any limit on `model` counts calls: then what travels in one of them saves others.
    pub(crate) fn counts_calls(&self, model: &str) -> bool {
        self.learns
            || self
                .config
                .limits_of(model)
                .any(|limit| !limit.counts_tokens())
    }

    /// The part of the tightest limit on `model` that is free, 0 to 1; below zero where calls cannot
    /// be made now.
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
            key.shut(reason);
        }
        self.wake.release();
    }

    /// Stops all calls with a key, or with all of them, until [`Account::enable`]. False if there is no such
    /// key.
    pub fn disable_by_hand(&self, key: Option<&str>) -> bool {
        self.each_key(key, |state| *state = ReadyState::Disabled { reason: None })
    }

    /// Lets a key be used again that was disabled, or all of them; with all, models too that were not
    /// allowed. A cooldown stays.
    pub fn enable(&self, key: Option<&str>) -> bool {
        let found = self.each_key(key, |state| {
            if matches!(state, ReadyState::Disabled { .. }) {
                *state = ReadyState::Ready;
            }
        });
        if key.is_none() {
            for model in self.ledger().models.values_mut() {
                if model.state.reason() == Some(Class::ModelNotAllowed) {
                    model.state = ReadyState::Ready;
                }
            }
        }
        self.wake.release();
        found
    }

    fn each_key(&self, key: Option<&str>, mut act: impl FnMut(&mut ReadyState)) -> bool {
        let mut ledger = self.ledger();
        let chosen = |name: &str| key.is_none_or(|key| key == name);
        let states = self
            .config
            .keys
            .iter()
            .zip(&mut ledger.keys)
            .filter(|(key, _)| chosen(&key.name));
        states.map(|(_, state)| act(state)).count() > 0
    }

    /// Notes what was said when a call was not accepted.
    pub fn note_problem(&self, problem: &str) {
        self.ledger().last_problem = Some(problem.to_owned());
    }

    /// What it is doing at `now`.
    pub fn snapshot(&self, now: Instant) -> AccountSnapshot {
        let mut ledger = self.ledger();
        let names = self.config.keys.iter().map(|key| key.name.clone());
        let AccountLedger { models, meters, .. } = &mut *ledger;
        let mut models: Vec<_> = models
            .iter()
            .map(|(name, model)| ModelSnapshot {
                name: name.clone(),
                state: model.shown(),
                spent: model
                    .meters
                    .iter()
                    .filter_map(|meter| meters[*meter].spent(now, now + SHORTEST_TOLD_WAIT))
                    .max_by_key(|(_, at)| *at),
                learned: model
                    .learned
                    .iter()
                    .flat_map(LearnedLimits::describe)
                    .collect(),
            })
            .collect();
        models.sort_by(|left, right| left.name.cmp(&right.name));
        let learned = ledger.learned_rate();
        AccountSnapshot {
            name: self.config.name.clone(),
            provider: self.config.endpoint.provider.name.clone(),
            keys: names.zip(ledger.keys.iter().cloned()).collect(),
            models,
            requests_per_second: self.requests_per_second().or(learned),
            totals: ledger.totals,
            last_problem: ledger.last_problem.clone(),
        }
    }

    /// Whether any of its limits counts tokens.
    pub(crate) fn counts_tokens(&self) -> bool {
        self.learns || self.config.limits.iter().any(Limit::counts_tokens)
    }

    /// Calls a second that the limits of periods up to a minute allow to `model`; longer ones say
    /// nothing of how fast calls go.
    pub(crate) fn short_rate(&self, model: &str) -> Option<f64> {
        let short = |limit: &&Limit| limit.covers(model) && limit.is_short();
        self.config
            .limits
            .iter()
            .filter(short)
            .filter_map(Limit::requests_per_second)
            .reduce(f64::min)
    }

    /// Calls a second that the tightest limit on calls allows to one model: of those for periods up to
    /// a minute, if there are any.
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
