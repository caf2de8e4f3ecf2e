//! The running account of one limit.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::limit::{Algorithm, Amount, Cost, Dimension};
use super::pace::Pace;

/// A guard that refusals widened does not grow beyond this part of its period.
const WIDEST_GUARD_SHARE: u32 = 20;

/// Why a meter does not admit a call now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
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
    pace: Option<Pace>,
    guard: Duration,
    /// Taken in all; the sum of `open` and `returns`.
    taken: u64,
    /// Taken by calls that have not been sent or, for calls at once, not ended.
    open: HashMap<u64, u64>,
    /// Taken by calls that were sent, by the time at which it returns.
    returns: BTreeMap<(Instant, u64), u64>,
    /// Where in `returns` each call stands.
    sent: HashMap<u64, Instant>,
}

impl Meter {
    pub(super) fn new(amount: Amount, guard: Duration, now: Instant) -> Self {
        let mut meter = Self {
            amount,
            pace: None,
            guard,
            taken: 0,
            open: HashMap::new(),
            returns: BTreeMap::new(),
            sent: HashMap::new(),
        };
        meter.guard = meter.at_least(guard);
        if let Amount::PerPeriod {
            dimension: Dimension::Requests,
            limit,
            per,
            algorithm: Algorithm::Smooth,
        } = meter.amount
        {
            meter.pace = Some(Pace::new(limit, per, meter.guard, now));
        }
        meter
    }

    /// A guard is never less than a 500th of its period: what a long period loses by it is too little
    /// to see, and clocks, timers and other people's load vary by more than the 5 ms of the shortest.
    fn at_least(&self, guard: Duration) -> Duration {
        match self.amount {
            Amount::PerPeriod { per, .. } => guard.max(per / 500),
            Amount::Concurrent(_) => guard,
        }
    }

    /// Doubles the guard, up to `1 / WIDEST_GUARD_SHARE` of the period; it never narrows.
    pub(super) fn widen_after_refusal(&mut self) {
        let Amount::PerPeriod { limit, per, .. } = self.amount else { return };
        self.guard = (self.guard * 2).min((per / WIDEST_GUARD_SHARE).max(self.guard));
        if let Some(pace) = &self.pace {
            self.pace = Some(pace.respaced(limit, per, self.guard));
        }
    }

    fn limit(&self) -> u64 {
        match self.amount {
            Amount::PerPeriod { limit, .. } | Amount::Concurrent(limit) => limit,
        }
    }

    fn share(&self, cost: &Cost) -> u64 {
        match self.amount {
            Amount::PerPeriod { dimension, .. } => cost.of(dimension),
            Amount::Concurrent(_) => cost.requests,
        }
    }

    /// The part of the limit that is free at `now`, 0 to 1.
    pub(super) fn headroom(&mut self, now: Instant) -> f64 {
        self.return_until(now);
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let free = self.limit().saturating_sub(self.taken) as f64 / self.limit().max(1) as f64;
        free
    }

    /// Whether a call of this cost may start at `now`; takes nothing.
    pub(super) fn peek(&mut self, cost: &Cost, now: Instant) -> Result<(), Wait> {
        self.return_until(now);
        let share = self.share(cost);
        let limit = self.limit();
        if share > limit {
            return Err(Wait::TooLarge);
        }
        let missing = (self.taken + share).saturating_sub(limit);
        if missing > 0 {
            return Err(self.return_of(missing));
        }
        match &self.pace {
            Some(pace) if pace.due() > now => Err(Wait::Until(pace.due())),
            _ => Ok(()),
        }
    }

    /// When `missing` more will have returned.
    fn return_of(&self, missing: u64) -> Wait {
        let mut returned = 0;
        for ((at, _), share) in &self.returns {
            returned += share;
            if returned >= missing {
                return Wait::Until(*at);
            }
        }
        Wait::ForRelease
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
    pub(super) fn take(&mut self, call: u64, cost: &Cost) {
        let share = self.share(cost);
        self.taken += share;
        self.open.insert(call, share);
    }

    /// Starts the call with governor, which is asked last.
    pub(super) fn start(&mut self, now: Instant) -> Result<(), Instant> {
        self.pace.as_mut().map_or(Ok(()), |pace| pace.start(now))
    }

    /// The call was handed to the network at `at`: what it took of a period returns a period later,
    /// plus the part of the guard that covers the way to the server.
    pub(super) fn sent(&mut self, call: u64, at: Instant) {
        if let Amount::PerPeriod { per, .. } = self.amount {
            self.return_at(call, at + per + self.guard / 2);
        }
    }

    fn return_at(&mut self, call: u64, at: Instant) {
        if let Some(share) = self.open.remove(&call) {
            self.returns.insert((at, call), share);
            self.sent.insert(call, at);
        }
    }

    /// Corrects what a sent call took of tokens: up always, down only where the provider settles.
    pub(super) fn correct(&mut self, call: u64, actual: &Cost, may_lower: bool) {
        let Amount::PerPeriod { dimension, .. } = self.amount else { return };
        if dimension == Dimension::Requests {
            return;
        }
        let Some(share) = self.sent.get(&call).and_then(|at| self.returns.get_mut(&(*at, call))) else {
            return;
        };
        let actual = actual.of(dimension);
        if actual > *share || may_lower {
            self.taken = self.taken - *share + actual;
            *share = actual;
        }
    }

    /// The call has ended, or never began: what is still open returns, at once or at `not_before`.
    pub(super) fn release(&mut self, call: u64, not_before: Option<Instant>) {
        match not_before {
            Some(at) => self.return_at(call, at),
            None => {
                if let Some(share) = self.open.remove(&call) {
                    self.taken -= share;
                }
            }
        }
    }

    /// What is taken now.
    #[cfg(test)]
    pub(super) fn taken(&mut self, now: Instant) -> u64 {
        self.return_until(now);
        self.taken
    }
}
