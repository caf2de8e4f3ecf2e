//! Searches the rate that a provider accepts, below one that it refused.
//!
//! # Why
//!
//! A refusal shows that a rate is too high, but not by how much. A rate that falls too far wastes the limit for a long time.
//! One that falls too little is refused again.
//!
//! # How
//!
//! Two figures bound the true rate. The calls that were accepted in one period before the refusal are the most that a sliding
//! window holds: the upper bound. The calls that were accepted since the refusal before it, waits included, are the least that
//! a provider refills: the lower bound. The rate falls to the lower bound and rises in steps to the upper one. It stays there,
//! and tries more after a pause. An attempt that is refused makes the pause longer, and the rate goes back to where it was.
//!
//! # Invariants
//!
//! - Within a period after a fall, a refusal lowers the rate to the upper bound alone: the provider still counts the excess.
//! - A refused attempt never lowers the rate below the one that held before it.
//! - A refusal of a call that began before the last change of the rate lowers it to that call's upper bound at most.

use std::time::Duration;

use tokio::time::Instant;

use super::recent_calls::{LONGEST_COUNTED, RecentCalls};
use crate::accounts::limit::Amount;

/// The part of a bound that is used. The rest is for travel times that vary.
const USED_PART: f64 = 0.98;
/// The part of a rate that is left at least after a refusal, and the same where the rate was measured over a short time.
const LARGEST_FALL: f64 = 0.25;
const LARGEST_SHORT_FALL: f64 = 0.7;
/// Least time of a long measurement, which is no less than the period.
const LONG_MEASURED_TIME: Duration = Duration::from_secs(5);
/// The part of a rate that is kept after one refusal that shows nothing else.
const EDGE_PART: f64 = 0.97;
/// Longest time between two refusals that are evidence together.
const ROW: Duration = Duration::from_secs(10);
/// The factor of a step, and of the first step beyond what was refused.
const STEP: f64 = 1.25;
const FIRST_STEP_BEYOND: f64 = 1.1;
/// A rate that falls below this part of itself shows that the limit was lowered: the pause is short again.
const CHANGED_PART: f64 = 0.8;
/// A refused attempt that has shown a bound of more times the rate shows that the limit was raised.
const CHANGED_TIMES: f64 = 1.5;
/// Least number of calls, and least part of a period, for which a step is kept.
const STEP_CALLS: f64 = 10.0;
const STEP_PART: f64 = 0.25;
const LONGEST_STEP: Duration = Duration::from_secs(20);
/// An attempt stays below the rate that was refused while that is more times the rate that holds.
const NEAR_TIMES: f64 = 1.06;
/// The pause before the first attempt to find more, and its growth with each refused one.
const FIRST_PAUSE: Duration = Duration::from_secs(12);
const PAUSE_GROWTH: f64 = 1.5;
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Least number of accepted calls, and least time, that measure a rate.
const MEASURED_CALLS: u64 = 5;
const MEASURED_TIME: Duration = Duration::from_secs(1);
/// Number of calls of the short time over which a provider may count.
const SHORT_CALLS: f64 = 5.0;
/// Number of calls by which a count may be off at the edges of its period.
const EDGE_CALLS: f64 = 1.5;
/// The least rate: one call in a minute.
const LEAST_RATE: f64 = 1.0 / 60.0;
const SECOND: Duration = Duration::from_secs(1);

/// The rate that a limit is believed to allow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::accounts) struct BelievedRate {
    /// The calls a second.
    pub(in crate::accounts) rate: f64,
    /// The period of the limit.
    pub(in crate::accounts) period: Duration,
}

impl BelievedRate {
    /// Returns the rate of `amount`, if it limits calls for a period of up to a minute.
    pub(in crate::accounts) fn of(amount: &Amount) -> Option<Self> {
        let period = amount.period().filter(|_| amount.is_short())?;
        let rate = amount.requests_per_second()?;
        Some(Self { rate, period })
    }

    pub(in crate::accounts) fn lesser(self, other: Self) -> Self {
        if other.rate < self.rate { other } else { self }
    }
}

/// The phase of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
enum RatePhase {
    /// The rate rises to `bound`. The step before was `held`.
    Rising { bound: f64, held: f64 },
    /// The rate is kept for a pause.
    Keeping,
    /// A higher rate is tried than the one that `held`, with `beyond` calls more by now.
    Trying { held: f64, beyond: f64 },
}

/// The search for a rate below a believed one.
#[derive(Debug)]
pub(super) struct RateSearch {
    phase: RatePhase,
    /// The assumed calls a second.
    rate: f64,
    /// The least rate that the refusals of calls now under way may show. Calls may be few because jobs are few.
    least: f64,
    /// The time at which the rate was set.
    since: Instant,
    /// True if a call had to wait for the rate since then.
    was_full: bool,
    /// The time at which the rate was lowered last.
    fell_at: Option<Instant>,
    /// The time at which a higher rate was refused last. The provider counts the excess for a period.
    tried_at: Option<Instant>,
    /// The time of the last refusal, and the number of calls that were accepted since then.
    refused_at: Instant,
    accepted: u64,
    /// The pause before more is tried.
    pause: Duration,
    /// The least rate of the attempts that were refused since the last fall.
    ceiling: Option<f64>,
}

impl RateSearch {
    /// Begins at a `rate` at which a call was refused at `refused_at` for the first time. `accepted` calls were accepted
    /// since then.
    pub(super) fn new(rate: f64, refused_at: Instant, accepted: u64) -> Self {
        Self {
            phase: RatePhase::Keeping,
            rate,
            least: LEAST_RATE,
            since: refused_at,
            was_full: false,
            fell_at: None,
            tried_at: None,
            refused_at,
            accepted,
            pause: FIRST_PAUSE,
            ceiling: None,
        }
    }

    /// Returns the assumed calls a second.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Notes that a call was accepted.
    pub(super) fn accepted(&mut self) {
        self.accepted += 1;
    }

    /// Notes that a call has to wait for the rate.
    pub(super) fn note_wait(&mut self) {
        self.was_full = true;
    }

    fn set(&mut self, rate: f64, now: Instant) {
        self.rate = rate.max(self.least);
        self.since = now;
        self.was_full = false;
    }

    /// Notes that a limit refused a call that began at `granted`. `calls` are those that were not refused. Returns true if the
    /// call arrived too early, for all that is known.
    pub(super) fn refused(
        &mut self,
        granted: Instant,
        believed: BelievedRate,
        calls: &RecentCalls,
        now: Instant,
    ) -> bool {
        let period = believed.period;
        let bound = self.upper_bound(granted, period, calls);
        if granted < self.since {
            self.lower_to(bound, now);
            return false;
        }
        self.least = (self.rate * LARGEST_FALL).max(LEAST_RATE);
        let comes_at_believed_rate = bound >= self.rate && self.rate >= believed.rate;
        let is_early = match self.phase {
            RatePhase::Trying { held, .. } => {
                self.end_attempt(held, bound, now);
                comes_at_believed_rate
            }
            RatePhase::Rising { held, .. } if held < self.rate => {
                self.tried_at = Some(now);
                self.keep(held, now);
                false
            }
            _ => self.lower(bound, period, now),
        };
        self.refused_at = now;
        self.accepted = 0;
        is_early
    }

    /// Goes back to the rate that `held` before a higher one was tried and refused.
    fn end_attempt(&mut self, held: f64, bound: f64, now: Instant) {
        self.ceiling = Some(self.rate);
        self.pause = self.pause.mul_f64(PAUSE_GROWTH).min(LONGEST_PAUSE);
        self.phase = match bound < self.rate && held * CHANGED_TIMES < bound {
            true => RatePhase::Rising { bound, held },
            false => RatePhase::Keeping,
        };
        self.tried_at = Some(now);
        self.set(held, now);
    }

    /// Lowers the rate that was kept when a call was refused. Returns true if the refusal shows no more than an early call.
    fn lower(&mut self, bound: f64, period: Duration, now: Instant) -> bool {
        let is_within = |time, at: Option<Instant>| at.is_some_and(|at| now < at + time);
        let is_shown = bound < self.rate;
        let is_in_row = is_within(ROW, self.fell_at);
        let counts_excess_of = |at| is_within(period, at);
        if is_shown && counts_excess_of(self.fell_at) {
            self.keep(bound * USED_PART, now);
            return false;
        }
        if !is_shown && counts_excess_of(self.tried_at) {
            self.keep(bound * EDGE_PART, now);
            return false;
        }
        if is_in_row || (is_shown && self.fell_at.is_none()) {
            self.fall(bound, period, now);
            return false;
        }
        self.fell_at = Some(now);
        let part = if is_shown { USED_PART } else { EDGE_PART };
        self.keep(bound * part, now);
        !is_shown
    }

    fn keep(&mut self, rate: f64, now: Instant) {
        self.phase = RatePhase::Keeping;
        self.set(rate, now);
    }

    /// Lowers the rate after several refusals while no higher one was tried.
    fn fall(&mut self, bound: f64, period: Duration, now: Instant) {
        let lasted = now - self.refused_at;
        // The waits of a short time are no measure of what is refilled in a period.
        let least = match lasted >= period.max(LONG_MEASURED_TIME) {
            true => self.least,
            false => self.rate * LARGEST_SHORT_FALL,
        };
        let measured = self.measured(lasted).unwrap_or(bound);
        let fallen = measured.max(least).min(bound) * USED_PART;
        if fallen < self.rate * CHANGED_PART {
            self.pause = FIRST_PAUSE;
        }
        self.ceiling = None;
        self.fell_at = Some(now);
        self.phase = RatePhase::Rising {
            bound,
            held: fallen,
        };
        self.set(fallen, now);
    }

    /// Lowers the rate to what a call has shown that began before the rate was set.
    fn lower_to(&mut self, bound: f64, now: Instant) {
        if bound >= self.rate {
            return;
        }
        self.keep(bound * USED_PART, now);
    }

    /// Returns the most calls a second that a sliding window holds which refused a call that began at `granted`.
    ///
    /// The provider may count over `period` or over less: the greater of two rates is taken.
    fn upper_bound(&self, granted: Instant, period: Duration, calls: &RecentCalls) -> f64 {
        let short = SECOND.max(Duration::from_secs_f64(SHORT_CALLS / self.rate));
        let bounds = [period, short].map(|period| self.bound_over(period, granted, calls));
        bounds.into_iter().fold(LEAST_RATE, f64::max)
    }

    /// Returns the same for a provider that counts over `period`; the present rate if calls came as expected.
    fn bound_over(&self, period: Duration, granted: Instant, calls: &RecentCalls) -> f64 {
        let period = period.min(LONGEST_COUNTED);
        let edge = EDGE_CALLS / period.as_secs_f64();
        let bound = calls.rate(period, granted);
        if bound + edge < self.rate {
            bound
        } else {
            self.rate
        }
    }

    /// Returns the calls a second that were accepted since the last refusal, which has `lasted`; `None` if they are too few to
    /// measure it.
    fn measured(&self, lasted: Duration) -> Option<f64> {
        let is_measured = lasted >= MEASURED_TIME && self.accepted >= MEASURED_CALLS;
        #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
        let rate = self.accepted as f64 / lasted.as_secs_f64();
        is_measured.then_some(rate)
    }

    /// Raises the rate towards `believed`, if it was used fully for long enough. Returns true if it was raised.
    pub(super) fn grow(&mut self, believed: BelievedRate, now: Instant) -> bool {
        let kept = now - self.since;
        if self.rate >= believed.rate || !self.was_full || kept < self.step_time(believed.period) {
            return false;
        }
        let (phase, next) = match self.phase {
            RatePhase::Rising { bound, .. } if self.rate * FIRST_STEP_BEYOND < bound => {
                let next = (self.rate * STEP).min(bound * USED_PART);
                let held = self.rate;
                (RatePhase::Rising { bound, held }, next)
            }
            RatePhase::Trying { held, beyond } if !self.is_below_ceiling() => {
                let beyond = beyond + (self.rate - held) * kept.as_secs_f64();
                // A bucket that was full has no more than this.
                let has_held = beyond >= held * believed.period.as_secs_f64();
                let (held, beyond) = match has_held {
                    true => (self.rate, 0.0),
                    false => (held, beyond),
                };
                (RatePhase::Trying { held, beyond }, self.rate * STEP)
            }
            _ if now < self.refused_at.max(self.since) + self.pause => return false,
            _ => {
                let trying = RatePhase::Trying {
                    held: self.rate,
                    beyond: 0.0,
                };
                (trying, self.attempt())
            }
        };
        self.phase = phase;
        self.set(next.min(believed.rate), now);
        true
    }

    fn is_below_ceiling(&self) -> bool {
        self.ceiling.is_some_and(|ceiling| self.rate < ceiling)
    }

    /// Returns the rate to try next: halfway to the one that was refused, or beyond it once it is near.
    fn attempt(&self) -> f64 {
        let ceiling = self
            .ceiling
            .filter(|ceiling| *ceiling > self.rate * NEAR_TIMES);
        ceiling.map_or(self.rate * FIRST_STEP_BEYOND, |ceiling| {
            self.rate.midpoint(ceiling)
        })
    }

    /// Returns the time for which a step is kept.
    fn step_time(&self, period: Duration) -> Duration {
        let calls = Duration::from_secs_f64(STEP_CALLS / self.rate).min(LONGEST_STEP);
        calls.max(period.mul_f64(STEP_PART)).max(SECOND)
    }
}

#[cfg(test)]
mod tests;
