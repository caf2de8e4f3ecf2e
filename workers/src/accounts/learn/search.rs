//! Finding a rate that nobody tells: double it until a call is refused, and learn from the refusal.

use std::time::Duration;

use tokio::time::Instant;

use crate::accounts::limit::{Algorithm, Amount};
use crate::accounts::meter::MeterWait;
use crate::accounts::saved::FoundLimit;
use forebay_providers::cost::LimitDimension;

/// What is searched is a number of calls per this.
const PERIOD: Duration = Duration::from_secs(60);
/// The first: a call a second.
const FIRST: u64 = 60;
/// The most that is tried.
const MOST: u64 = 600_000;
/// How long each rate is kept before it is doubled.
const STEP: Duration = Duration::from_secs(5);
/// Once a rate was found: how long it is kept before more is tried.
const PAUSE: Duration = Duration::from_secs(10);
/// The same once trying more was refused, and the calls that must have been accepted meanwhile.
const LONG_PAUSE: Duration = Duration::from_secs(30);
const LONG_PAUSE_CALLS: u64 = 200;
/// How much more is tried where nothing is known of what is above, and where it was refused.
const MORE: f64 = 0.25;
const A_LITTLE_MORE: f64 = 0.02;
/// How much less a limit is taken to be than one that was refused.
const LESS: f64 = 0.98;
const MUCH_LESS: f64 = 0.9;
/// So soon after more was refused, so many refusals say nothing new: what was too much still counts there.
const SETTLING: Duration = Duration::from_secs(15);
const SETTLING_REFUSALS: u8 = 3;
/// A probe shows something only where the window would let nothing through for so much longer.
const TELLING: Duration = Duration::from_secs(5);
/// So many accepted calls, over such a time, measure a rate.
const MEASURED: u64 = 5;
const MEASURING: Duration = Duration::from_millis(500);

/// How far the search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchPhase {
    /// The rate doubles.
    Doubling,
    /// A call was refused: is a minute's allowance spent, or was the rate too high? One call tells, sent
    /// while a spent minute would let none through.
    Doubtful { probe: Option<u64> },
    /// The limit is about this: of a minute's calls, or of the rate.
    Found { window: bool },
}

/// The search for one limit on calls.
#[derive(Debug)]
pub(super) struct LimitSearch {
    phase: SearchPhase,
    /// Calls per minute that are allowed now.
    limit: u64,
    /// The highest that was used fully and not refused.
    survived: u64,
    /// What was tried last and refused.
    ceiling: Option<u64>,
    /// So many refusals soon after more was refused say nothing new.
    settling: u8,
    /// Since when the limit is what it is.
    since: Instant,
    /// Whether a call had to wait for it since then.
    was_full: bool,
    /// Calls accepted since then.
    accepted: u64,
    /// Whether a call was ever refused.
    refused: bool,
}

impl LimitSearch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: SearchPhase::Doubling,
            limit: FIRST,
            survived: 0,
            ceiling: None,
            settling: 0,
            since: now,
            was_full: false,
            accepted: 0,
            refused: false,
        }
    }

    /// What is allowed now.
    pub(super) fn amount(&self) -> Amount {
        Amount::PerPeriod {
            dimension: LimitDimension::Requests,
            limit: self.limit,
            per: PERIOD,
            algorithm: Algorithm::Smooth,
            day_in: None,
        }
    }

    /// What was found, if something was.
    pub(super) fn found(&self) -> Option<FoundLimit> {
        match self.phase {
            SearchPhase::Found { window } => Some(FoundLimit {
                calls_per_minute: self.limit,
                window,
            }),
            _ => None,
        }
    }

    /// Goes on from what was found before.
    pub(super) fn resume(&mut self, found: FoundLimit, now: Instant) {
        self.phase = SearchPhase::Found {
            window: found.window,
        };
        self.set(found.calls_per_minute, now);
    }

    fn set(&mut self, limit: u64, now: Instant) {
        self.limit = limit.clamp(1, MOST);
        self.settling = 0;
        self.since = now;
        self.was_full = false;
        self.accepted = 0;
    }

    /// Raises the limit if it was used fully for long enough; true if it did.
    pub(super) fn grow(&mut self, now: Instant) -> bool {
        let (pause, calls) = match self.phase {
            SearchPhase::Doubling => (STEP, 1),
            SearchPhase::Doubtful { .. } => return false,
            SearchPhase::Found { window: true } => (PERIOD, 1),
            SearchPhase::Found { .. } if self.ceiling.is_some() => {
                (LONG_PAUSE, LONG_PAUSE_CALLS.min(self.limit / 4).max(1))
            }
            SearchPhase::Found { .. } => (PAUSE, 1),
        };
        let due = self.was_full && self.accepted >= calls && now >= self.since + pause;
        if due && self.limit < MOST {
            self.survived = self.limit;
            self.set(self.more(), now);
        }
        due
    }

    /// What is tried next: twice as much at first, then halfway to what was refused, or a little beyond.
    fn more(&self) -> u64 {
        let least = self.limit + times(self.limit, A_LITTLE_MORE).max(1);
        match (self.phase, self.ceiling) {
            (SearchPhase::Doubling, _) => 2 * self.limit,
            (_, None) => least.max(self.limit + times(self.limit, MORE)),
            (_, Some(ceiling)) => least.max(self.limit.midpoint(ceiling)),
        }
    }

    /// A call has to wait. True if it is to go all the same, as the probe.
    pub(super) fn held_back(&mut self, wait: MeterWait, now: Instant, probing: bool) -> bool {
        self.was_full = true;
        let tells = matches!(wait, MeterWait::Until(at) if at > now + TELLING);
        probing && tells && self.phase == SearchPhase::Doubtful { probe: None }
    }

    /// `call` goes as the probe.
    pub(super) fn probes(&mut self, call: u64) {
        self.phase = SearchPhase::Doubtful { probe: Some(call) };
    }

    /// `call`, permitted at `granted`, was accepted. True if it was the probe: what was sent before does not
    /// count any more.
    pub(super) fn accepted(&mut self, call: u64, granted: Instant, now: Instant) -> bool {
        self.accepted += 1;
        match self.phase {
            SearchPhase::Doubtful { probe: Some(probe) } if probe == call => {
                self.set_rate(now);
                true
            }
            // The minute had room again before a probe could tell, or the probe was lost on its way.
            SearchPhase::Doubtful { .. } if granted >= self.since => {
                self.set_window(now);
                false
            }
            _ => false,
        }
    }

    /// A call that was permitted at `granted` was refused, with `taken` calls counted in the last minute and
    /// perhaps a hint of how long to wait.
    pub(super) fn refused(
        &mut self,
        granted: Instant,
        taken: u64,
        hint: Option<Duration>,
        now: Instant,
    ) {
        if self.refused && granted < self.since {
            // It was under way when another was refused, and counted as accepted then.
            if matches!(self.phase, SearchPhase::Doubtful { .. }) {
                self.limit = (self.limit - 1).max(1);
            }
            return;
        }
        self.refused = true;
        let accepted = taken.saturating_sub(1);
        match self.phase {
            SearchPhase::Doubling if accepted == 0 => {}
            SearchPhase::Doubling => {
                self.phase = SearchPhase::Doubtful { probe: None };
                self.set(accepted, now);
                match hint {
                    // A minute's allowance does not come back so soon, and a rate does not take so long.
                    Some(wait) if wait < TELLING => self.set_rate(now),
                    Some(_) => self.set_window(now),
                    None => {}
                }
            }
            SearchPhase::Doubtful { .. } => self.set_window(now),
            SearchPhase::Found { .. } => self.lower(hint, now),
        }
    }

    /// Whether it is a rate that was found, for which it does not matter how much a minute holds.
    pub(super) fn is_rate(&self) -> bool {
        self.phase == SearchPhase::Found { window: false }
    }

    fn set_window(&mut self, now: Instant) {
        self.phase = SearchPhase::Found { window: true };
        self.set(self.limit, now);
        self.settling = SETTLING_REFUSALS;
    }

    fn set_rate(&mut self, now: Instant) {
        self.phase = SearchPhase::Found { window: false };
        self.set(self.limit.max(self.survived), now);
    }

    /// Something above the true limit was allowed.
    fn lower(&mut self, hint: Option<Duration>, now: Instant) {
        if self.settling > 0 && now < self.since + SETTLING {
            self.settling -= 1;
            return;
        }
        if self.limit > self.survived && self.survived > 0 {
            self.ceiling = Some(self.limit);
            self.set(times(self.survived, LESS), now);
            self.settling = SETTLING_REFUSALS;
        } else {
            let proven = now >= self.since + PAUSE;
            let guess = if proven {
                times(self.limit, MUCH_LESS)
            } else {
                self.limit / 2
            };
            let most = times(self.limit, LESS).min(self.limit - 1);
            self.set(
                self.measured(hint, now)
                    .unwrap_or(guess)
                    .max(self.limit / 4)
                    .min(most),
                now,
            );
        }
        self.survived = 0;
        // Far below what was refused once, that says nothing of what is just above.
        self.ceiling = self.ceiling.filter(|ceiling| self.limit > ceiling / 2);
    }

    /// Calls per minute that were accepted at this rate, if they are enough to tell. Who says how long to
    /// wait says when one more would have been accepted.
    fn measured(&self, hint: Option<Duration>, now: Instant) -> Option<u64> {
        let (calls, least, lasted) = match hint {
            Some(wait) => (self.accepted + 1, 2, now.duration_since(self.since) + wait),
            None => (self.accepted, MEASURED, now.duration_since(self.since)),
        };
        #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
        let per_second = calls as f64 / lasted.as_secs_f64();
        let pushed = self.is_rate() && self.was_full;
        let tells = pushed && calls >= least && lasted >= MEASURING && lasted < 2 * PERIOD;
        tells.then(|| times(60, per_second))
    }
}

/// `factor` times `number`, rounded.
fn times(number: u64, factor: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "limits are positive and far below 2^52"
    )]
    let product = (number as f64 * factor).round() as u64;
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_long_time_of_refusals_the_rate_comes_back() {
        let mut now = Instant::now();
        let mut search = LimitSearch::new(now);
        search.resume(
            FoundLimit {
                calls_per_minute: 600,
                window: false,
            },
            now,
        );
        for _ in 0..300 {
            now += Duration::from_secs(2);
            search.refused(now, 2, Some(Duration::from_secs(2)), now);
        }
        assert!(search.limit < 10, "{}", search.limit);
        for second in 0..1_200u64 {
            now += Duration::from_secs(1);
            for call in 0..search.limit.div_ceil(60) {
                search.held_back(MeterWait::Until(now), now, false);
                search.accepted(second * 1_000 + call, now, now);
            }
            search.grow(now);
        }
        assert!(search.limit > 300, "{}", search.limit);
    }
}
