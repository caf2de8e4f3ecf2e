//! The states of a key, and of a quota × model.

use std::time::Duration;

use forebay_schemas::Class;
use tokio::time::Instant;

use super::standing::{Moment, Paused};
use crate::retry_after;

/// What is over so soon need not be written down.
const SOON: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

/// Whether calls may be made now. Every state but `Disabled` ends by itself, through one probe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Calls may be made.
    #[default]
    Ready,
    /// No calls until then: a limit was met, or the provider failed.
    Cooling {
        /// When a probe may be made.
        until: Instant,
        /// What happened.
        reason: Class,
    },
    /// A day's or a month's allowance is spent.
    Exhausted {
        /// When it returns.
        until: Instant,
    },
    /// One call is under way to see whether calls are accepted again.
    Probing {
        /// The call.
        call: u64,
        /// What had happened.
        reason: Class,
    },
    /// No calls until an operator acts.
    Disabled {
        /// What happened; nothing, if an operator disabled it.
        reason: Option<Class>,
    },
}

/// What a state says about one more call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Open, for one call alone.
    Probe,
    Until(Instant),
    ForRelease,
    Shut(Option<Class>),
}

impl State {
    pub(super) fn gate(&self, now: Instant) -> Gate {
        match *self {
            State::Ready => Gate::Open,
            State::Cooling { until, .. } | State::Exhausted { until } if until > now => Gate::Until(until),
            State::Cooling { .. } | State::Exhausted { .. } => Gate::Probe,
            State::Probing { .. } => Gate::ForRelease,
            State::Disabled { reason } => Gate::Shut(reason),
        }
    }

    /// Cools for `wait` from `now`. A cooldown is extended, never shortened; what is disabled stays so.
    pub(super) fn cool(&mut self, reason: Class, wait: Duration, now: Instant) {
        let until = now + wait.min(retry_after::LONGEST);
        let until = match *self {
            State::Disabled { .. } => return,
            State::Cooling { until: before, .. } | State::Exhausted { until: before } => until.max(before),
            State::Ready | State::Probing { .. } => until,
        };
        *self = if reason == Class::QuotaExhausted {
            State::Exhausted { until }
        } else {
            State::Cooling { until, reason }
        };
    }

    pub(super) fn probe(&mut self, call: u64) {
        let reason = match self {
            State::Exhausted { .. } => Class::QuotaExhausted,
            State::Cooling { reason, .. } => *reason,
            _ => return,
        };
        *self = State::Probing { call, reason };
    }

    /// The call that was a probe ended. If nothing has cooled the state since, it is ready; but if the
    /// provider never said a word, the next call is a probe again.
    pub(super) fn probe_ended(&mut self, ended: u64, answered: bool, now: Instant) {
        if let State::Probing { call, reason } = *self
            && call == ended
        {
            *self = if answered { State::Ready } else { State::Cooling { until: now, reason } };
        }
    }

    /// What of it outlives the process. A word of the provider's that only a new start can take back does
    /// not, and neither does what is over in a moment.
    pub(super) fn paused(&self, moment: Moment) -> Option<Paused> {
        match *self {
            State::Cooling { until, reason } if until > moment.instant + SOON => {
                Some(Paused { until: Some(moment.wall_in_steps(until, SECOND)), reason: Some(reason) })
            }
            State::Exhausted { until } => {
                let until = Some(moment.wall_in_steps(until, SECOND));
                Some(Paused { until, reason: Some(Class::QuotaExhausted) })
            }
            State::Disabled { reason: None } => Some(Paused { until: None, reason: None }),
            _ => None,
        }
    }

    /// The state that a process before this one left.
    pub(super) fn resumed(paused: &Paused, moment: Moment) -> Self {
        match (paused.until, paused.reason) {
            (Some(until), Some(Class::QuotaExhausted)) => State::Exhausted { until: moment.instant(until) },
            (Some(until), Some(reason)) => State::Cooling { until: moment.instant(until), reason },
            (Some(_), None) => State::Ready,
            (None, reason) => State::Disabled { reason },
        }
    }

    /// The state's name.
    pub fn name(&self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Cooling { .. } => "cooling",
            State::Exhausted { .. } => "exhausted",
            State::Probing { .. } => "probing",
            State::Disabled { .. } => "disabled",
        }
    }

    /// What happened, if something did.
    pub fn reason(&self) -> Option<Class> {
        match *self {
            State::Ready => None,
            State::Exhausted { .. } => Some(Class::QuotaExhausted),
            State::Cooling { reason, .. } | State::Probing { reason, .. } => Some(reason),
            State::Disabled { reason } => reason,
        }
    }

    /// When it ends by itself.
    pub fn until(&self) -> Option<Instant> {
        match *self {
            State::Cooling { until, .. } | State::Exhausted { until } => Some(until),
            _ => None,
        }
    }
}
