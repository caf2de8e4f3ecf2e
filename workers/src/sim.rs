//! An in-memory queue and provider, for deterministic runs under a paused clock.
//!
//! What is simulated: jobs that are published at any time, redelivery of what is given back, one
//! completion per identity; a provider with limits over trailing windows, latencies and faults.
//! What is not: NATS's own failures, and the disk, which is real.

pub mod queue;
pub mod upstream;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::clock::Clock;

/// Wall-clock time that moves with tokio's clock, paused or not.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    origin: Instant,
    epoch: Timestamp,
}

impl VirtualClock {
    /// A clock that shows `epoch` now.
    pub fn new(epoch: Timestamp) -> Self {
        Self { origin: Instant::now(), epoch }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.epoch.checked_add(self.origin.elapsed()).unwrap_or(Timestamp::MAX)
    }
}
