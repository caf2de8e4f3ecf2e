//! The states of a key, and of a model at an account.

use std::time::Duration;

use forebay_schemas::Class;
use tokio::time::Instant;

use super::Denied;
use super::saved::{ClockPair, PausedState};
use forebay_providers::retry_after;

/// A cooldown with less time left than this is not saved.
const SHORTEST_SAVED_WAIT: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
/// Length of a step of the ramp that follows a probe. Twice as many calls may begin in all after each step.
const RAMP_STEP: Duration = Duration::from_millis(250);
/// A ramp ends once 2 to the power of this number of calls have begun.
const RAMP_STEPS: u32 = 10;
/// Time after which another probe may follow one that has no answer. That one may be a long call, or hang.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// The state that decides whether calls may be made now. Every state but `Disabled` ends by itself, through one probe
/// and a ramp.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReadyState {
    /// Calls may be made.
    #[default]
    Ready,
    /// Calls are accepted again. After each step of time twice as many may have begun in all, until there is no bound.
    Ramping {
        /// The time at which the probe was answered.
        since: Instant,
        /// The number of calls since then.
        calls: u32,
    },
    /// No calls may be made until some time: a limit was met, or the provider failed.
    Cooling {
        /// The time at which a probe may be made.
        until: Instant,
        /// The class of the failure.
        reason: Class,
    },
    /// The allowance of a day or a month is spent.
    Exhausted {
        /// The time at which it returns.
        until: Instant,
    },
    /// A probe is under way to see whether calls are accepted again. If it takes long, further probes follow.
    Probing {
        /// The number of the first probe.
        first: u64,
        /// The number of the last probe.
        call: u64,
        /// The time at which the last probe began.
        since: Instant,
        /// The class of the failure before the probes.
        reason: Class,
    },
    /// No calls may be made until an operator acts.
    Disabled {
        /// The class of the failure; `None` if an operator disabled it.
        reason: Option<Class>,
    },
}

/// The answer of a state to one more call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallGate {
    Open,
    /// Open, for one call alone.
    Probe,
    Until(Instant),
    NotAllowed,
    Disabled(Option<Class>),
}

impl CallGate {
    /// Returns the gate if one more call may pass, or the reason why it may not.
    pub(super) fn pass(self) -> Result<Self, Denied> {
        match self {
            CallGate::Open | CallGate::Probe => Ok(self),
            CallGate::Until(at) => Err(Denied::Until(at)),
            CallGate::NotAllowed => Err(Denied::NotAllowed),
            CallGate::Disabled(reason) => Err(Denied::Disabled(reason)),
        }
    }
}

impl ReadyState {
    pub(super) fn gate(&self, now: Instant) -> CallGate {
        match *self {
            ReadyState::Ready => CallGate::Open,
            ReadyState::Ramping { since, calls } => {
                // Two calls may begin at once, and 2^(n + 1) in all once n steps are over.
                let steps = calls.checked_ilog2().unwrap_or_default();
                let next = since + RAMP_STEP * steps;
                if next <= now || steps >= RAMP_STEPS {
                    CallGate::Open
                } else {
                    CallGate::Until(next)
                }
            }
            ReadyState::Cooling {
                until,
                reason: Class::ModelNotAllowed,
            } if until > now => CallGate::NotAllowed,
            ReadyState::Cooling { until, .. } | ReadyState::Exhausted { until } if until > now => {
                CallGate::Until(until)
            }
            ReadyState::Cooling { .. } | ReadyState::Exhausted { .. } => CallGate::Probe,
            ReadyState::Probing { since, .. } if since + PROBE_TIMEOUT > now => {
                CallGate::Until(since + PROBE_TIMEOUT)
            }
            ReadyState::Probing { .. } => CallGate::Probe,
            ReadyState::Disabled { reason } => CallGate::Disabled(reason),
        }
    }

    /// Cools for `wait` from `now`, at most for [`retry_after::LONGEST`]. A cooldown is extended, never shortened. A
    /// disabled state stays.
    pub(super) fn cool(&mut self, reason: Class, wait: Duration, now: Instant) {
        let until = now + wait.min(retry_after::LONGEST);
        let until = match *self {
            ReadyState::Disabled { .. } => return,
            ReadyState::Cooling { until: before, .. } | ReadyState::Exhausted { until: before } => {
                until.max(before)
            }
            ReadyState::Ready | ReadyState::Ramping { .. } | ReadyState::Probing { .. } => until,
        };
        *self = if reason == Class::QuotaExhausted {
            ReadyState::Exhausted { until }
        } else {
            ReadyState::Cooling { until, reason }
        };
    }

    /// Disables it because of the provider's answer. A state that an operator disabled stays.
    pub(super) fn disable(&mut self, reason: Class) {
        if *self != (ReadyState::Disabled { reason: None }) {
            *self = ReadyState::Disabled {
                reason: Some(reason),
            };
        }
    }

    /// Lets calls be made again because an operator wants it. The first call after a cooldown probes.
    pub(super) fn enable(&mut self, now: Instant) {
        match self {
            ReadyState::Disabled { .. } => *self = ReadyState::Ready,
            ReadyState::Cooling { until, .. } | ReadyState::Exhausted { until } => {
                *until = now.min(*until);
            }
            ReadyState::Ready | ReadyState::Ramping { .. } | ReadyState::Probing { .. } => {}
        }
    }

    /// Counts a call that begins.
    pub(super) fn begin(&mut self) {
        if let ReadyState::Ramping { calls, .. } = self {
            *calls += 1;
            if calls.ilog2() >= RAMP_STEPS {
                *self = ReadyState::Ready;
            }
        }
    }

    pub(super) fn probe(&mut self, call: u64, now: Instant) {
        let (first, reason) = match *self {
            ReadyState::Exhausted { .. } => (call, Class::QuotaExhausted),
            ReadyState::Cooling { reason, .. } => (call, reason),
            ReadyState::Probing { first, reason, .. } => (first, reason),
            _ => return,
        };
        *self = ReadyState::Probing {
            first,
            call,
            since: now,
            reason,
        };
    }

    /// Notes that a call ended which may have been a probe. If the provider answered a probe, the ramp begins, unless
    /// something has cooled the state since. If it did not answer the last probe, the next call is a probe again.
    pub(super) fn probe_ended(&mut self, ended: u64, answered: bool, now: Instant) {
        let ReadyState::Probing {
            first,
            call,
            reason,
            ..
        } = *self
        else {
            return;
        };
        if answered && ended >= first {
            *self = ReadyState::Ramping {
                since: now,
                calls: 0,
            };
        } else if ended == call {
            *self = ReadyState::Cooling { until: now, reason };
        }
    }

    /// Returns the part of the state that outlives the process; `None` if there is none. An operator corrects a key or
    /// the name of a model and then restarts Forebay, so their failures do not outlive it. A cooldown that soon ends
    /// does not either.
    pub(super) fn paused(&self, moment: ClockPair) -> Option<PausedState> {
        match *self {
            ReadyState::Cooling {
                reason: Class::ModelNotAllowed | Class::BadRequest,
                ..
            } => None,
            ReadyState::Cooling { until, reason }
                if until > moment.instant + SHORTEST_SAVED_WAIT =>
            {
                Some(PausedState {
                    until: Some(moment.wall_in_steps(until, SECOND)),
                    reason: Some(reason),
                })
            }
            ReadyState::Exhausted { until } => {
                let until = Some(moment.wall_in_steps(until, SECOND));
                Some(PausedState {
                    until,
                    reason: Some(Class::QuotaExhausted),
                })
            }
            ReadyState::Disabled { reason: None } => Some(PausedState {
                until: None,
                reason: None,
            }),
            _ => None,
        }
    }

    /// Returns the state that a process before this one left. It lasts for `longest` at most: the clock may have been set,
    /// and a probe shows whether it is over.
    pub(super) fn resumed(paused: &PausedState, moment: ClockPair, longest: Duration) -> Self {
        let end = |until| moment.instant(until).min(moment.instant + longest);
        match (paused.until, paused.reason) {
            (Some(until), Some(Class::QuotaExhausted)) => {
                ReadyState::Exhausted { until: end(until) }
            }
            (Some(until), Some(reason)) => ReadyState::Cooling {
                until: end(until),
                reason,
            },
            (Some(_), None) => ReadyState::Ready,
            (None, reason) => ReadyState::Disabled { reason },
        }
    }

    /// Returns the state's name.
    pub fn name(&self) -> &'static str {
        match self {
            ReadyState::Ready | ReadyState::Ramping { .. } => "ready",
            ReadyState::Cooling { .. } => "cooling",
            ReadyState::Exhausted { .. } => "exhausted",
            ReadyState::Probing { .. } => "probing",
            ReadyState::Disabled { .. } => "disabled",
        }
    }

    /// Returns the class of the failure behind the state; `None` if there is none, or an operator disabled it.
    pub fn reason(&self) -> Option<Class> {
        match *self {
            ReadyState::Ready | ReadyState::Ramping { .. } => None,
            ReadyState::Exhausted { .. } => Some(Class::QuotaExhausted),
            ReadyState::Cooling { reason, .. } | ReadyState::Probing { reason, .. } => Some(reason),
            ReadyState::Disabled { reason } => reason,
        }
    }

    /// Returns the time at which the cooldown or the spent allowance ends by itself; `None` in other states.
    pub fn until(&self) -> Option<Instant> {
        match *self {
            ReadyState::Cooling { until, .. } | ReadyState::Exhausted { until } => Some(until),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_probe_calls_grow_from_step_to_step() {
        let now = Instant::now();
        let mut state = ReadyState::Probing {
            first: 1,
            call: 1,
            since: now,
            reason: Class::Overloaded,
        };
        state.probe_ended(1, true, now);
        let begin_all = |state: &mut ReadyState, at| {
            let mut begun = 0;
            while state.gate(at) == CallGate::Open && begun < 10_000 {
                state.begin();
                begun += 1;
            }
            begun
        };
        assert_eq!(begin_all(&mut state, now), 2);
        assert_eq!(state.gate(now), CallGate::Until(now + RAMP_STEP));
        assert_eq!(begin_all(&mut state, now + RAMP_STEP), 2);
        assert_eq!(begin_all(&mut state, now + 3 * RAMP_STEP), 12);
        assert_eq!(
            begin_all(&mut state, now + 20 * RAMP_STEP),
            10_000,
            "no end to it"
        );
        assert_eq!(state, ReadyState::Ready);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_take_long_are_followed_by_others_and_the_first_answer_counts() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut state = ReadyState::Cooling {
            until: start,
            reason: Class::RateLimited,
        };
        for call in 0..3 {
            assert_eq!(state.gate(at(30 * call)), CallGate::Probe);
            state.probe(7 + call, at(30 * call));
            assert_eq!(
                state.gate(at(30 * call)),
                CallGate::Until(at(30 * call + 30))
            );
        }
        state.probe_ended(6, true, at(70));
        assert!(
            matches!(state, ReadyState::Probing { .. }),
            "a call from before says nothing"
        );
        state.probe_ended(8, false, at(71));
        assert!(
            matches!(state, ReadyState::Probing { .. }),
            "one that was given up leaves the last"
        );
        state.probe_ended(7, true, at(75));
        assert_eq!(state.gate(at(75)), CallGate::Open);
    }
}
