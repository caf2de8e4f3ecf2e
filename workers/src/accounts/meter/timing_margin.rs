//! The time for which a call still counts after its period, because travel times vary.
//!
//! # Why
//!
//! Two calls that leave one period apart can arrive closer together than that, if the first travelled slowly. A
//! provider with a sliding window then counts both and refuses the second. A margin after each period prevents this; a
//! margin that is too wide wastes the limit.
//!
//! # How
//!
//! The part of the way from the permit to the network can be measured. On a busy machine it varies as much as the rest,
//! which cannot be measured. The margin is the spread of this delay over the last [`MEASURED_CALLS`] calls, within
//! bounds:
//!
//! - never less than 5 ms, nor than 1/500 of the period;
//! - at least 20 ms until [`MEASURED_CALLS`] calls and two periods have shown the spread;
//! - at most 1/50 of the period, unless refusals or the first bound demand more.
//!
//! A refusal that the margin should have prevented doubles it, up to 1/20 of the period. That part is not forgotten.
//!
//! # Invariants
//!
//! - Refusals of calls that were under way together count once.
//! - The margin changes in whole milliseconds, so that it does not move with each call.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Shortest margin: clocks, timers and the load of other processes vary by this much.
const MIN_MARGIN: Duration = Duration::from_millis(5);
/// A margin is never less than its period divided by this. The cost of that is too small to notice.
const MIN_MARGIN_DIVISOR: u32 = 500;
/// Least margin until [`MEASURED_CALLS`] calls were measured and two periods are over. The spread of a few calls is not
/// yet that of the way. It is no more than the period divided by [`MEASURED_DIVISOR`].
const UNPROVEN_MARGIN: Duration = Duration::from_millis(20);
/// Measurements widen a margin up to its period divided by this.
const MEASURED_DIVISOR: u32 = 50;
/// Refusals widen a margin up to its period divided by this.
const LEARNED_DIVISOR: u32 = 20;
/// Number of the last calls whose delays count.
const MEASURED_CALLS: usize = 64;

/// The margin after one period. Other modules call it the guard.
#[derive(Debug)]
pub(super) struct TimingMargin {
    per: Duration,
    delays: VecDeque<Duration>,
    /// The least margin that refusals have shown. It never shrinks.
    learned: Duration,
    /// The time of the last refusal that widened the margin.
    learned_at: Option<Instant>,
    /// The time at which the first call left.
    first: Option<Instant>,
    /// True once the spread is that of [`MEASURED_CALLS`] calls over two periods.
    proven: bool,
    width: Duration,
}

impl TimingMargin {
    pub(super) fn new(per: Duration) -> Self {
        let learned = MIN_MARGIN.max(per / MIN_MARGIN_DIVISOR);
        let width = UNPROVEN_MARGIN.min(per / MEASURED_DIVISOR).max(learned);
        Self {
            per,
            delays: VecDeque::with_capacity(MEASURED_CALLS),
            learned,
            learned_at: None,
            first: None,
            proven: false,
            width,
        }
    }

    pub(super) fn width(&self) -> Duration {
        self.width
    }

    /// Notes the delay of a call from its permit to the network, which it reached at `at`. Returns true if the margin
    /// changed.
    pub(super) fn measure(&mut self, delay: Duration, at: Instant) -> bool {
        if self.delays.len() == MEASURED_CALLS {
            self.delays.pop_front();
        }
        self.delays.push_back(delay);
        let first = *self.first.get_or_insert(at);
        let is_full = self.delays.len() == MEASURED_CALLS;
        self.proven |= is_full && at >= first + self.per * 2;
        self.adjust()
    }

    /// Doubles the margin, because a limit refused a call, permitted at `granted`, that the margin should have kept
    /// within the limit. Calls that were under way together are refused together, which counts once. Returns true if
    /// the margin changed.
    pub(super) fn refused(&mut self, granted: Instant, now: Instant) -> bool {
        if self.learned_at.is_some_and(|at| granted < at) {
            return false;
        }
        self.learned_at = Some(now);
        let most = (self.per / LEARNED_DIVISOR).max(self.learned);
        self.learned = (self.width * 2).min(most);
        self.adjust()
    }

    /// Returns the difference between the longest and the shortest delay of the last calls.
    fn spread(&self) -> Duration {
        let delays = self.delays.iter();
        match (delays.clone().min(), delays.max()) {
            (Some(least), Some(most)) => *most - *least,
            _ => Duration::ZERO,
        }
    }

    fn adjust(&mut self) -> bool {
        let spread = self.spread().as_millis();
        // The spread is in whole milliseconds, so that it does not change with every call.
        let spread = Duration::from_millis(u64::try_from(spread).unwrap_or(u64::MAX) + 1);
        let unproven = if self.proven {
            Duration::ZERO
        } else {
            UNPROVEN_MARGIN
        };
        let width = spread
            .max(unproven)
            .min(self.per / MEASURED_DIVISOR)
            .max(self.learned);
        let changed = width != self.width;
        self.width = width;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// Returns the margin of a second after [`MEASURED_CALLS`] equal delays, and the time of the last of them.
    fn proven() -> (TimingMargin, Instant) {
        let mut margin = TimingMargin::new(SECOND);
        let start = Instant::now();
        for _ in 1..MEASURED_CALLS {
            margin.measure(100 * MILLI, start);
        }
        let last = start + 2 * SECOND;
        assert!(margin.measure(100 * MILLI, last));
        (margin, last)
    }

    #[test]
    fn it_follows_the_spread_of_the_last_calls_within_bounds() {
        let (mut margin, at) = proven();
        assert_eq!(
            margin.width(),
            5 * MILLI,
            "a delay that all calls have costs nothing"
        );
        assert!(margin.measure(112 * MILLI, at));
        assert_eq!(margin.width(), 13 * MILLI);
        margin.measure(900 * MILLI, at);
        assert_eq!(
            margin.width(),
            20 * MILLI,
            "a fiftieth of the period at most"
        );
        for _ in 0..MEASURED_CALLS {
            margin.measure(100 * MILLI, at);
        }
        assert_eq!(margin.width(), 5 * MILLI, "forgotten with the calls");
    }

    #[test]
    fn it_is_wide_until_calls_and_time_have_proven_the_way() {
        let mut margin = TimingMargin::new(SECOND);
        assert_eq!(margin.width(), UNPROVEN_MARGIN);
        let start = Instant::now();
        for _ in 0..2 * MEASURED_CALLS {
            assert!(!margin.measure(MILLI, start), "many calls in no time");
        }
        assert_eq!(margin.width(), UNPROVEN_MARGIN);
        let mut margin = TimingMargin::new(SECOND);
        margin.measure(MILLI, start);
        assert!(
            !margin.measure(MILLI, start + 60 * SECOND),
            "two calls in a long time"
        );
        assert_eq!(proven().0.width(), MIN_MARGIN);
        assert_eq!(
            TimingMargin::new(SECOND / 10).width(),
            MIN_MARGIN,
            "little of a short period"
        );
    }

    #[test]
    fn what_refusals_teach_is_kept() {
        let (mut margin, at) = proven();
        for (expected, later) in [(10, 0), (20, 1), (40, 2), (50, 3), (50, 4)] {
            let granted = at + later * SECOND;
            margin.refused(granted, granted + MILLI);
            margin.refused(granted, granted + MILLI);
            assert_eq!(margin.width(), expected * MILLI);
        }
        for _ in 0..MEASURED_CALLS {
            margin.measure(MILLI, at);
        }
        assert_eq!(margin.width(), 50 * MILLI);
        assert_eq!(
            TimingMargin::new(Duration::from_secs(60)).width(),
            120 * MILLI
        );
    }
}
