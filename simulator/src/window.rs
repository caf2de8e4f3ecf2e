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
pub(super) struct LimitRest {
    /// The amount of the whole limit.
    pub(super) limit: u64,
    /// The amount that is left.
    pub(super) remaining: u64,
    /// The time until the whole limit is available again.
    pub(super) whole_in: Duration,
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
                let mut missing = (self.used + share)
                    .checked_sub(self.limit)
                    .filter(|missing| *missing > 0)?;
                let enough = self.taken.iter().find(|(_, share)| {
                    missing = missing.saturating_sub(*share);
                    missing == 0
                });
                let at = enough.map_or(now, |(at, _)| *at);
                Some((at + self.per).saturating_duration_since(now))
            }
            WindowAlgorithm::Fixed => {
                let end = self.since.unwrap_or(now) + self.per;
                (self.used + share > self.limit).then(|| end.saturating_duration_since(now))
            }
            WindowAlgorithm::Bucket => {
                let missing = float(share) - self.level;
                (missing > 0.0).then(|| self.per.mul_f64(missing / float(self.limit)))
            }
        }
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

    /// Counts `share` instead of `taken`, which was taken at `at`. Does nothing if `taken` no longer counts.
    pub(super) fn amend(&mut self, at: Instant, taken: u64, share: u64) {
        if self.algorithm == WindowAlgorithm::Bucket {
            self.level = (self.level + float(taken) - float(share)).min(float(self.limit));
        } else if let Some(entry) = self.taken.iter_mut().find(|entry| **entry == (at, taken)) {
            entry.1 = share;
            self.used = self.used - taken + share;
        }
    }

    fn advance(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        match self.algorithm {
            WindowAlgorithm::Sliding => {
                // A share that was taken exactly one period ago still counts.
                let over = |at: Instant| now.saturating_duration_since(at) > self.per;
                while let Some((_, share)) = self.taken.front().copied().filter(|(at, _)| over(*at))
                {
                    self.taken.pop_front();
                    self.used -= share;
                }
            }
            WindowAlgorithm::Fixed => {
                let elapsed = now.saturating_duration_since(since);
                if elapsed >= self.per {
                    let periods = elapsed.as_nanos() / self.per.as_nanos().max(1);
                    self.since =
                        Some(since + self.per * u32::try_from(periods).unwrap_or(u32::MAX));
                    self.taken.clear();
                    self.used = 0;
                }
            }
            WindowAlgorithm::Bucket => {
                let elapsed =
                    now.saturating_duration_since(since).as_secs_f64() / self.per.as_secs_f64();
                self.level = (self.level + elapsed * float(self.limit)).min(float(self.limit));
                self.since = Some(now);
            }
        }
    }

    /// Returns the rest of the limit at `now`.
    pub(super) fn rest(&self, now: Instant) -> LimitRest {
        let (remaining, whole_in) = match self.algorithm {
            WindowAlgorithm::Sliding => {
                let last = self.taken.back().map_or(now, |(at, _)| *at);
                let whole = (last + self.per).saturating_duration_since(now);
                (self.limit.saturating_sub(self.used), whole)
            }
            WindowAlgorithm::Fixed => {
                let end = self.since.unwrap_or(now) + self.per;
                (
                    self.limit.saturating_sub(self.used),
                    end.saturating_duration_since(now),
                )
            }
            WindowAlgorithm::Bucket => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a level is between 0 and the limit"
                )]
                let left = self.level.max(0.0) as u64;
                (
                    left,
                    self.per
                        .mul_f64((1.0 - self.level / float(self.limit)).max(0.0)),
                )
            }
        };
        LimitRest {
            limit: self.limit,
            remaining,
            whole_in,
            per: self.written,
        }
    }
}
