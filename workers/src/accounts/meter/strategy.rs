//! How a limit is counted at the provider, and so when what a call took returns.

use std::time::Duration;

use tokio::time::Instant;

use crate::accounts::limit::{Algorithm, Amount};
use crate::accounts::meter::bucket::TokenBucket;
use crate::accounts::meter::day::Days;
use crate::accounts::meter::pacer::CallPacer;
use crate::accounts::meter::window::FixedWindow;
use forebay_providers::cost::LimitDimension;

/// How the provider counts a limit.
#[derive(Debug)]
pub(super) enum MeterStrategy {
    /// Over the trailing period. What was taken returns one period after the call left, plus the timing margin. Limits on
    /// calls at once are counted like this too, with no period.
    Trailing,
    /// The same, and calls are spaced evenly.
    Paced(CallPacer),
    /// In fixed windows. What was taken returns when the window ends, as far as headers report that.
    Windowed(FixedWindow),
    /// In calendar days. What was taken returns at midnight.
    Daily(Days),
    /// In a bucket that refills evenly. Its level decides instead of what was taken.
    Bucket(TokenBucket),
}

impl MeterStrategy {
    /// The strategy for `amount`. A process before this one may have spent the limit up to `spent_at`.
    pub(super) fn new(
        amount: &Amount,
        margin: Duration,
        now: Instant,
        spent_at: Option<Instant>,
    ) -> Self {
        let Amount::PerPeriod {
            dimension,
            limit,
            per,
            algorithm,
            ..
        } = *amount
        else {
            return MeterStrategy::Trailing;
        };
        match algorithm {
            Algorithm::Smooth if dimension == LimitDimension::Requests => {
                MeterStrategy::Paced(CallPacer::new(limit, per, margin, now, spent_at))
            }
            Algorithm::Bucket => {
                MeterStrategy::Bucket(TokenBucket::new(limit, per, margin, now, spent_at))
            }
            Algorithm::Fixed => MeterStrategy::Windowed(FixedWindow::default()),
            Algorithm::Smooth | Algorithm::Counted => MeterStrategy::Trailing,
        }
    }

    /// Takes another limit or another margin into account.
    pub(super) fn respace(&mut self, amount: &Amount, margin: Duration) {
        let Amount::PerPeriod { limit, per, .. } = *amount else {
            return;
        };
        match self {
            MeterStrategy::Paced(pacer) => *pacer = pacer.respaced(limit, per, margin),
            MeterStrategy::Bucket(bucket) => bucket.resize(limit, margin),
            _ => {}
        }
    }

    /// When what a call takes that leaves at `at` returns, as far as is known at `now`.
    pub(super) fn returns_at(
        &self,
        per: Duration,
        margin: Duration,
        at: Instant,
        now: Instant,
    ) -> Instant {
        let trailing = at + per + margin;
        match self {
            MeterStrategy::Daily(days) => days.end(at, now),
            MeterStrategy::Windowed(window) => window
                .back(at, margin)
                .map_or(trailing, |end| trailing.min(end)),
            _ => trailing,
        }
    }

    /// True if what a process before this one took is counted, and not only spaced or left out of a bucket.
    pub(super) fn counts_what_was_taken(&self) -> bool {
        !matches!(self, MeterStrategy::Paced(_) | MeterStrategy::Bucket(_))
    }
}
