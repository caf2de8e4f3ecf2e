//! How far the times that calls need to the server are taken to vary.

use std::collections::VecDeque;
use std::time::Duration;

/// The least that they are taken to vary: clocks, timers and other people's load differ by that much.
const SHORTEST: Duration = Duration::from_millis(5);
/// A guard is never less than this part of its period; what it costs is too little to see.
const LEAST_SHARE: u32 = 500;
/// What is measured here widens a guard to this part of its period at most.
const MEASURED_SHARE: u32 = 50;
/// What refusals teach widens it to this part of its period at most.
const TAUGHT_SHARE: u32 = 20;
/// Calls whose delays count.
const CALLS: usize = 64;

/// The guard of one period.
///
/// The part of the way that can be measured is the one from the permit to the network; on a busy
/// machine it varies, and so does the part that cannot. Its spread over the last calls is the guard.
#[derive(Debug)]
pub(super) struct Guard {
    per: Duration,
    delays: VecDeque<Duration>,
    /// What refusals taught; it is not forgotten.
    taught: Duration,
    width: Duration,
}

impl Guard {
    pub(super) fn new(per: Duration) -> Self {
        let taught = SHORTEST.max(per / LEAST_SHARE);
        Self { per, delays: VecDeque::with_capacity(CALLS), taught, width: taught }
    }

    pub(super) fn width(&self) -> Duration {
        self.width
    }

    /// Notes how long a call took from its permit to the network; true if the guard changed.
    pub(super) fn measure(&mut self, delay: Duration) -> bool {
        if self.delays.len() == CALLS {
            self.delays.pop_front();
        }
        self.delays.push_back(delay);
        self.adjust()
    }

    /// A limit refused a call that this guard should have kept within it: it doubles.
    pub(super) fn refused(&mut self) -> bool {
        let most = (self.per / TAUGHT_SHARE).max(self.taught);
        self.taught = (self.width * 2).min(most);
        self.adjust()
    }

    fn adjust(&mut self) -> bool {
        let (least, most) = (self.delays.iter().min(), self.delays.iter().max());
        let spread = most.zip(least).map_or(Duration::ZERO, |(most, least)| *most - *least);
        // In whole milliseconds, so that it does not change with every call.
        let spread = Duration::from_millis(u64::try_from(spread.as_millis()).unwrap_or(u64::MAX) + 1);
        let width = spread.min(self.per / MEASURED_SHARE).max(self.taught);
        let changed = width != self.width;
        self.width = width;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn it_follows_the_spread_of_the_last_calls_within_bounds() {
        let mut guard = Guard::new(Duration::from_secs(1));
        assert_eq!(guard.width(), 5 * MILLI);
        assert!(!guard.measure(100 * MILLI), "a delay that all calls have costs nothing");
        assert!(guard.measure(112 * MILLI));
        assert_eq!(guard.width(), 13 * MILLI);
        guard.measure(900 * MILLI);
        assert_eq!(guard.width(), 20 * MILLI, "a fiftieth of the period at most");
        for _ in 0..CALLS {
            guard.measure(100 * MILLI);
        }
        assert_eq!(guard.width(), 5 * MILLI, "forgotten with the calls");
    }

    #[test]
    fn what_refusals_teach_is_kept() {
        let mut guard = Guard::new(Duration::from_secs(1));
        for expected in [10, 20, 40, 50, 50] {
            guard.refused();
            assert_eq!(guard.width(), expected * MILLI);
        }
        for _ in 0..CALLS {
            guard.measure(MILLI);
        }
        assert_eq!(guard.width(), 50 * MILLI);
        assert_eq!(Guard::new(Duration::from_secs(60)).width(), 120 * MILLI);
    }
}
