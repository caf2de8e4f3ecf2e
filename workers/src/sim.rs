//! An in-memory queue and provider, for deterministic runs under a paused clock.
//!
//! The queue simulates jobs that are published at any time, redelivery of nacked jobs, and one completion per
//! identity. The provider simulates limits, latencies and faults. NATS's own failures are not simulated. Neither is
//! the disk, which is real.

pub mod queue;
pub mod upstream;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::clock::Clock;

/// Wall-clock time that moves with tokio's clock, paused or not, and can be set.
#[derive(Debug)]
pub struct VirtualClock {
    origin: Instant,
    epoch: Timestamp,
    /// The seconds by which the clock was set forward or back.
    set: AtomicI64,
}

impl VirtualClock {
    /// Returns a clock that shows `epoch` now.
    pub fn new(epoch: Timestamp) -> Self {
        Self {
            origin: Instant::now(),
            epoch,
            set: AtomicI64::new(0),
        }
    }

    /// Sets the clock forward or back by whole seconds, as an operator or a time server does.
    pub fn set(&self, by: SignedDuration) {
        self.set.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let set = SignedDuration::from_secs(self.set.load(Ordering::Relaxed));
        let now = self
            .epoch
            .checked_add(self.origin.elapsed())
            .and_then(|now| now.checked_add(set));
        now.unwrap_or(Timestamp::MAX)
    }

    fn since_boot(&self) -> Duration {
        self.origin.elapsed()
    }

    fn boot(&self) -> Option<String> {
        Some("simulated".to_owned())
    }
}
