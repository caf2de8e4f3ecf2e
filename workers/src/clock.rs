//! Wall-clock time as a dependency, so that a run can be played back under a paused clock.
//!
//! Durations and deadlines inside the process use tokio's clock, which tests pause. Wall-clock time, which crosses the
//! wire, comes from a [`Clock`]. Leaf functions take `now` as an argument.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

mod saved;

pub use saved::SavedMoment;

/// A source of time.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// Returns the current wall-clock time.
    fn now(&self) -> Timestamp;

    /// Returns the time since a fixed moment in the past. It counts the time during which the process was stopped or the
    /// machine was suspended. Setting the wall clock does not change it.
    fn since_boot(&self) -> Duration;

    /// Returns the name of the run of the machine that [`Clock::since_boot`] belongs to; `None` if it is unknown.
    fn boot(&self) -> Option<String>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn since_boot(&self) -> Duration {
        // Elsewhere, as on macOS, there is only a clock that stands still while the machine is suspended.
        #[cfg(target_os = "linux")]
        let clock = ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = ClockId::Monotonic;
        Duration::try_from(clock_gettime(clock)).unwrap_or_default()
    }

    fn boot(&self) -> Option<String> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned())
    }
}

/// Returns the milliseconds from `from` to `to`, or zero if `to` is earlier.
pub(crate) fn millis_between(from: Timestamp, to: Timestamp) -> u64 {
    let (from, to) = (from.as_millisecond(), to.as_millisecond());
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}
