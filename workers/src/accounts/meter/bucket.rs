//! A token bucket, as the provider keeps it: it starts full and refills evenly, up to its size.

use std::time::Duration;

use tokio::time::Instant;

/// A lower bound of what the provider's bucket holds.
#[derive(Debug)]
pub(super) struct TokenBucket {
    size: f64,
    per: Duration,
    level: f64,
    at: Instant,
}

impl TokenBucket {
    /// Builds a bucket of `limit` that refills within `per`. The part that refills within `margin` is never used, so a
    /// call that reaches the provider earlier than another by `margin` still finds its share. The bucket was empty at
    /// `spent_at`; with `None` it is full.
    pub(super) fn new(
        limit: u64,
        per: Duration,
        margin: Duration,
        now: Instant,
        spent_at: Option<Instant>,
    ) -> Self {
        let mut bucket = Self {
            size: 0.0,
            per,
            level: 0.0,
            at: spent_at.unwrap_or(now),
        };
        bucket.resize(limit, margin);
        if spent_at.is_none() {
            bucket.level = bucket.size;
        }
        bucket.refill(now);
        bucket
    }

    /// Changes the size to `limit` less the part that refills within `margin`.
    pub(super) fn resize(&mut self, limit: u64, margin: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
        let limit = limit as f64;
        let unused = margin.as_secs_f64() / self.per.as_secs_f64();
        let size = (limit * (1.0 - unused)).max(1.0);
        self.level -= (self.size - size).max(0.0);
        self.size = size;
    }

    /// Returns the refill per second. The provider refills the whole limit, so this is slightly less than its rate.
    fn rate(&self) -> f64 {
        self.size / self.per.as_secs_f64()
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        let refilled = self.level + since * self.rate();
        self.level = refilled.min(self.size);
        self.at = self.at.max(now);
    }

    /// Checks that `share` can be taken at `now`; the error is the time at which it can. A share that is larger than
    /// the bucket can be taken when the bucket is full, and leaves a debt.
    pub(super) fn peek(&mut self, share: u64, now: Instant) -> Result<(), Instant> {
        self.refill(now);
        #[expect(clippy::cast_precision_loss, reason = "shares are far below 2^52")]
        let missing = (share as f64).min(self.size) - self.level;
        if missing <= 1e-9 {
            return Ok(());
        }
        Err(now + Duration::from_secs_f64(missing / self.rate()) + Duration::from_micros(1))
    }

    pub(super) fn take(&mut self, share: u64) {
        #[expect(clippy::cast_precision_loss, reason = "shares are far below 2^52")]
        let share = share as f64;
        self.level -= share;
    }

    pub(super) fn give_back(&mut self, share: u64) {
        #[expect(clippy::cast_precision_loss, reason = "shares are far below 2^52")]
        let share = share as f64;
        let returned = self.level + share;
        self.level = returned.min(self.size);
    }

    /// Notes that a call left `delay` after its share was taken. If the provider's bucket was full in that time, it did
    /// not refill as this one did.
    pub(super) fn sent(&mut self, delay: Duration) {
        self.level -= delay.as_secs_f64() * self.rate();
    }

    /// Returns the time at which the bucket is full, if `more` is taken now.
    pub(super) fn full_at(&mut self, more: u64, now: Instant) -> Instant {
        self.refill(now);
        #[expect(clippy::cast_precision_loss, reason = "shares are far below 2^52")]
        let missing = self.size - self.level + more as f64;
        now + Duration::from_secs_f64(missing.max(0.0) / self.rate())
    }

    /// Lowers the level so that the bucket is full no sooner than `at`.
    pub(super) fn empty_until(&mut self, at: Instant, now: Instant) {
        self.refill(now);
        let wait = at.saturating_duration_since(now);
        let highest = self.size - wait.as_secs_f64() * self.rate();
        self.level = self.level.min(highest);
    }

    /// Returns the free part of the bucket, 0 to 1.
    pub(super) fn headroom(&mut self, now: Instant) -> f64 {
        self.refill(now);
        (self.level / self.size).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_first_burst_goes_at_once_and_then_what_refills() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(100, 10 * SECOND, Duration::ZERO, start, None);
        for _ in 0..100 {
            assert!(bucket.peek(1, start).is_ok());
            bucket.take(1);
        }
        let next = bucket.peek(1, start).expect_err("empty");
        assert!(
            next > start + Duration::from_millis(99) && next < start + Duration::from_millis(101)
        );
        assert!(bucket.peek(1, next).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_leaves_late_costs_what_the_full_bucket_did_not_refill() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, 10 * SECOND, Duration::ZERO, start, None);
        bucket.take(10);
        bucket.sent(2 * SECOND);
        assert!(bucket.peek(1, start + 2 * SECOND).is_err());
        assert!(
            bucket
                .peek(1, start + 3 * SECOND + Duration::from_millis(1))
                .is_ok()
        );
    }
}
