//! What of an account, or of a team's limits, outlives a process, as it is written down.

use std::collections::BTreeMap;
use std::time::Duration;

use forebay_schemas::Class;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What is spent of limits over more than a minute, by limit, and when each part of it returns.
pub type SpentLimits = BTreeMap<String, Vec<(Timestamp, u64)>>;

/// What of an account, or of a team's limits, outlives its process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// Its keys that may not be used, by name.
    #[serde(default)]
    pub keys: BTreeMap<String, PausedState>,
    /// Its models that were called, by name.
    #[serde(default)]
    pub models: BTreeMap<String, ModelState>,
    /// What a team has spent of its limits; an account's are its models'.
    #[serde(default)]
    pub spent: SpentLimits,
}

/// What of a model at an account outlives its process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelState {
    /// Why it may not be called, if it may not.
    pub paused: Option<PausedState>,
    /// What is spent of its limits.
    #[serde(default)]
    pub spent: SpentLimits,
    /// The limit that was found where none is told.
    pub found: Option<FoundLimit>,
}

/// A key or a model that may not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedState {
    /// When it returns by itself; never, if an operator disabled it.
    pub until: Option<Timestamp>,
    /// What happened, if it was not an operator's act.
    pub reason: Option<Class>,
}

/// A limit on calls that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundLimit {
    /// Calls.
    pub calls_per_minute: u64,
    /// Whether it is a minute that holds so many, and not a rate.
    pub window: bool,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct ClockPair {
    /// On the process's clock.
    pub instant: Instant,
    /// On the wall.
    pub wall: Timestamp,
}

impl ClockPair {
    /// When `at` is, on the wall.
    pub(super) fn wall(&self, at: Instant) -> Timestamp {
        let after = at.saturating_duration_since(self.instant);
        let before = self.instant.saturating_duration_since(at);
        self.wall
            .checked_add(after)
            .and_then(|at| at.checked_sub(before))
            .unwrap_or(Timestamp::MAX)
    }

    /// When `at` is, on the process's clock; now, if it has passed.
    pub(super) fn instant(&self, at: Timestamp) -> Instant {
        self.instant + Duration::try_from(at.duration_since(self.wall)).unwrap_or_default()
    }

    /// `at` on the wall, put off to the next whole multiple of `step`: so that what is written down does not
    /// change all the time.
    pub(super) fn wall_in_steps(&self, at: Instant, step: Duration) -> Timestamp {
        let (at, step) = (
            self.wall(at).as_millisecond(),
            i64::try_from(step.as_millis()).unwrap_or(i64::MAX),
        );
        let steps = at.saturating_add(step - 1) / step.max(1);
        Timestamp::from_millisecond(steps.saturating_mul(step)).unwrap_or(Timestamp::MAX)
    }
}

impl ModelState {
    pub(super) fn says_something(&self) -> bool {
        self.paused.is_some()
            || self.found.is_some()
            || self.spent.values().any(|parts| !parts.is_empty())
    }
}
