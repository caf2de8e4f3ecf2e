//! A moment on the wall clock and on the clock that cannot be set, for the process after this one.
//!
//! # Why
//!
//! A time that is written down is one of the wall clock, which may be set before the next start. Then a limit of a day would
//! return hours too early, and a cooldown days too late.
//!
//! # How
//!
//! The moment of writing is written down on both clocks. While the machine runs on, the clock that cannot be set tells how
//! long ago that was. What the wall clock moved beyond that is by how much it was set.
//!
//! After another start of the machine, or on another one, the wall clock alone remains. It is believed if it moved
//! forward. If it moved back, no time counts as passed.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// A difference between the clocks that is no setting of the wall clock: both are read one after the other.
const LONGEST_READING: SignedDuration = SignedDuration::from_secs(1);

/// A moment on all clocks of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedMoment {
    /// The wall clock's time.
    pub wall: Timestamp,
    /// The milliseconds of [`Clock::since_boot`].
    pub since_boot_ms: u64,
    /// The run of the machine, as [`Clock::boot`] names it.
    pub boot: Option<String>,
}

impl SavedMoment {
    /// Reads the clocks.
    pub fn of(clock: &dyn Clock) -> Self {
        let since_boot = clock.since_boot().as_millis();
        Self {
            wall: clock.now(),
            since_boot_ms: u64::try_from(since_boot).unwrap_or(u64::MAX),
            boot: clock.boot(),
        }
    }

    /// Returns the time from this moment to `now`, whatever the wall clock was set to. It is zero where nothing shows it.
    pub fn time_until(&self, now: &Self) -> Duration {
        if self.boot.is_some() && self.boot == now.boot {
            return Duration::from_millis(now.since_boot_ms.saturating_sub(self.since_boot_ms));
        }
        Duration::try_from(now.wall.duration_since(self.wall)).unwrap_or_default()
    }

    /// Returns by how much the wall clock was set between this moment and `now`: forward if it is positive.
    pub fn clock_change(&self, now: &Self) -> SignedDuration {
        let passed = SignedDuration::try_from(self.time_until(now)).unwrap_or(SignedDuration::MAX);
        let change = now.wall.duration_since(self.wall).saturating_sub(passed);
        if change.abs() <= LONGEST_READING {
            return SignedDuration::ZERO;
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(wall: &str, since_boot: u64, boot: &str) -> SavedMoment {
        SavedMoment {
            wall: wall.parse().expect("a time"),
            since_boot_ms: since_boot * 1_000,
            boot: Some(boot.to_owned()),
        }
    }

    #[test]
    fn a_clock_that_was_set_is_told_from_time_that_passed() {
        let saved = moment("2026-11-24T10:00:00Z", 100, "one");
        for (now, passed, change) in [
            (moment("2026-11-24T10:01:00Z", 160, "one"), 60, 0),
            (moment("2026-11-24T12:01:00Z", 160, "one"), 60, 7_200),
            (moment("2026-11-21T10:01:00Z", 160, "one"), 60, -259_200),
            (moment("2026-11-24T12:00:00Z", 5, "two"), 7_200, 0),
            (moment("2026-11-24T09:00:00Z", 5, "two"), 0, -3_600),
        ] {
            assert_eq!(saved.time_until(&now).as_secs(), passed, "{now:?}");
            assert_eq!(saved.clock_change(&now).as_secs(), change, "{now:?}");
        }
    }
}
