//! The counting of one limit over one period.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The way in which a period is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WindowAlgorithm {
    /// No trailing period holds more than the limit.
    #[default]
    Sliding,
    /// No period of a clock that starts with the first call holds more than the limit.
    Fixed,
    /// A bucket of the limit's size that refills evenly.
    Bucket,
}

/// The count of one limit over one period.
#[derive(Debug)]
pub(super) struct PeriodWindow {
    algorithm: WindowAlgorithm,
    limit: u64,
    per: Duration,
    /// The period as it is configured, before the scale of the account.
    written: Duration,
    /// The time and the amount of each share that was taken. A fixed period needs their sum only; a bucket holds
    /// none.
    taken: VecDeque<(Instant, u64)>,
    used: u64,
    /// The start of the running fixed period, or the time when the bucket was last filled. `None` before the first
    /// call.
    since: Option<Instant>,
    /// The amount in the bucket.
    level: f64,
}

/// The rest of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RemainingLimit {
    /// The amount of the whole limit.
    pub(super) limit: u64,
    /// The amount that is left.
    pub(super) remaining: u64,
    /// The time until the whole limit is available again.
    pub(super) reset_in: Duration,
    /// The period as it is configured, which may be longer than the real one.
    pub(super) per: Duration,
}

#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

impl PeriodWindow {
    pub(super) fn new(
        algorithm: WindowAlgorithm,
        limit: u64,
        per: Duration,
        written: Duration,
    ) -> Self {
        let level = float(limit);
        Self {
            algorithm,
            limit,
            per,
            written,
            taken: VecDeque::new(),
            used: 0,
            since: None,
            level,
        }
    }

    /// Returns true if a refused call counts.
    pub(super) fn counts_refused(&self) -> bool {
        self.algorithm != WindowAlgorithm::Bucket
    }

    /// Returns the wait until `share` fits; `None` if it fits now.
    pub(super) fn wait(&mut self, share: u64, now: Instant) -> Option<Duration> {
        self.advance(now);
        match self.algorithm {
            WindowAlgorithm::Sliding => {
                let missing = (self.used + share).saturating_sub(self.limit);
                let at = (missing > 0).then(|| self.time_of(missing))?;
                let end = at.unwrap_or(now) + self.per;
                Some(end.saturating_duration_since(now))
            }
            WindowAlgorithm::Fixed => {
                let fits = self.used + share <= self.limit;
                (!fits).then(|| self.fixed_rest(now))
            }
            WindowAlgorithm::Bucket => {
                let missing = float(share) - self.level;
                (missing > 0.0).then(|| self.refill_time(missing))
            }
        }
    }

    /// Returns the time by which the oldest shares add up to `amount`; `None` if all shares are less.
    fn time_of(&self, amount: u64) -> Option<Instant> {
        let mut missing = amount;
        let enough = self.taken.iter().find(|(_, share)| {
            missing = missing.saturating_sub(*share);
            missing == 0
        });
        enough.map(|(at, _)| *at)
    }

    /// Returns the rest of the running fixed period.
    fn fixed_rest(&self, now: Instant) -> Duration {
        let end = self.since.unwrap_or(now) + self.per;
        end.saturating_duration_since(now)
    }

    /// Returns the time in which a bucket refills by `amount`.
    fn refill_time(&self, amount: f64) -> Duration {
        let periods = amount / float(self.limit);
        self.per.mul_f64(periods)
    }

    /// Takes `share` from the limit.
    pub(super) fn take(&mut self, share: u64, now: Instant) {
        if self.algorithm == WindowAlgorithm::Bucket {
            self.level -= float(share);
        } else {
            self.taken.push_back((now, share));
            self.used += share;
        }
    }

    /// Counts `share` instead of `taken`, which was taken at `at`. Does nothing if `taken` no longer counts, which
    /// happens in windows only.
    pub(super) fn amend(&mut self, at: Instant, taken: u64, share: u64) {
        if self.algorithm == WindowAlgorithm::Bucket {
            self.set_level(self.level + float(taken) - float(share));
            return;
        }
        let mut entries = self.taken.iter_mut();
        if let Some(entry) = entries.find(|entry| **entry == (at, taken)) {
            entry.1 = share;
            self.used = self.used - taken + share;
        }
    }

    /// Sets the amount in the bucket, which holds no more than the limit.
    fn set_level(&mut self, level: f64) {
        self.level = level.min(float(self.limit));
    }

    fn advance(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        match self.algorithm {
            WindowAlgorithm::Sliding => {
                // A share that was taken exactly one period ago still counts.
                while let Some((at, share)) = self.taken.front().copied()
                    && now.saturating_duration_since(at) > self.per
                {
                    self.taken.pop_front();
                    self.used -= share;
                }
            }
            WindowAlgorithm::Fixed => {
                if elapsed >= self.per {
                    let period = self.per.as_nanos().max(1);
                    let periods = u32::try_from(elapsed.as_nanos() / period);
                    self.since = Some(since + self.per * periods.unwrap_or(u32::MAX));
                    self.taken.clear();
                    self.used = 0;
                }
            }
            WindowAlgorithm::Bucket => {
                let periods = elapsed.as_secs_f64() / self.per.as_secs_f64();
                self.set_level(self.level + periods * float(self.limit));
                self.since = Some(now);
            }
        }
    }

    /// Returns the rest of the limit at `now`.
    pub(super) fn rest(&self, now: Instant) -> RemainingLimit {
        let (remaining, reset_in) = match self.algorithm {
            WindowAlgorithm::Sliding => {
                let last = self.taken.back().map_or(now, |(at, _)| *at);
                let reset_in = (last + self.per).saturating_duration_since(now);
                (self.limit.saturating_sub(self.used), reset_in)
            }
            WindowAlgorithm::Fixed => (self.limit.saturating_sub(self.used), self.fixed_rest(now)),
            WindowAlgorithm::Bucket => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a level is between 0 and the limit"
                )]
                let left = self.level.max(0.0) as u64;
                let filled = self.level / float(self.limit);
                (left, self.per.mul_f64((1.0 - filled).max(0.0)))
            }
        };
        RemainingLimit {
            limit: self.limit,
            remaining,
            reset_in,
            per: self.written,
        }
    }
}
