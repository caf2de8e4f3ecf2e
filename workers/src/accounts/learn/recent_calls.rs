//! The calls of the last minute that no limit refused.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The longest time over which calls are counted.
pub(super) const LONGEST_COUNTED: Duration = Duration::from_secs(60);

/// The calls that began lately, in the order of their numbers. Refused ones are removed.
#[derive(Debug, Default)]
pub(super) struct RecentCalls(VecDeque<(u64, Instant)>);

impl RecentCalls {
    /// Notes that `call` began. Each call has a higher number than the one before.
    pub(super) fn began(&mut self, call: u64, now: Instant) {
        let is_old = |(_, began): &(u64, Instant)| *began + LONGEST_COUNTED < now;
        while self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
        self.0.push_back((call, now));
    }

    /// Notes that a limit refused `call`.
    pub(super) fn refused(&mut self, call: u64) {
        if let Ok(index) = self.0.binary_search_by_key(&call, |(call, _)| *call) {
            self.0.remove(index);
        }
    }

    /// Returns the calls a second that began in the `period` before `until`.
    pub(super) fn rate(&self, period: Duration, until: Instant) -> f64 {
        let since = until.checked_sub(period).unwrap_or(until);
        let before = |at: Instant| self.0.partition_point(|(_, began)| *began <= at);
        let first = before(since);
        let calls = self.0.partition_point(|(_, began)| *began < until) - first;
        #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
        let rate = calls as f64 / period.as_secs_f64();
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_count_until_they_are_refused_or_a_minute_old() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut calls = RecentCalls::default();
        (0..10).for_each(|call| calls.began(call, at(call)));
        assert!((calls.rate(Duration::from_secs(5), at(10)) - 0.8).abs() < 1e-9);
        assert!((calls.rate(Duration::from_secs(10), at(10)) - 0.9).abs() < 1e-9);
        calls.refused(9);
        calls.refused(99);
        assert!((calls.rate(Duration::from_secs(5), at(10)) - 0.6).abs() < 1e-9);
        calls.began(100, at(65));
        assert_eq!(calls.0.len(), 5, "{calls:?}");
    }
}
