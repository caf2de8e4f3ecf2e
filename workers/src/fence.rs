//! The time until which this process may call providers.
//!
//! # Why
//!
//! A worker that is stopped, or whose machine is, knows nothing of it. When it goes on, another worker may have taken over
//! and spend the same limits. A check when a call is permitted comes too early: between that check and the first byte of
//! the request the process may be stopped for any time.
//!
//! # How
//!
//! The fence has an end, on a clock that counts the time during which the process or the machine was stopped. The holder of
//! the worker's lease moves the end ahead with each renewal. The connection checks the fence when it takes the request's
//! body, in the same step in which it writes the request's first bytes. That is so with HTTP/1.1 alone: with HTTP/2 another
//! task writes them later, so it is not used. While the fence is closed, no job is matched with an account.
//!
//! # Invariants
//!
//! - No part of a request is handed to the network after the end of the fence.
//! - The end lies before the time at which another process can hold the lease.
//! - A request that the fence cut off is incomplete: its connection is closed, and no provider can serve it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;

/// The end of a fence that never closes.
const NEVER: u64 = u64::MAX;

/// The time until which this process may call providers.
#[derive(Debug)]
pub struct CallFence {
    clock: Arc<dyn Clock>,
    /// The end, in nanoseconds of [`Clock::since_boot`].
    end: AtomicU64,
    opened: watch::Sender<()>,
}

impl CallFence {
    /// Returns a fence that never closes, for a process that shares its limits with no other.
    pub fn unlimited(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::until(clock, NEVER)
    }

    /// Returns a fence that is closed until [`CallFence::extend`].
    pub fn closed(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::until(clock, 0)
    }

    fn until(clock: Arc<dyn Clock>, end: u64) -> Arc<Self> {
        Arc::new(Self {
            clock,
            end: AtomicU64::new(end),
            opened: watch::Sender::new(()),
        })
    }

    /// Returns the time on the clock of the fence.
    pub fn now(&self) -> Duration {
        self.clock.since_boot()
    }

    /// Moves the end to `end`, a time on the clock of the fence.
    pub fn extend(&self, end: Duration) {
        let was_open = self.is_open();
        let end = u64::try_from(end.as_nanos()).unwrap_or(NEVER);
        self.end.store(end, Ordering::Release);
        if !was_open && self.is_open() {
            self.opened.send_replace(());
        }
    }

    /// Closes the fence now.
    pub fn close(&self) {
        self.end.store(0, Ordering::Release);
    }

    /// Returns true if a provider may be called now.
    pub fn is_open(&self) -> bool {
        let end = self.end.load(Ordering::Acquire);
        end == NEVER || self.now().as_nanos() < u128::from(end)
    }

    /// Returns a receiver that is notified when the fence opens again.
    pub(crate) fn openings(&self) -> watch::Receiver<()> {
        self.opened.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_fence_is_open_until_its_end_and_tells_when_it_opens() {
        let fence = CallFence::closed(Arc::new(SystemClock));
        let openings = fence.openings();
        assert!(!fence.is_open());
        fence.extend(fence.now() + Duration::from_secs(60));
        assert!(fence.is_open() && openings.has_changed().expect("open"));
        fence.extend(fence.now().saturating_sub(Duration::from_nanos(1)));
        assert!(!fence.is_open());
        fence.extend(fence.now() + Duration::from_secs(60));
        fence.close();
        assert!(!fence.is_open());
        assert!(CallFence::unlimited(Arc::new(SystemClock)).is_open());
    }
}
