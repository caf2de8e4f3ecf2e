//! The clock of a forecast.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Clock;

/// A clock that shows the wall time of the played moment.
#[derive(Debug)]
pub(super) struct ForecastClock {
    from: Timestamp,
    /// The time since `from`, in nanoseconds.
    nanos: AtomicU64,
}

impl ForecastClock {
    pub(super) fn new(from: Timestamp) -> Self {
        Self {
            from,
            nanos: AtomicU64::new(0),
        }
    }

    /// Shows the moment that lies `passed` after the start.
    pub(super) fn set(&self, passed: Duration) {
        let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Ordering::Relaxed);
    }
}

impl Clock for ForecastClock {
    fn now(&self) -> Timestamp {
        let passed = self.since_boot();
        self.from.checked_add(passed).unwrap_or(Timestamp::MAX)
    }

    fn since_boot(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn boot(&self) -> Option<String> {
        None
    }
}
