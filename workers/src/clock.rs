//! Wall-clock time as a dependency, so that a run can be played back under a paused clock.
//!
//! Durations and deadlines inside the process use tokio's clock, which tests pause. Wall-clock time, which crosses the
//! wire, comes from a [`Clock`]. Leaf functions take `now` as an argument.

use jiff::Timestamp;

/// A source of wall-clock time.
pub trait Clock: Send + Sync + std::fmt::Debug + 'static {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
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
}

/// Returns the milliseconds from `from` to `to`, or zero if `to` is earlier.
pub(crate) fn millis_between(from: Timestamp, to: Timestamp) -> u64 {
    let (from, to) = (from.as_millisecond(), to.as_millisecond());
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}
