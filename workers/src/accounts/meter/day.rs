//! Calendar days. The limit of a day returns at midnight in the provider's time zone.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::time::Instant;

use crate::accounts::saved::ClockPair;
use crate::clock::Clock;

/// Largest difference that is assumed between the provider's clock and this machine's. A call counts for the new day
/// this much sooner, and the new day begins this much later.
const SLACK: Duration = Duration::from_secs(5);

/// The days of a time zone.
#[derive(Debug)]
pub(super) struct Days {
    zone: TimeZone,
    clock: Arc<dyn Clock>,
}

impl Days {
    pub(super) fn new(zone: TimeZone, clock: Arc<dyn Clock>) -> Self {
        Self { zone, clock }
    }

    /// Returns the end of the day of a call that was sent at `at`. The wall clock is read each time, because the
    /// process's clock does not run while the machine sleeps.
    pub(super) fn end(&self, at: Instant, now: Instant) -> Instant {
        let moment = ClockPair {
            instant: now,
            wall: self.clock.now(),
        };
        moment.instant(end_of_day(moment.wall(at), &self.zone))
    }
}

/// Returns the time at which what was spent at `at` returns.
pub(in crate::accounts) fn end_of_day(at: Timestamp, zone: &TimeZone) -> Timestamp {
    let end = at
        .checked_add(SLACK)
        .map(|at| midnight_after(at, zone))
        .and_then(|midnight| midnight.checked_add(SLACK));
    end.unwrap_or(Timestamp::MAX)
}

/// Returns the first midnight after `at`, or the last timestamp where the calendar ends.
fn midnight_after(at: Timestamp, zone: &TimeZone) -> Timestamp {
    let midnight = at
        .to_zoned_datetime(zone.clone())
        .tomorrow()
        .and_then(|tomorrow| tomorrow.start_of_day());
    midnight.map_or(Timestamp::MAX, |midnight| midnight.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight_of_its_zone_also_when_clocks_change() {
        let pacific = TimeZone::get("America/Los_Angeles").expect("a zone");
        for (at, end) in [
            ("2026-11-24T07:59:59Z", "2026-11-24T08:00:00Z"),
            ("2026-11-24T08:00:00Z", "2026-11-25T08:00:00Z"),
            ("2026-11-01T07:30:00Z", "2026-11-02T08:00:00Z"),
            ("2026-03-08T08:00:00Z", "2026-03-09T07:00:00Z"),
        ] {
            let at: Timestamp = at.parse().expect("a time");
            assert_eq!(midnight_after(at, &pacific).to_string(), end, "{at}");
        }
    }
}
