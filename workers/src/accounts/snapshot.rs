//! The state of an account and of its models, as operators see it.

use std::time::Duration;

use tokio::time::Instant;

use super::learn::LearnedLimits;
use super::ledger::{AccountLedger, ModelLedger};
use super::meter::Meter;
use super::requested_wait::RequestedWait;
use super::state::ReadyState;
use super::{Account, AccountTotals, Config};

/// A spent limit is shown only if no call may start for longer than this.
const SHORTEST_SHOWN_WAIT: Duration = Duration::from_secs(5);

/// The state of an account, as operators see it.
#[derive(Debug, Clone)]
pub struct AccountSnapshot {
    /// The account's name.
    pub name: String,
    /// The provider's name.
    pub provider: String,
    /// The account's keys, in their order.
    pub keys: Vec<KeySnapshot>,
    /// The models that the account was asked about, in order of their names.
    pub models: Vec<ModelSnapshot>,
    /// The calls per second that its limits on calls allow to one model; `None` if it has no limit on calls.
    pub requests_per_second: Option<f64>,
    /// The totals since the account was built.
    pub totals: AccountTotals,
    /// The message of the last call that was not accepted.
    pub last_problem: Option<String>,
    /// True if its saved state was lost: keys are disabled, and limits over more than a minute count as spent.
    pub has_unknown_state: bool,
}

/// The state of a key, as operators see it.
#[derive(Debug, Clone)]
pub struct KeySnapshot {
    /// The key's name.
    pub name: String,
    /// The key's state.
    pub state: ReadyState,
    /// The end of a wait that the provider requests and that is not believed: a call probes before it.
    pub doubted_until: Option<Instant>,
}

/// The state of a model at an account, as operators see it.
#[derive(Debug, Clone)]
pub struct ModelSnapshot {
    /// The model's name.
    pub name: String,
    /// The model's state.
    pub state: ReadyState,
    /// The end of a wait that the provider requests and that is not believed: a call probes before it.
    pub doubted_until: Option<Instant>,
    /// The limit that is spent for the longest time, and the time at which a call may start again. `None` if no limit
    /// is spent for more than five seconds.
    pub spent: Option<(String, Instant)>,
    /// The learned limits as they are assumed now. The text begins with `trying` while a limit is searched.
    pub learned: Vec<String>,
}

impl Account {
    /// Returns the account's state at `now`.
    pub fn snapshot(&self, now: Instant) -> AccountSnapshot {
        let mut ledger = self.ledger();
        let AccountLedger { models, meters, .. } = &mut *ledger;
        let mut models: Vec<_> = models.iter().collect();
        models.sort_by_key(|(name, _)| *name);
        let models = models.into_iter();
        let models = models.map(|(name, model)| snapshot_of(name, model, meters, now));
        let models = models.collect();
        let Config {
            name,
            endpoint,
            keys,
            ..
        } = &self.config;
        let names = keys.iter().map(|key| &key.name);
        let states = ledger.keys.iter().zip(&ledger.key_waits);
        let key = |(name, (state, wait)): (&String, (&ReadyState, &RequestedWait))| KeySnapshot {
            name: name.clone(),
            state: state.clone(),
            doubted_until: doubted_until(state, wait),
        };
        let keys = names.zip(states).map(key).collect();
        let learned = ledger.learned_rate();
        AccountSnapshot {
            name: name.clone(),
            provider: endpoint.provider.name.clone(),
            keys,
            models,
            requests_per_second: self.requests_per_second().or(learned),
            totals: ledger.totals,
            last_problem: ledger.last_problem.clone(),
            has_unknown_state: ledger.has_unknown_state,
        }
    }
}

fn snapshot_of(
    name: &str,
    model: &ModelLedger,
    meters: &mut [Meter],
    now: Instant,
) -> ModelSnapshot {
    let soon = now + SHORTEST_SHOWN_WAIT;
    let spent = model.meters.iter();
    let spent = spent.filter_map(|meter| meters[*meter].spent(now, soon));
    let spent = spent.max_by_key(|(_, at)| *at);
    let learned = model.learned.iter();
    let configured = model.meters[..model.configured].iter();
    let stated = configured.filter_map(|meter| meters[*meter].lowered());
    let stated = stated.map(|amount| format!("{amount} stated by the provider"));
    let lowered = stated.chain(model.lowered.describe());
    ModelSnapshot {
        name: name.to_owned(),
        doubted_until: doubted_until(&model.state, &model.requested_wait),
        state: model.shown(),
        spent,
        learned: learned
            .flat_map(LearnedLimits::describe)
            .chain(lowered)
            .collect(),
    }
}

/// The end of a wait that is not believed, while it holds back calls.
fn doubted_until(state: &ReadyState, wait: &RequestedWait) -> Option<Instant> {
    let until = wait.doubted_until();
    until.filter(|_| state.until().is_some() || matches!(state, ReadyState::Probing { .. }))
}
