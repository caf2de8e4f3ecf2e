//! Even spacing: governor decides when the next call may start, by the time that the ledger gives it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

/// A governor clock that shows the time to which it was set. The ledger asks all of its meters about one moment, and
/// governor must answer for that moment too. It does not advance under a paused clock.
#[derive(Debug, Clone, Default)]
struct LedgerClock(Arc<AtomicU64>);

impl LedgerClock {
    /// Sets the time, as the time since the pacer's origin.
    fn set(&self, since_origin: Duration) {
        let nanos = u64::try_from(since_origin.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
    }
}

impl Clock for LedgerClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.load(Ordering::Relaxed))
    }
}

/// A pacer that spaces calls `interval` apart, with a burst of one. A call that starts late by no more than `catch_up`
/// does not push the next one back. Timer ticks and queueing therefore do not add up to lost calls. The margin within
/// `interval` pays for it.
#[derive(Debug)]
pub(super) struct CallPacer {
    limiter: RateLimiter<NotKeyed, InMemoryState, LedgerClock, NoOpMiddleware<Nanos>>,
    clock: LedgerClock,
    origin: Instant,
    interval: Duration,
    catch_up: Duration,
    /// The time before which no call starts.
    due: Instant,
}

impl CallPacer {
    /// Builds a pacer with which `limit` calls fit in a period of `per` at the server. Each call may reach the server
    /// up to `margin` later than another. The first call starts no sooner than an interval after `spent_at`.
    pub(super) fn new(
        limit: u64,
        per: Duration,
        margin: Duration,
        now: Instant,
        spent_at: Option<Instant>,
    ) -> Self {
        let limit = u32::try_from(limit.max(1)).unwrap_or(u32::MAX);
        let interval = ((per + margin) / limit).max(Duration::from_nanos(1));
        let clock = LedgerClock::default();
        let one_each = Quota::with_period(interval).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Self {
            limiter: RateLimiter::direct_with_clock(one_each, clock.clone()),
            clock,
            origin: now,
            interval,
            catch_up: margin / 2,
            due: spent_at.map_or(now, |at| now.max(at + interval)),
        }
    }

    /// Returns the time at which the next call may start.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Starts a call at `now`.
    ///
    /// # Errors
    /// Returns the time at which the call may start, if governor does not admit it yet.
    pub(super) fn start(&mut self, now: Instant) -> Result<(), Instant> {
        let caught_up = now.checked_sub(self.catch_up).unwrap_or(now);
        let slot = self.due.max(caught_up).min(now);
        let since_origin = slot.saturating_duration_since(self.origin);
        self.clock.set(since_origin);
        match self.limiter.check() {
            Ok(()) => {
                self.due = slot + self.interval;
                Ok(())
            }
            Err(not_until) => {
                self.due = self.origin + Duration::from(not_until.earliest_possible());
                Err(self.due)
            }
        }
    }

    /// Lets no call start before `due`, or an interval after the present start at the latest.
    pub(super) fn wait_until(&mut self, due: Instant) {
        self.due = due.clamp(self.due, self.due + self.interval);
    }

    /// Lets no call start sooner than an interval from now.
    pub(super) fn wait_an_interval(&mut self, now: Instant) {
        self.due = self.due.max(now + self.interval);
    }

    /// Returns a pacer with another spacing. Its next call is due when the next call of this pacer is due.
    pub(super) fn respaced(&self, limit: u64, per: Duration, margin: Duration) -> Self {
        let mut pace = Self::new(limit, per, margin, self.due, None);
        pace.due = self.due;
        pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn calls_are_an_interval_apart_and_small_delays_do_not_add_up() {
        let start = Instant::now();
        let mut pace = CallPacer::new(10, Duration::from_secs(1), 20 * MILLI, start, None);
        // (1000 + 20) / 10 ms apart; each call is noticed 5 ms late, less than the 10 ms of catching up.
        for call in 0..50 {
            let due = start + call * 102 * MILLI;
            assert_eq!(pace.due(), due);
            assert!(pace.start(due + 5 * MILLI).is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_does_not_save_up_calls() {
        let start = Instant::now();
        let mut pace = CallPacer::new(10, Duration::from_secs(1), 20 * MILLI, start, None);
        let late = start + Duration::from_secs(60);
        assert!(pace.start(late).is_ok());
        let second = pace
            .start(late + 50 * MILLI)
            .expect_err("one call an interval");
        assert_eq!(
            second,
            late + 92 * MILLI,
            "the interval less what may be caught up"
        );
    }
}
