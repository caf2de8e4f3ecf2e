//! A limit below the configured or stated ones, which counts once refusals show that the provider enforces less.
//!
//! # Why
//!
//! A configured limit may be too high: the provider lowered it, counts otherwise, or another client uses the account too. So
//! may a limit that headers state. Calls at that rate are refused all the time.
//!
//! # How
//!
//! One refusal may have been bad luck on the way. A second one within [`ROW`] is evidence: a [`RateSearch`] finds a rate
//! below. Once the configured or stated rate was used for [`QUIET_TIME`] without a refusal, it alone counts again.
//!
//! # Invariants
//!
//! - The configured and stated limits always count too: this one only lowers the rate.
//! - Refusals of calls that were under way together are one refusal.

use std::time::Duration;

use tokio::time::Instant;

use super::RefusedCall;
use super::rate::{BelievedRate, RateSearch};
use super::recent_calls::RecentCalls;
use crate::accounts::limit::{Algorithm, Amount};
use crate::accounts::meter::Meter;
use forebay_providers::cost::LimitDimension;

/// Longest time between two refusals that are evidence together.
const ROW: Duration = Duration::from_secs(60);
/// Time at the believed rate without a refusal after which it alone counts again.
const QUIET_TIME: Duration = Duration::from_secs(120);

/// A limit of one model below the configured and stated ones.
#[derive(Debug, Default)]
pub(in crate::accounts) struct LoweredLimit {
    calls: RecentCalls,
    /// The last refusal that is no evidence yet, and the number of calls that were accepted since then.
    refused_once: Option<(Instant, u64)>,
    /// The index of its meter, once there is one.
    meter: Option<usize>,
    /// `None` while it does not count.
    search: Option<RateSearch>,
    /// The time since which the rate is the believed one.
    whole_since: Option<Instant>,
}

impl LoweredLimit {
    /// Returns the index of the meter, if it counts.
    pub(in crate::accounts) fn meter(&self) -> Option<usize> {
        self.meter.filter(|_| self.search.is_some())
    }

    /// Returns a description of the limit, if it counts.
    pub(in crate::accounts) fn describe(&self) -> Option<String> {
        let search = self.search.as_ref()?;
        let per_minute = search.rate() * 60.0;
        Some(format!("{per_minute:.0} requests per 60s after refusals"))
    }

    /// Notes that `call` began.
    pub(in crate::accounts) fn began(&mut self, call: u64, now: Instant) {
        self.calls.began(call, now);
    }

    /// Notes that a call was accepted.
    pub(in crate::accounts) fn accepted(&mut self) {
        if let Some((_, accepted)) = &mut self.refused_once {
            *accepted += 1;
        }
        if let Some(search) = &mut self.search {
            search.accepted();
        }
    }

    /// Notes that a limit refused `call`, which the `believed` limit admitted. Returns true if timing margins should have
    /// prevented that.
    pub(in crate::accounts) fn refused(
        &mut self,
        call: RefusedCall,
        believed: Option<BelievedRate>,
        meters: &mut Vec<Meter>,
        now: Instant,
    ) -> bool {
        self.calls.refused(call.number);
        let Some(believed) = believed else {
            return true;
        };
        if self.search.is_none() {
            let first = self.refused_once.take();
            let Some((first_at, accepted)) = first.filter(|(at, _)| *at + ROW >= now) else {
                self.refused_once = Some((now, 0));
                return true;
            };
            if call.granted < first_at {
                self.refused_once = Some((first_at, accepted));
                return true;
            }
            self.search = Some(RateSearch::new(believed.rate, first_at, accepted));
        }
        self.whole_since = None;
        let search = self.search.as_mut();
        let is_early =
            search.is_some_and(|search| search.refused(call.granted, believed, &self.calls, now));
        self.resize(believed.period, meters, now);
        if let Some(meter) = self.meter {
            meters[meter].wait_an_interval(now);
        }
        is_early
    }

    /// Notes that `meter` makes a call wait.
    pub(in crate::accounts) fn note_wait(&mut self, meter: usize) {
        if let Some(search) = &mut self.search
            && self.meter == Some(meter)
        {
            search.note_wait();
        }
    }

    /// Lets the limit grow towards the `believed` one, if it is time. Returns true if it no longer counts.
    pub(in crate::accounts) fn grow(
        &mut self,
        believed: Option<BelievedRate>,
        meters: &mut Vec<Meter>,
        now: Instant,
    ) -> bool {
        let (Some(search), Some(believed)) = (&mut self.search, believed) else {
            return false;
        };
        let has_grown = search.grow(believed, now);
        if search.rate() >= believed.rate {
            self.whole_since.get_or_insert(now);
        }
        if has_grown {
            self.resize(believed.period, meters, now);
        }
        let has_ended = self.whole_since.is_some_and(|at| at + QUIET_TIME <= now);
        if has_ended {
            self.search = None;
            self.whole_since = None;
        }
        has_ended
    }

    /// Gives the meter the present rate. Calls that left before do not count against it.
    fn resize(&mut self, period: Duration, meters: &mut Vec<Meter>, now: Instant) {
        let Some(search) = &self.search else { return };
        let amount = amount(search.rate(), period);
        match self.meter {
            Some(meter) => meters[meter].replace(amount, now),
            None => {
                self.meter = Some(meters.len());
                meters.push(Meter::new(amount, now, None));
            }
        }
    }
}

/// Returns a limit of `rate` calls a second, with the margins of one of `period`.
fn amount(rate: f64, period: Duration) -> Amount {
    let calls = (rate * period.as_secs_f64()).round().max(1.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of calls"
    )]
    let limit = calls as u64;
    Amount::PerPeriod {
        dimension: LimitDimension::Requests,
        limit,
        per: Duration::from_secs_f64(calls / rate),
        algorithm: Algorithm::Smooth,
        day_in: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn believed(rate: f64) -> Option<BelievedRate> {
        let period = SECOND;
        Some(BelievedRate { rate, period })
    }

    /// Returns a limit at which two calls of the `believed` ten a second were refused, a second apart.
    fn refused_twice(meters: &mut Vec<Meter>, start: Instant) -> LoweredLimit {
        let mut limit = LoweredLimit::default();
        for number in 0..2 {
            let granted = start + SECOND * u32::try_from(number).expect("a small number");
            limit.began(number, granted);
            let call = RefusedCall {
                number,
                job: number,
                granted,
                hint: None,
            };
            limit.refused(call, believed(10.0), meters, granted);
        }
        limit
    }

    #[test]
    fn it_ends_where_the_believed_limit_falls_to_it() {
        let (mut meters, start) = (Vec::new(), Instant::now());
        let mut limit = refused_twice(&mut meters, start);
        assert!(limit.meter().is_some(), "{limit:?}");
        let at = start + 2 * SECOND;
        assert!(!limit.grow(believed(10.0), &mut meters, at + 2 * QUIET_TIME));
        assert!(!limit.grow(believed(1.0), &mut meters, at));
        assert!(!limit.grow(believed(1.0), &mut meters, at + QUIET_TIME / 2));
        assert!(limit.grow(believed(1.0), &mut meters, at + QUIET_TIME));
        assert!(limit.meter().is_none() && limit.describe().is_none());
    }
}
