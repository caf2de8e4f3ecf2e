//! The part of a meter that outlives the process: limits over more than a minute.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::{Meter, MeterStrategy, NO_CALL};
use crate::accounts::limit::{Amount, LONGEST_SPENT_AT_START};
use crate::accounts::meter::write_ahead::WriteAhead;
use crate::accounts::saved::ClockPair;

/// The resolution of what is persisted: this part of the period,
const PERIOD_PARTS: u32 = 48;
/// or of the period in which a bucket refills,
const BUCKET_PARTS: u32 = 1_000;
/// or for calendar days this time.
const DAY_RESOLUTION: Duration = Duration::from_secs(1);
/// A block of this part of the limit is persisted ahead of what is spent.
const BLOCK_PARTS: u64 = 200;

impl Meter {
    /// From now on nothing is spent of a limit over more than a minute that is not persisted. `requests` is notified when
    /// more must be.
    pub(in crate::accounts) fn keep(&mut self, requests: &Arc<Notify>) {
        if matches!(self.amount, Amount::PerPeriod { per, .. } if per > LONGEST_SPENT_AT_START) {
            self.write_ahead = Some(WriteAhead::new(Arc::clone(requests)));
        }
    }

    /// Reports that the last answer of [`Meter::spent_until`] is persisted.
    pub(in crate::accounts) fn confirm(&mut self) {
        if let Some(write_ahead) = &mut self.write_ahead {
            write_ahead.confirm();
        }
    }

    /// How much is persisted ahead at a time.
    pub(super) fn block(&self) -> u64 {
        self.limit() / BLOCK_PARTS + 1
    }

    /// Returns what is spent of a limit over more than a minute, and when each part returns; `None` for other limits. With
    /// `ahead`, a block more counts as spent: it may be spent before this is asked again.
    pub(in crate::accounts) fn spent_until(
        &mut self,
        ahead: bool,
        moment: ClockPair,
    ) -> Option<Vec<(Timestamp, u64)>> {
        let Amount::PerPeriod { limit, per, .. } = self.amount else {
            return None;
        };
        if per <= LONGEST_SPENT_AT_START {
            return None;
        }
        let now = moment.instant;
        self.return_until(now);
        let block = self.block();
        let ahead = match &mut self.write_ahead {
            Some(write_ahead) => write_ahead.offer(ahead, block),
            None => 0,
        };
        let step = match &mut self.strategy {
            MeterStrategy::Bucket(bucket) => {
                let full_at = bucket.full_at(ahead, now);
                let full_at = moment.wall_in_steps(full_at, per / BUCKET_PARTS);
                return Some(vec![(full_at, limit)]);
            }
            MeterStrategy::Daily(_) => DAY_RESOLUTION,
            _ => per / PERIOD_PARTS,
        };
        let mut parts = BTreeMap::new();
        for ((at, _), share) in &self.returns {
            *parts.entry(moment.wall_in_steps(*at, step)).or_default() += share;
        }
        let open: u64 = self.open.values().sum();
        if open + ahead > 0 {
            let end = moment.wall_in_steps(self.returns_at(per, now, now), step);
            *parts.entry(end).or_default() += open + ahead;
        }
        Some(parts.into_iter().collect())
    }

    /// Counts what a process before this one spent.
    pub(in crate::accounts) fn resume(&mut self, parts: &[(Timestamp, u64)], moment: ClockPair) {
        for (at, share) in parts.iter().filter(|(at, _)| *at > moment.wall) {
            let at = moment.instant(*at);
            if let MeterStrategy::Bucket(bucket) = &mut self.strategy {
                bucket.empty_until(at, moment.instant);
                continue;
            }
            *self.returns.entry((at, NO_CALL)).or_default() += share;
            self.taken += share;
        }
    }
}
