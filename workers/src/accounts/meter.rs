//! The running account of one limit: how much of it is taken, and when each part returns.
//!
//! # Why
//!
//! The provider counts a call when it arrives there, not when it is permitted here. Between the two lies a delay that
//! varies. A meter has to stay below the limit whatever the delay is, and still use all of the limit.
//!
//! # How
//!
//! A permit takes from the meter at once. What it took is `open` until the call has left. Then it is in `returns`, at the
//! time when the provider's period can no longer contain it. The [`MeterStrategy`] decides what that time is, and whether
//! something else holds up a call. What a call takes of a limit on calls at once returns when the call ends.
//!
//! Limits over more than a minute outlive the process: a block of them is persisted as spent before it is spent.
//!
//! # Invariants
//!
//! - `taken` is the sum of `open` and `returns`.
//! - A call is in `open` or in `returns`, never in both.
//! - Nothing is granted beyond the amount, except what a provider's own headers report as taken elsewhere.
//! - What is spent of a persisted limit never exceeds what is persisted.

// How the provider counts, and so when what a call took returns.
mod bucket;
mod day;
mod pacer;
mod strategy;
mod timing_margin;
mod window;

// What the provider's headers report.
mod headers;

// What outlives the process.
mod persisted;
mod write_ahead;

pub(super) use self::day::end_of_day;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use self::strategy::MeterStrategy;
use super::limit::{Amount, LONGEST_SPENT_AT_START};
use crate::accounts::meter::day::Days;
use crate::accounts::meter::timing_margin::TimingMargin;
use crate::accounts::meter::write_ahead::WriteAhead;
use crate::clock::Clock;
use forebay_providers::cost::{CallCost, LimitDimension};

/// The number of no call.
const NO_CALL: u64 = 0;
/// The invariants are checked in debug builds while the meter has at most this many entries.
const MAX_CHECKED_ENTRIES: usize = 64;

/// Why a meter does not admit a call now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MeterWait {
    /// It will at this time, if nothing else takes the room first.
    Until(Instant),
    /// Only after a call in flight ends, or after more of the limit is persisted.
    UntilRelease,
    /// Never: the call alone is larger than the limit.
    TooLarge,
}

/// The running account of one limit: what is taken now, and when each part of it returns.
#[derive(Debug)]
pub(super) struct Meter {
    amount: Amount,
    /// The configured limit, and the time until which the provider's lower one counts instead.
    lowered: Option<(u64, Instant)>,
    strategy: MeterStrategy,
    margin: TimingMargin,
    /// Taken in all; the sum of `open` and `returns`.
    taken: u64,
    /// Taken by calls that have not left or, for calls at once, not ended; by call.
    open: HashMap<u64, u64>,
    /// Taken by calls that left; by the time at which it returns, and by call.
    returns: BTreeMap<(Instant, u64), u64>,
    /// The time of each call in `returns`.
    sent: HashMap<u64, Instant>,
    /// Set where nothing may be spent that is not persisted.
    write_ahead: Option<WriteAhead>,
}

impl Meter {
    /// A meter. A process before this one may have spent the limit up to `spent_at`. A limit over a minute at most then
    /// counts as spent at that time.
    pub(super) fn new(amount: Amount, now: Instant, spent_at: Option<Instant>) -> Self {
        let per = match amount {
            Amount::PerPeriod { per, .. } => per,
            Amount::Concurrent(_) => Duration::ZERO,
        };
        let margin = TimingMargin::new(per);
        let width = margin.width();
        let matters = |at: &Instant| per <= LONGEST_SPENT_AT_START && *at + per + width > now;
        let spent_at = spent_at.filter(matters);
        let mut meter = Self {
            strategy: MeterStrategy::new(&amount, width, now, spent_at),
            amount,
            lowered: None,
            margin,
            taken: 0,
            open: HashMap::new(),
            returns: BTreeMap::new(),
            sent: HashMap::new(),
            write_ahead: None,
        };
        if let Some(at) = spent_at {
            meter.spend_at_start(at);
        }
        meter
    }

    /// Counts the limit in calendar days, if it is one of a day.
    pub(super) fn with_clock(mut self, clock: &Arc<dyn Clock>) -> Self {
        if let Amount::PerPeriod {
            day_in: Some(zone), ..
        } = &self.amount
        {
            self.strategy = MeterStrategy::Daily(Days::new(zone.clone(), Arc::clone(clock)));
        }
        self
    }

    /// Counts the whole limit as spent at `at`, unless the strategy has taken that into account.
    fn spend_at_start(&mut self, at: Instant) {
        let Amount::PerPeriod { limit, per, .. } = self.amount else {
            return;
        };
        if self.strategy.counts_what_was_taken() {
            self.taken = limit;
            let returns_at = at + per + self.margin.width();
            self.returns.insert((returns_at, NO_CALL), limit);
        }
    }

    fn returns_at(&self, per: Duration, at: Instant, now: Instant) -> Instant {
        self.strategy.returns_at(per, self.margin.width(), at, now)
    }

    /// Counts another amount from now on. What was taken stays taken, unless the period is another one.
    pub(super) fn resize(&mut self, amount: Amount, now: Instant) {
        if amount == self.amount {
            return;
        }
        if !self.amount.counts_like(&amount) {
            *self = Self::new(amount, now, None);
            return;
        }
        self.amount = amount;
        self.respace();
    }

    /// Counts by `amount` from now on, and nothing of what was taken before. The next call is not due sooner.
    pub(super) fn replace(&mut self, amount: Amount, now: Instant) {
        let mut next = Self::new(amount, now, None);
        if let (MeterStrategy::Paced(pacer), MeterStrategy::Paced(before)) =
            (&mut next.strategy, &self.strategy)
        {
            pacer.wait_until(before.due());
        }
        *self = next;
    }

    /// Lets the next call start no sooner than an interval from now, if calls are spaced.
    pub(super) fn wait_an_interval(&mut self, now: Instant) {
        if let MeterStrategy::Paced(pacer) = &mut self.strategy {
            pacer.wait_an_interval(now);
        }
    }

    /// Counts nothing of what was taken before any more.
    pub(super) fn forget(&mut self) {
        self.taken = 0;
        self.open.clear();
        self.returns.clear();
        self.sent.clear();
    }

    /// A limit refused a call that this meter had admitted at `granted`: the timing margin was too small.
    pub(super) fn refused(&mut self, granted: Instant, now: Instant) {
        if self.margin.refused(granted, now) {
            self.respace();
        }
    }

    fn respace(&mut self) {
        self.strategy.respace(&self.amount, self.margin.width());
    }

    fn limit(&self) -> u64 {
        match self.amount {
            Amount::PerPeriod { limit, .. } | Amount::Concurrent(limit) => limit,
        }
    }

    /// The part of this limit that a call of this cost takes.
    fn share(&self, cost: &CallCost) -> u64 {
        match self.amount {
            Amount::PerPeriod { dimension, .. } => cost.of(dimension),
            Amount::Concurrent(_) => cost.requests,
        }
    }

    /// The part of the limit that is free at `now`, 0 to 1.
    pub(super) fn headroom(&mut self, now: Instant) -> f64 {
        self.return_until(now);
        if let MeterStrategy::Bucket(bucket) = &mut self.strategy {
            return bucket.headroom(now);
        }
        let limit = self.limit();
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let free = limit.saturating_sub(self.taken) as f64 / limit.max(1) as f64;
        free
    }

    /// Checks whether a call of this cost may start at `now`; takes nothing.
    pub(super) fn peek(&mut self, cost: &CallCost, now: Instant) -> Result<(), MeterWait> {
        self.check_room(cost, now)?;
        let share = self.share(cost);
        let admits = |write_ahead: &mut WriteAhead| write_ahead.admits(share);
        if self.write_ahead.as_mut().is_none_or(admits) {
            return Ok(());
        }
        Err(MeterWait::UntilRelease)
    }

    /// The same, whatever is persisted.
    fn check_room(&mut self, cost: &CallCost, now: Instant) -> Result<(), MeterWait> {
        self.return_until(now);
        let share = self.share(cost);
        let limit = self.limit();
        if share > limit && !self.may_run_into_debt() {
            return Err(MeterWait::TooLarge);
        }
        if let MeterStrategy::Bucket(bucket) = &mut self.strategy {
            return bucket.peek(share, now).map_err(MeterWait::Until);
        }
        // A call that is larger than the whole limit starts when nothing else is taken.
        let wanted = self.taken.saturating_add(share.min(limit));
        let missing = wanted.saturating_sub(limit);
        if missing > 0 {
            return Err(self.wait_for_return_of(missing));
        }
        match &self.strategy {
            MeterStrategy::Paced(pacer) if pacer.due() > now => Err(MeterWait::Until(pacer.due())),
            _ => Ok(()),
        }
    }

    /// Returns the limit and when even the least call may start again, if that is later than `soon`.
    pub(super) fn spent(&mut self, now: Instant, soon: Instant) -> Option<(String, Instant)> {
        match self.check_room(&CallCost::LEAST, now) {
            Err(MeterWait::Until(at)) if at > soon => Some((self.amount.to_string(), at)),
            _ => None,
        }
    }

    /// An estimate of tokens can be larger than the limit while the call is not: the provider decides.
    fn may_run_into_debt(&self) -> bool {
        match self.amount {
            Amount::Concurrent(_) => false,
            Amount::PerPeriod { dimension, .. } => dimension != LimitDimension::Requests,
        }
    }

    /// When `missing` more will have returned.
    fn wait_for_return_of(&self, missing: u64) -> MeterWait {
        let mut returned = 0;
        for ((at, _), share) in &self.returns {
            returned += share;
            if returned >= missing {
                return MeterWait::Until(*at);
            }
        }
        MeterWait::UntilRelease
    }

    fn return_until(&mut self, now: Instant) {
        if self.lowered.is_some_and(|(_, until)| until <= now) {
            self.restore();
        }
        while let Some(first) = self.returns.first_entry()
            && first.key().0 <= now
        {
            let ((_, call), share) = first.remove_entry();
            self.sent.remove(&call);
            self.taken -= share;
        }
        self.check();
    }

    /// Takes `cost` for `call`, for which [`Meter::peek`] found room.
    pub(super) fn take(&mut self, call: u64, cost: &CallCost) {
        let share = self.share(cost);
        self.open.insert(call, 0);
        self.add(call, share);
    }

    /// Returns true if there is room for more of a call that was permitted and has not left.
    pub(super) fn has_room_for(&mut self, more: &CallCost, now: Instant) -> bool {
        self.share(more) == 0 || self.peek(more, now).is_ok()
    }

    /// Takes more for `call`, which has not left.
    pub(super) fn extend(&mut self, call: u64, more: &CallCost) {
        let share = self.share(more);
        if share > 0 {
            self.add(call, share);
        }
    }

    fn add(&mut self, call: u64, share: u64) {
        self.taken += share;
        *self.open.entry(call).or_default() += share;
        if let MeterStrategy::Bucket(bucket) = &mut self.strategy {
            bucket.take(share);
        }
        self.spend_ahead(share);
        self.check();
    }

    fn spend_ahead(&mut self, share: u64) {
        let block = self.block();
        if let Some(write_ahead) = &mut self.write_ahead {
            write_ahead.spend(share, block);
        }
    }

    /// Starts a call with the pacer, which is asked last.
    ///
    /// # Errors
    /// With the time at which it may start.
    pub(super) fn start(&mut self, now: Instant) -> Result<(), Instant> {
        match &mut self.strategy {
            MeterStrategy::Paced(pacer) => pacer.start(now),
            _ => Ok(()),
        }
    }

    /// The call was handed to the network at `at`, `delay` after its permit. What it took of a period returns from then on.
    /// A call that leaves late costs that once in a period; within the period, later calls catch up.
    pub(super) fn sent(&mut self, call: u64, at: Instant, delay: Duration) {
        let Amount::PerPeriod { per, .. } = self.amount else {
            return;
        };
        if self.margin.measure(delay, at) {
            self.respace();
        }
        if let MeterStrategy::Bucket(bucket) = &mut self.strategy {
            bucket.sent(delay);
        }
        self.return_at(call, self.returns_at(per, at, at));
    }

    fn return_at(&mut self, call: u64, at: Instant) {
        if let Some(share) = self.open.remove(&call) {
            self.returns.insert((at, call), share);
            self.sent.insert(call, at);
        }
        self.check();
    }

    /// Corrects the tokens that a sent call took.
    pub(super) fn correct(&mut self, call: u64, actual: &CallCost) {
        let Amount::PerPeriod { dimension, .. } = self.amount else {
            return;
        };
        if dimension == LimitDimension::Requests {
            return;
        }
        let returns_at = self.sent.get(&call);
        let Some(share) = returns_at.and_then(|at| self.returns.get_mut(&(*at, call))) else {
            return;
        };
        let actual = actual.of(dimension);
        if let MeterStrategy::Bucket(bucket) = &mut self.strategy {
            bucket.give_back(*share);
            bucket.take(actual);
        }
        self.taken = self.taken - *share + actual;
        let more = actual.saturating_sub(*share);
        *share = actual;
        self.spend_ahead(more);
        self.check();
    }

    /// The call has ended, or never began. What is still open returns at once, or at `not_before`.
    pub(super) fn release(&mut self, call: u64, not_before: Option<Instant>) {
        if let Some(at) = not_before {
            self.return_at(call, at);
            return;
        }
        if let Some(share) = self.open.remove(&call) {
            self.taken -= share;
            if let MeterStrategy::Bucket(bucket) = &mut self.strategy {
                bucket.give_back(share);
            }
        }
        self.check();
    }

    /// The part of the limit that is taken now.
    pub(super) fn taken(&mut self, now: Instant) -> u64 {
        self.return_until(now);
        self.taken
    }

    /// Returns true if what `call` took has not begun to return.
    pub(super) fn has_open(&self, call: u64) -> bool {
        self.open.contains_key(&call)
    }

    /// Checks the invariants while that is cheap.
    fn check(&self) {
        debug_assert!(
            self.open.len() + self.returns.len() > MAX_CHECKED_ENTRIES
                || self.taken
                    == self.open.values().sum::<u64>() + self.returns.values().sum::<u64>(),
            "what is taken is open or returns: {self:?}"
        );
        debug_assert!(
            self.open.len() > MAX_CHECKED_ENTRIES
                || self.open.keys().all(|call| !self.sent.contains_key(call)),
            "a call is open or returns: {self:?}"
        );
    }

    /// Returns true if it counts no call any more.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.returns.is_empty() && self.sent.is_empty()
    }
}
