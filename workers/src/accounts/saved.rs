//! The state of an account, or of a team's limits, that outlives a process, in the form in which it is written down.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_schemas::Class;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::accounts::AccountKey;
use crate::accounts::limit::Limit;
use crate::clock::SavedMoment;

/// The spent parts of limits over more than a minute, by limit. Each part has the time at which it returns, and its
/// amount.
pub type SpentLimits = BTreeMap<String, Vec<(Timestamp, u64)>>;

/// The state of an account, or of a team's limits, that outlives its process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountState {
    /// The account's keys that may not be used, by name.
    pub keys: BTreeMap<String, PausedState>,
    /// The account's models with a state worth saving, by name.
    pub models: BTreeMap<String, ModelState>,
    /// The spent parts of a team's limits. Of an account, those of each model that is not in `models`.
    pub spent: SpentLimits,
    /// The moment at which it was written down; `None` before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_at: Option<SavedMoment>,
}

impl AccountState {
    /// The state that counts where the true one is not known: every key is disabled, and every limit over more than a minute
    /// is spent for a whole period.
    pub(crate) fn unknown<'a>(
        keys: impl IntoIterator<Item = &'a AccountKey>,
        limits: &[Limit],
        now: Timestamp,
    ) -> Self {
        let disabled = PausedState {
            until: None,
            reason: None,
        };
        let keys = keys
            .into_iter()
            .map(|key| (key.name.clone(), disabled.clone()));
        Self {
            keys: keys.collect(),
            models: BTreeMap::new(),
            spent: limits
                .iter()
                .filter_map(|limit| limit.wholly_spent(now))
                .collect(),
            saved_at: None,
        }
    }
}

/// The state of a model at an account that outlives its process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelState {
    /// The reason and the end of its pause; `None` if it may be called.
    pub paused: Option<PausedState>,
    /// The spent parts of its limits.
    pub spent: SpentLimits,
    /// The limit that a search found; `None` if it found none, or headers state the limit.
    pub found: Option<FoundLimit>,
}

/// A key or a model that may not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PausedState {
    /// The time at which it returns by itself; `None` if an operator disabled it.
    pub until: Option<Timestamp>,
    /// The class of the failure; `None` if an operator disabled it.
    pub reason: Option<Class>,
}

/// A limit on calls that a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundLimit {
    /// The number of calls per minute.
    pub calls_per_minute: u64,
    /// True if it limits the calls of a minute, and false if it limits their rate.
    pub window: bool,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct ClockPair {
    /// The moment on the process's clock.
    pub instant: Instant,
    /// The moment on the wall clock.
    pub wall: Timestamp,
}

impl ClockPair {
    /// Returns the time `at` on the wall clock.
    pub(super) fn wall(&self, at: Instant) -> Timestamp {
        let after = at.saturating_duration_since(self.instant);
        let before = self.instant.saturating_duration_since(at);
        self.wall
            .checked_add(after)
            .and_then(|at| at.checked_sub(before))
            .unwrap_or(Timestamp::MAX)
    }

    /// Returns the time `at` on the process's clock, or this moment if `at` has passed.
    pub(super) fn instant(&self, at: Timestamp) -> Instant {
        let wait = at.duration_since(self.wall);
        self.instant + Duration::try_from(wait).unwrap_or_default()
    }

    /// Returns the time `at` on the wall clock, rounded up to a whole multiple of `step`. The saved state then does not
    /// change all the time.
    pub(super) fn wall_in_steps(&self, at: Instant, step: Duration) -> Timestamp {
        let at = self.wall(at).as_millisecond();
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
        let steps = at.saturating_add(step - 1) / step.max(1);
        Timestamp::from_millisecond(steps.saturating_mul(step)).unwrap_or(Timestamp::MAX)
    }
}

impl ModelState {
    pub(super) fn is_worth_saving(&self) -> bool {
        let Self {
            paused,
            spent,
            found,
        } = self;
        let is_spent = spent.values().any(|parts| !parts.is_empty());
        paused.is_some() || found.is_some() || is_spent
    }
}
