//! The running account of one limit: how much of it is taken, and when each part returns.
//!
//! # Why
//!
//! The provider counts a call when it arrives there, not when it is permitted here. Between the two lies a delay that
//! varies. A meter has to stay below the limit whatever the delay is, and still use all of the limit.
//!
//! # How
//!
//! A permit takes from the meter at once. What it took is `open` until the call has left; then it stands in `returns`, at
//! the time when the provider's period can no longer contain it. The provider's algorithm decides what that time is:
//!
//! - sliding: one period after the call left, plus the timing margin;
//! - fixed: at the end of the provider's window, as headers tell it;
//! - bucket: the bucket's own level decides instead;
//! - calls at once: when the call ends.
//!
//! A pacer spreads calls evenly where the limit is smooth. Limits over more than a minute outlive the process: a block of
//! them is written down as spent before it is spent.
//!
//! # Invariants
//!
//! - `taken` is the sum of `open` and `returns`.
//! - A call is in `open` or in `returns`, never in both.
//! - Nothing is granted beyond the amount, except what a provider's own figures say was taken elsewhere.
//! - What is spent of a persisted limit never exceeds what is written down.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::bucket::TokenBucket;
use super::day::Days;
use super::limit::{Algorithm, Amount};
use super::saved::ClockPair;
use super::window::Window;
use crate::accounts::pacer::CallPacer;
use crate::accounts::timing_margin::TimingMargin;
use crate::accounts::write_ahead::WriteAhead;
use crate::clock::Clock;
use forebay_providers::RateLimitHeaders;
use forebay_providers::cost::{CallCost, LimitDimension};

/// Longer periods do not count as spent at a start: that would cost a day where little was spent.
const LONGEST_SPENT: Duration = Duration::from_secs(60);
/// Limits over longer periods are written down as so many parts of their period at most,
const PARTS: u32 = 48;
/// or where a bucket is full again to so small a part,
const FINE_PARTS: u32 = 1_000;
/// and so large a part of the limit ahead of what is spent.
const BLOCKS: u64 = 200;
const ONE_SECOND: Duration = Duration::from_secs(1);
/// The number of no call.
const NO_CALL: u64 = 0;

/// Why a meter does not admit a call now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MeterWait {
    /// It will at this time, if nothing else takes the room first.
    Until(Instant),
    /// Only after a call that is under way ends.
    ForRelease,
    /// Never: the call alone is larger than the limit.
    TooLarge,
}

/// The running account of one limit: what is taken now, and when each part of it returns.
#[derive(Debug)]
pub(super) struct Meter {
    amount: Amount,
    pace: Option<CallPacer>,
    /// Where the provider keeps a bucket, it decides instead of what is taken of the trailing period.
    bucket: Option<TokenBucket>,
    /// Where the provider keeps fixed windows, the one that is open.
    window: Option<Window>,
    guard: TimingMargin,
    /// Where the period is a calendar day.
    days: Option<Days>,
    /// Taken in all; the sum of `open` and `returns`.
    taken: u64,
    /// Taken by calls that have not been sent or, for calls at once, not ended.
    open: HashMap<u64, u64>,
    /// Taken by calls that were sent, by the time at which it returns.
    returns: BTreeMap<(Instant, u64), u64>,
    /// Where in `returns` each call stands.
    sent: HashMap<u64, Instant>,
    /// Where what is spent must be written down first: how much of it is.
    cover: Option<WriteAhead>,
}

impl Meter {
    /// A meter. If somebody else, the process before this one, may have spent up to `spent_at`, then what
    /// a period up to a minute allows counts as spent then: nobody knows when it was.
    pub(super) fn new(amount: Amount, now: Instant, spent_at: Option<Instant>) -> Self {
        let per = match amount {
            Amount::PerPeriod { per, .. } => per,
            Amount::Concurrent(_) => Duration::ZERO,
        };
        let guard = TimingMargin::new(per);
        let spent_at =
            spent_at.filter(|at| per <= LONGEST_SPENT && *at + per + guard.width() > now);
        let pace = match amount {
            Amount::PerPeriod {
                dimension: LimitDimension::Requests,
                limit,
                per,
                algorithm: Algorithm::Smooth,
                ..
            } => Some(CallPacer::new(limit, per, guard.width(), now, spent_at)),
            _ => None,
        };
        let bucket = match amount {
            Amount::PerPeriod {
                limit,
                per,
                algorithm: Algorithm::Bucket,
                ..
            } => Some(TokenBucket::new(limit, per, guard.width(), now, spent_at)),
            _ => None,
        };
        let fixed = matches!(
            amount,
            Amount::PerPeriod {
                algorithm: Algorithm::Fixed,
                ..
            }
        );
        let mut meter = Self {
            amount,
            pace,
            bucket,
            window: fixed.then(Window::default),
            guard,
            days: None,
            taken: 0,
            open: HashMap::new(),
            returns: BTreeMap::new(),
            sent: HashMap::new(),
            cover: None,
        };
        meter.spend(spent_at);
        meter
    }

    /// The same for a calendar day, if it is one.
    pub(super) fn with_clock(mut self, clock: &Arc<dyn Clock>) -> Self {
        if let Amount::PerPeriod {
            day_in: Some(zone), ..
        } = &self.amount
        {
            self.days = Some(Days::new(zone.clone(), Arc::clone(clock)));
        }
        self
    }

    /// From now on nothing is spent of a limit over more than a minute that is not written down.
    pub(super) fn keep(&mut self) {
        if matches!(self.amount, Amount::PerPeriod { per, .. } if per > LONGEST_SPENT) {
            self.cover = Some(WriteAhead::default());
        }
    }

    /// What [`Meter::spent_until`] said last is written down.
    pub(super) fn confirm(&mut self) {
        if let Some(cover) = &mut self.cover {
            cover.confirm();
        }
    }

    /// So much is written down at a time.
    fn block(&self) -> u64 {
        self.limit() / BLOCKS + 1
    }

    /// When what a call takes that is sent at `at` is back, as far as is known at `now`.
    fn back(&self, per: Duration, at: Instant, now: Instant) -> Instant {
        if let Some(days) = &self.days {
            return days.end(at, now);
        }
        let (guard, trailing) = (self.guard.width(), at + per + self.guard.width());
        let window = self
            .window
            .as_ref()
            .and_then(|window| window.back(at, guard));
        window.map_or(trailing, |end| trailing.min(end))
    }

    /// An answer told `figures`, as of some moment between `asked` and `now`: where they are of a fixed window
    /// that this counts, what was sent in it is back when it ends.
    pub(super) fn told(&mut self, figures: &RateLimitHeaders, asked: Instant, now: Instant) {
        let (
            Some(window),
            Amount::PerPeriod {
                dimension,
                limit,
                per,
                ..
            },
            Some(rest),
        ) = (&mut self.window, &self.amount, figures.whole_in)
        else {
            return;
        };
        let per = *per;
        let used = figures.remaining < figures.limit;
        if (dimension, *limit) != (&figures.dimension, figures.limit) || rest > per || !used {
            return;
        }
        // It may have been rounded either way.
        let earliest = (asked + rest)
            .checked_sub(figures.resolution)
            .unwrap_or(asked);
        if !window.ends(earliest, now + rest + figures.resolution) {
            return;
        }
        let guard = self.guard.width();
        let Some(end) = window.latest(guard) else {
            return;
        };
        let later = self.returns.split_off(&(end, 0));
        for ((at, call), share) in later {
            let sent = at.checked_sub(per + guard);
            let at = sent
                .and_then(|sent| window.back(sent, guard))
                .map_or(at, |end| at.min(end));
            *self.returns.entry((at, call)).or_default() += share;
            self.sent.entry(call).and_modify(|back| *back = at);
        }
    }

    /// Counts a whole limit as spent at `spent_at`, where it is counted and not spaced.
    fn spend(&mut self, spent_at: Option<Instant>) {
        let (
            Some(at),
            Amount::PerPeriod {
                limit,
                per,
                algorithm,
                ..
            },
        ) = (spent_at, &self.amount)
        else {
            return;
        };
        if matches!(algorithm, Algorithm::Counted | Algorithm::Fixed) {
            self.taken = *limit;
            self.returns
                .insert((at + *per + self.guard.width(), NO_CALL), *limit);
        }
    }

    /// Another amount from now on. What was taken stays taken, unless the period is another one.
    pub(super) fn resize(&mut self, amount: Amount, now: Instant) {
        if amount == self.amount {
            return;
        }
        if let (
            Amount::PerPeriod {
                limit: _,
                per,
                dimension,
                algorithm,
                ..
            },
            Amount::PerPeriod {
                limit,
                per: same_per,
                dimension: same_dimension,
                algorithm: same_algorithm,
                ..
            },
        ) = (&self.amount, &amount)
            && (per, dimension, algorithm) == (same_per, same_dimension, same_algorithm)
        {
            if let Some(pace) = &self.pace {
                self.pace = Some(pace.respaced(*limit, *per, self.guard.width()));
            }
            self.amount = amount;
        } else {
            *self = Self::new(amount, now, None);
        }
    }

    /// Counts nothing of what was taken before any more.
    pub(super) fn forget(&mut self) {
        self.taken = 0;
        self.open.clear();
        self.returns.clear();
        self.sent.clear();
    }

    /// The provider has counted `used`: what is more than was taken here is used by somebody else, and
    /// returns in equal parts after each of `waits`.
    pub(super) fn used_elsewhere(&mut self, used: u64, waits: &[Duration], now: Instant) {
        self.return_until(now);
        let mut rest = used.saturating_sub(self.taken);
        if rest == 0 || waits.is_empty() {
            return;
        }
        self.taken += rest;
        for (index, wait) in waits.iter().enumerate() {
            let part = rest / (waits.len() - index) as u64;
            rest -= part;
            *self.returns.entry((now + *wait, NO_CALL)).or_default() += part;
        }
    }

    /// A limit refused a call that this meter had admitted at `granted`.
    pub(super) fn refused(&mut self, granted: Instant, now: Instant) {
        if self.guard.refused(granted, now) {
            self.respace();
        }
    }

    fn respace(&mut self) {
        if let (Some(bucket), Amount::PerPeriod { limit, .. }) = (&mut self.bucket, &self.amount) {
            bucket.resize(*limit, self.guard.width());
        }
        if let (Some(pace), Amount::PerPeriod { limit, per, .. }) = (&self.pace, &self.amount) {
            self.pace = Some(pace.respaced(*limit, *per, self.guard.width()));
        }
    }

    fn limit(&self) -> u64 {
        match self.amount {
            Amount::PerPeriod { limit, .. } | Amount::Concurrent(limit) => limit,
        }
    }

    fn share(&self, cost: &CallCost) -> u64 {
        match self.amount {
            Amount::PerPeriod { dimension, .. } => cost.of(dimension),
            Amount::Concurrent(_) => cost.requests,
        }
    }

    /// The part of the limit that is free at `now`, 0 to 1.
    pub(super) fn headroom(&mut self, now: Instant) -> f64 {
        self.return_until(now);
        if let Some(bucket) = &mut self.bucket {
            return bucket.headroom(now);
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let free = self.limit().saturating_sub(self.taken) as f64 / self.limit().max(1) as f64;
        free
    }

    /// Whether a call of this cost may start at `now`; takes nothing.
    pub(super) fn peek(&mut self, cost: &CallCost, now: Instant) -> Result<(), MeterWait> {
        self.room(cost, now)?;
        let share = self.share(cost);
        let covered = self.cover.as_mut().is_none_or(|cover| cover.admits(share));
        if covered {
            Ok(())
        } else {
            Err(MeterWait::ForRelease)
        }
    }

    /// The same, whatever is written down.
    fn room(&mut self, cost: &CallCost, now: Instant) -> Result<(), MeterWait> {
        self.return_until(now);
        let share = self.share(cost);
        let limit = self.limit();
        if share > limit && !self.may_run_into_debt() {
            return Err(MeterWait::TooLarge);
        }
        if let Some(bucket) = &mut self.bucket {
            return bucket.peek(share, now).map_err(MeterWait::Until);
        }
        // What is larger than the whole limit goes when nothing else is taken.
        let missing = self
            .taken
            .saturating_add(share.min(limit))
            .saturating_sub(limit);
        if missing > 0 {
            return Err(self.return_of(missing));
        }
        match &self.pace {
            Some(pace) if pace.due() > now => Err(MeterWait::Until(pace.due())),
            _ => Ok(()),
        }
    }

    /// The limit that is spent, and when even the least call may start again, if that is not before `soon`.
    pub(super) fn spent(&mut self, now: Instant, soon: Instant) -> Option<(String, Instant)> {
        match self.room(&CallCost::LEAST, now) {
            Err(MeterWait::Until(at)) if at > soon => Some((self.amount.to_string(), at)),
            _ => None,
        }
    }

    /// An estimate of tokens can be larger than the limit while the call is not; the provider knows.
    fn may_run_into_debt(&self) -> bool {
        !matches!(
            self.amount,
            Amount::Concurrent(_)
                | Amount::PerPeriod {
                    dimension: LimitDimension::Requests,
                    ..
                }
        )
    }

    /// When `missing` more will have returned.
    fn return_of(&self, missing: u64) -> MeterWait {
        let mut returned = 0;
        for ((at, _), share) in &self.returns {
            returned += share;
            if returned >= missing {
                return MeterWait::Until(*at);
            }
        }
        MeterWait::ForRelease
    }

    fn return_until(&mut self, now: Instant) {
        while let Some(entry) = self.returns.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((_, call), share) = entry.remove_entry();
            self.sent.remove(&call);
            self.taken -= share;
        }
    }

    /// Takes `cost` for `call`; the room was there when [`Meter::peek`] said so.
    pub(super) fn take(&mut self, call: u64, cost: &CallCost) {
        let share = self.share(cost);
        self.taken += share;
        self.open.insert(call, share);
        if let Some(bucket) = &mut self.bucket {
            bucket.take(share);
        }
        self.cover_more(share);
    }

    /// Whether so much more is free for a call that was permitted and not sent.
    pub(super) fn has_room_for(&mut self, more: &CallCost, now: Instant) -> bool {
        self.share(more) == 0 || self.peek(more, now).is_ok()
    }

    /// Takes so much more for `call`.
    pub(super) fn extend(&mut self, call: u64, more: &CallCost) {
        let (share, taken) = (
            self.share(more),
            self.open.get(&call).copied().unwrap_or_default(),
        );
        if share > 0 {
            self.take(call, more);
            self.open.insert(call, taken + share);
        }
    }

    fn cover_more(&mut self, share: u64) {
        let block = self.block();
        if let Some(cover) = &mut self.cover {
            cover.spend(share, block);
        }
    }

    /// Starts the call with governor, which is asked last.
    pub(super) fn start(&mut self, now: Instant) -> Result<(), Instant> {
        self.pace.as_mut().map_or(Ok(()), |pace| pace.start(now))
    }

    /// The call was handed to the network at `at`, `delay` after its permit: what it took of a period
    /// returns a period later, plus the guard for the way to the server. Lateness of one call then costs
    /// once in a period, while within the period later calls catch it up.
    pub(super) fn sent(&mut self, call: u64, at: Instant, delay: Duration) {
        let Amount::PerPeriod { per, .. } = self.amount else {
            return;
        };
        if self.guard.measure(delay, at) {
            self.respace();
        }
        if let Some(bucket) = &mut self.bucket {
            bucket.sent(delay);
        }
        // The stamp is written as the call leaves.
        self.return_at(call, self.back(per, at, at));
    }

    fn return_at(&mut self, call: u64, at: Instant) {
        if let Some(share) = self.open.remove(&call) {
            self.returns.insert((at, call), share);
            self.sent.insert(call, at);
        }
    }

    /// Corrects what a sent call took of tokens: up always, down only where the provider settles.
    pub(super) fn correct(&mut self, call: u64, actual: &CallCost, may_lower: bool) {
        let Amount::PerPeriod { dimension, .. } = self.amount else {
            return;
        };
        if dimension == LimitDimension::Requests {
            return;
        }
        let Some(share) = self
            .sent
            .get(&call)
            .and_then(|at| self.returns.get_mut(&(*at, call)))
        else {
            return;
        };
        let actual = actual.of(dimension);
        if actual > *share || may_lower {
            if let Some(bucket) = &mut self.bucket {
                bucket.give_back(*share);
                bucket.take(actual);
            }
            self.taken = self.taken - *share + actual;
            let more = actual.saturating_sub(*share);
            *share = actual;
            self.cover_more(more);
        }
    }

    /// The call has ended, or never began: what is still open returns, at once or at `not_before`.
    pub(super) fn release(&mut self, call: u64, not_before: Option<Instant>) {
        match not_before {
            Some(at) => self.return_at(call, at),
            None => {
                if let Some(share) = self.open.remove(&call) {
                    self.taken -= share;
                    if let Some(bucket) = &mut self.bucket {
                        bucket.give_back(share);
                    }
                }
            }
        }
    }

    /// What of a limit over more than a minute is spent, and when each part returns; `None` of others. With
    /// `ahead` a little more, which may be spent before this is written down again.
    pub(super) fn spent_until(
        &mut self,
        ahead: bool,
        moment: ClockPair,
    ) -> Option<Vec<(Timestamp, u64)>> {
        let Amount::PerPeriod { limit, per, .. } = self.amount else {
            return None;
        };
        if per <= LONGEST_SPENT {
            return None;
        }
        self.return_until(moment.instant);
        let end = self.back(per, moment.instant, moment.instant);
        let step = if self.days.is_some() {
            ONE_SECOND
        } else {
            per / PARTS
        };
        let open: u64 = self.open.values().sum();
        let block = self.block();
        let ahead = self
            .cover
            .as_mut()
            .map_or(0, |cover| cover.offer(ahead, block));
        if let Some(bucket) = &mut self.bucket {
            let full = bucket.full_at(ahead, moment.instant);
            return Some(vec![(moment.wall_in_steps(full, per / FINE_PARTS), limit)]);
        }
        let later = [(end, open + ahead)]
            .into_iter()
            .filter(|(_, share)| *share > 0);
        let returns = self.returns.iter().map(|((at, _), share)| (*at, *share));
        let mut parts = BTreeMap::new();
        for (at, share) in returns.chain(later) {
            *parts.entry(moment.wall_in_steps(at, step)).or_default() += share;
        }
        Some(parts.into_iter().collect())
    }

    /// Counts what a process before this one spent.
    pub(super) fn resume(&mut self, parts: &[(Timestamp, u64)], moment: ClockPair) {
        let parts = parts.iter().filter(|(at, _)| *at > moment.wall);
        if let Some(bucket) = &mut self.bucket {
            parts.for_each(|(at, _)| bucket.empty_until(moment.instant(*at), moment.instant));
            return;
        }
        for (at, share) in parts {
            *self
                .returns
                .entry((moment.instant(*at), NO_CALL))
                .or_default() += share;
            self.taken += share;
        }
    }

    /// Whether it knows of no call any more.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.returns.is_empty() && self.sent.is_empty()
    }

    /// What is taken now.
    pub(super) fn taken(&mut self, now: Instant) -> u64 {
        self.return_until(now);
        self.taken
    }
}
