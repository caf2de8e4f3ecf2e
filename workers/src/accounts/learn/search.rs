//! Finds a rate that no header states: it doubles until a call is refused, and the search learns from the refusal.

use std::time::Duration;

use tokio::time::Instant;

use crate::accounts::limit::{Algorithm, Amount};
use crate::accounts::meter::MeterWait;
use crate::accounts::saved::FoundLimit;
use forebay_providers::cost::LimitDimension;

/// The period of the searched limit.
const PERIOD: Duration = Duration::from_secs(60);
/// The first limit, in calls per period: one call a second.
const FIRST_LIMIT: u64 = 60;
/// The largest limit that is tried, in calls per period.
const MAX_LIMIT: u64 = 600_000;
/// Time for which a rate is kept before it is doubled.
const DOUBLING_TIME: Duration = Duration::from_secs(5);
/// Time for which a found rate is kept before more is tried.
const GROWTH_PAUSE: Duration = Duration::from_secs(10);
/// The same after more was tried and refused. Each further refusal of more makes it longer.
const LONG_GROWTH_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_GROWTH_PAUSE: Duration = Duration::from_secs(300);
const GROWTH_PAUSE_TIMES: f64 = 1.5;
/// Largest number of calls that must be accepted in [`LONG_GROWTH_PAUSE`] before more is tried.
const LONG_GROWTH_PAUSE_CALLS: u64 = 200;
/// Growth of a limit above which nothing was refused, as a part of it.
const GROWTH: f64 = 0.25;
/// Least growth of a found limit, as a part of it.
const MIN_GROWTH: f64 = 0.02;
/// The part that is left of a limit at most after a refusal.
const REFUSED_PART: f64 = 0.98;
/// The part of the limit before an increase that is left once the increase was refused.
const SURVIVED_PART: f64 = 0.99;
/// The part that is left of a limit which was refused after it had held for [`GROWTH_PAUSE`].
const PROVEN_REFUSED_PART: f64 = 0.9;
/// Time after a refused increase in which refusals teach nothing, because the provider still counts the excess.
const SETTLING_TIME: Duration = Duration::from_secs(15);
/// Limit of the refusals that teach nothing in that time.
const SETTLING_REFUSALS: u8 = 3;
/// A longer wait is that of a spent minute, and a shorter one that of a rate which is too high.
const WINDOW_WAIT: Duration = Duration::from_secs(5);
/// Least number of accepted calls that measure a rate.
const MIN_MEASURED_CALLS: u64 = 5;
/// Least time over which a rate is measured.
const MIN_MEASURED_TIME: Duration = Duration::from_millis(500);

/// The phase of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchPhase {
    /// The rate doubles.
    Doubling,
    /// A call was refused: a minute's allowance is spent, or the rate was too high. One call shows which, the probe. It
    /// is sent while a spent minute would let no call through.
    Doubtful { probe: Option<u64> },
    /// The limit is found. With `window` it limits the calls of a minute, else their rate.
    Found { window: bool },
}

/// The search for one limit on calls.
#[derive(Debug)]
pub(super) struct LimitSearch {
    phase: SearchPhase,
    /// The limit that is assumed now, in calls per minute.
    limit: u64,
    /// The limit before the last increase, which was used fully and not refused; 0 if there is none.
    survived: u64,
    /// The limit that was tried last and refused.
    ceiling: Option<u64>,
    /// The pause before more than a found limit is tried.
    pause: Duration,
    /// The number of further refusals that teach nothing.
    settling: u8,
    /// The time at which `limit` was set.
    since: Instant,
    /// True if a call had to wait for the limit since then.
    was_full: bool,
    /// The number of calls that were accepted since then.
    accepted: u64,
    /// True if a call was ever refused.
    refused: bool,
}

impl LimitSearch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            phase: SearchPhase::Doubling,
            limit: FIRST_LIMIT,
            survived: 0,
            ceiling: None,
            pause: GROWTH_PAUSE,
            settling: 0,
            since: now,
            was_full: false,
            accepted: 0,
            refused: false,
        }
    }

    /// Returns the limit that is assumed now.
    pub(super) fn amount(&self) -> Amount {
        Amount::PerPeriod {
            dimension: LimitDimension::Requests,
            limit: self.limit,
            per: PERIOD,
            algorithm: Algorithm::Smooth,
            day_in: None,
        }
    }

    /// Returns the limit that was found; `None` while it is searched.
    pub(super) fn found(&self) -> Option<FoundLimit> {
        match self.phase {
            SearchPhase::Found { window } => Some(FoundLimit {
                calls_per_minute: self.limit,
                window,
            }),
            _ => None,
        }
    }

    /// Continues from a limit that was found before.
    pub(super) fn resume(&mut self, found: FoundLimit, now: Instant) {
        self.phase = SearchPhase::Found {
            window: found.window,
        };
        self.set(found.calls_per_minute, now);
    }

    fn set(&mut self, limit: u64, now: Instant) {
        self.limit = limit.clamp(1, MAX_LIMIT);
        self.settling = 0;
        self.since = now;
        self.was_full = false;
        self.accepted = 0;
    }

    /// Raises the limit, if it was used fully for long enough. Returns true if it was.
    pub(super) fn grow(&mut self, now: Instant) -> bool {
        let (pause, calls) = match self.phase {
            SearchPhase::Doubling => (DOUBLING_TIME, 1),
            SearchPhase::Doubtful { .. } => return false,
            SearchPhase::Found { window: true } => (PERIOD, 1),
            SearchPhase::Found { .. } if self.ceiling.is_some() => (
                self.pause,
                LONG_GROWTH_PAUSE_CALLS.min(self.limit / 4).max(1),
            ),
            SearchPhase::Found { .. } => (GROWTH_PAUSE, 1),
        };
        let due = self.was_full && self.accepted >= calls && now >= self.since + pause;
        if due && self.limit < MAX_LIMIT {
            self.survived = self.limit;
            self.set(self.next_limit(), now);
        }
        due
    }

    /// Returns the limit to try next. While doubling it is twice as large, and then a quarter larger. Below a limit
    /// that was refused it is halfway there, or a little more than now.
    fn next_limit(&self) -> u64 {
        let least = self.limit + times(self.limit, MIN_GROWTH).max(1);
        match (self.phase, self.ceiling) {
            (SearchPhase::Doubling, _) => 2 * self.limit,
            (_, None) => least.max(self.limit + times(self.limit, GROWTH)),
            (_, Some(ceiling)) => least.max(self.limit.midpoint(ceiling)),
        }
    }

    /// Notes that a call has to wait. Returns true if the call is to be sent all the same, as the probe.
    pub(super) fn may_pass_as_probe(
        &mut self,
        wait: MeterWait,
        now: Instant,
        probing: bool,
    ) -> bool {
        self.was_full = true;
        let is_window = matches!(wait, MeterWait::Until(at) if at > now + WINDOW_WAIT);
        probing && is_window && self.phase == SearchPhase::Doubtful { probe: None }
    }

    /// Notes that `call` is sent as the probe.
    pub(super) fn begin_probe(&mut self, call: u64) {
        self.phase = SearchPhase::Doubtful { probe: Some(call) };
    }

    /// Notes that `call`, permitted at `granted`, was accepted. Returns true if it was the probe. Calls that were sent
    /// before do not count any more then.
    pub(super) fn accepted(&mut self, call: u64, granted: Instant, now: Instant) -> bool {
        self.accepted += 1;
        match self.phase {
            SearchPhase::Doubtful { probe: Some(probe) } if probe == call => {
                self.set_rate(now);
                true
            }
            // The minute had room again before a probe had an answer, or the probe was lost on its way.
            SearchPhase::Doubtful { .. } if granted >= self.since => {
                self.set_window(now);
                false
            }
            _ => false,
        }
    }

    /// Notes that a call was refused which was permitted at `granted`. `taken` is the number of calls in the last
    /// minute, and `hint` the wait that the provider stated.
    pub(super) fn refused(
        &mut self,
        granted: Instant,
        taken: u64,
        hint: Option<Duration>,
        now: Instant,
    ) {
        if self.refused && granted < self.since {
            // The call was under way when another was refused, and counted as accepted then.
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
                    // A minute's allowance does not return as soon as this, and a rate does not take as long.
                    Some(wait) if wait < WINDOW_WAIT => self.set_rate(now),
                    Some(_) => self.set_window(now),
                    None => {}
                }
            }
            SearchPhase::Doubtful { .. } => self.set_window(now),
            SearchPhase::Found { .. } => self.lower(hint, now),
        }
    }

    /// Returns true if a rate was found. The number of calls in a minute does not matter then.
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
        let limit = self.limit.max(self.survived);
        self.set(limit, now);
    }

    /// Lowers a found limit after a refusal: it is above the true one.
    fn lower(&mut self, hint: Option<Duration>, now: Instant) {
        if self.settling > 0 && now < self.since + SETTLING_TIME {
            self.settling -= 1;
            return;
        }
        if self.limit > self.survived && self.survived > 0 {
            self.ceiling = Some(self.limit);
            let longer = self.pause.mul_f64(GROWTH_PAUSE_TIMES);
            self.pause = longer.clamp(LONG_GROWTH_PAUSE, LONGEST_GROWTH_PAUSE);
            self.set(times(self.survived, SURVIVED_PART), now);
            self.settling = SETTLING_REFUSALS;
        } else {
            let proven = now >= self.since + GROWTH_PAUSE;
            let guess = if proven {
                times(self.limit, PROVEN_REFUSED_PART)
            } else {
                self.limit / 2
            };
            let least = self.limit / 4;
            let most = times(self.limit, REFUSED_PART).min(self.limit - 1);
            let limit = self.measured(hint, now).unwrap_or(guess);
            self.set(limit.max(least).min(most), now);
        }
        self.survived = 0;
        // Far below a limit that was refused once, that refusal shows nothing about the limits just above.
        let limit = self.limit;
        self.ceiling = self.ceiling.filter(|ceiling| limit > ceiling / 2);
        if self.ceiling.is_none() {
            self.pause = GROWTH_PAUSE;
        }
    }

    /// Returns the calls per minute that were accepted at this rate; `None` if they are too few to measure it. A
    /// provider that states a wait thereby states when one more call would have been accepted.
    fn measured(&self, hint: Option<Duration>, now: Instant) -> Option<u64> {
        let (calls, least, lasted) = match hint {
            Some(wait) => (self.accepted + 1, 2, now.duration_since(self.since) + wait),
            None => (
                self.accepted,
                MIN_MEASURED_CALLS,
                now.duration_since(self.since),
            ),
        };
        #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
        let per_second = calls as f64 / lasted.as_secs_f64();
        let pushed = self.is_rate() && self.was_full;
        let is_measured =
            pushed && calls >= least && lasted >= MIN_MEASURED_TIME && lasted < 2 * PERIOD;
        is_measured.then(|| times(60, per_second))
    }
}

/// Returns `factor` times `number`, rounded.
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
                search.may_pass_as_probe(MeterWait::Until(now), now, false);
                search.accepted(second * 1_000 + call, now, now);
            }
            search.grow(now);
        }
        assert!(search.limit > 300, "{}", search.limit);
    }
}
