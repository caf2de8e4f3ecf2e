//! A limit that headers state, and how far the answers bear it out.
//!
//! # Why
//!
//! Headers may state less than the provider allows. Nothing is refused then, and a part of the limit is never used.
//!
//! # How
//!
//! Each answer also states how much is left. Where that stays nearly all although many calls are made, the limit refills
//! faster than it says. The rate then rises in steps while three quarters are left. It is the stated one again when less than
//! half is left, or no answer states it any more. A refusal ends that: what the answers state as left is not believed any
//! more.
//!
//! # Invariants
//!
//! - The rate exceeds the stated one only while the answers state that enough is left.

use std::time::Duration;

use tokio::time::Instant;

use super::period::Period;
use crate::accounts::limit::{Algorithm, Amount};
use crate::accounts::meter::Meter;
use forebay_providers::RateLimitHeaders;

/// A step of the rate, and the most times the stated rate that are tried.
const STEP: f64 = 1.1;
const MOST_TIMES: f64 = 4.0;
/// The least part of a period, and the least number of answers, that show how much stays left.
const SHOWN_DIVISOR: u32 = 10;
const SHOWN_ANSWERS: u64 = 20;
/// The largest part of the calls that may be reported as used, if the limit refills as they are made.
const USED_DIVISOR: u64 = 4;
/// The time for which what an answer states as left is believed.
const LONGEST_BELIEVED: Duration = Duration::from_secs(10);

/// A limit that headers state, with the index of its meter.
#[derive(Debug)]
pub(super) struct HeaderLimit {
    pub(super) period: Period,
    pub(super) meter: usize,
    /// The assumed limit, as a multiple of the stated one.
    times: f64,
    shown: ShownUse,
    /// The time of the last answer that stated it.
    observed_at: Instant,
    /// False once a call was refused while more was assumed than is stated.
    trusts_remaining: bool,
}

/// The use that the answers of some time report.
#[derive(Debug)]
struct ShownUse {
    since: Instant,
    answers: u64,
    /// The most that one of them reports as used.
    most: u64,
}

impl ShownUse {
    fn new(since: Instant) -> Self {
        Self {
            since,
            answers: 0,
            most: 0,
        }
    }
}

impl HeaderLimit {
    /// Returns a new limit. Adds its meter to `meters`.
    pub(super) fn new(headers: &RateLimitHeaders, meters: &mut Vec<Meter>, now: Instant) -> Self {
        let limit = Self {
            period: Period::new(headers, now),
            meter: meters.len(),
            times: 1.0,
            shown: ShownUse::new(now),
            observed_at: now,
            trusts_remaining: true,
        };
        meters.push(Meter::new(limit.amount(), now, None));
        limit
    }

    /// Returns the limit as it is assumed now.
    pub(super) fn amount(&self) -> Amount {
        let period = &self.period;
        let algorithm = if period.limits_short_calls() {
            Algorithm::Smooth
        } else {
            Algorithm::Counted
        };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "limits are positive and far below 2^52"
        )]
        let limit = (period.limit() as f64 * self.times) as u64;
        Amount::PerPeriod {
            dimension: period.dimension(),
            limit,
            per: period.per(),
            algorithm,
            day_in: None,
        }
    }

    /// Applies the headers of an answer to a call that is `age` old.
    pub(super) fn observe(
        &mut self,
        headers: &RateLimitHeaders,
        age: Duration,
        meters: &mut [Meter],
        now: Instant,
    ) {
        if headers.limit != self.period.limit() {
            self.times = 1.0;
            self.trusts_remaining = true;
        }
        if self.period.observe(headers, now) {
            meters[self.meter].resize(self.amount(), now);
        }
        self.observed_at = now;
        if self.trusts_remaining && self.period.limits_short_calls() {
            self.follow_remaining(headers, meters, now);
        }
        self.count_others(headers, age, meters, now);
    }

    /// Counts what the headers report as used and what was not taken here.
    pub(super) fn count_others(
        &self,
        headers: &RateLimitHeaders,
        age: Duration,
        meters: &mut [Meter],
        now: Instant,
    ) {
        let used = headers.limit.saturating_sub(headers.remaining);
        let waits = self.period.returns(headers, age);
        meters[self.meter].used_elsewhere(used, &waits, now);
    }

    /// Notes that a limit refused a call.
    pub(super) fn refused(&mut self, meters: &mut [Meter], now: Instant) {
        if self.times > 1.0 {
            self.trusts_remaining = false;
            self.return_to_stated(meters, now);
        }
    }

    /// Assumes no more than is stated once no answer states it any more.
    pub(super) fn doubt_old_answers(&mut self, meters: &mut [Meter], now: Instant) {
        if self.times > 1.0 && now > self.observed_at + LONGEST_BELIEVED {
            self.return_to_stated(meters, now);
        }
    }

    /// Assumes what is stated. The calls beyond that do not count against it: the answers report what is used.
    fn return_to_stated(&mut self, meters: &mut [Meter], now: Instant) {
        self.times = 1.0;
        meters[self.meter].forget();
        meters[self.meter].resize(self.amount(), now);
    }

    /// Assumes more or less by what the headers report as left.
    fn follow_remaining(&mut self, headers: &RateLimitHeaders, meters: &mut [Meter], now: Instant) {
        let used = headers.limit.saturating_sub(headers.remaining);
        if used * 2 > headers.limit && self.times > 1.0 {
            self.return_to_stated(meters, now);
            return;
        }
        let shown = &mut self.shown;
        shown.answers += 1;
        shown.most = shown.most.max(used);
        let lasted = now - shown.since;
        if lasted < self.period.per() / SHOWN_DIVISOR || shown.answers < SHOWN_ANSWERS {
            return;
        }
        let shown = std::mem::replace(shown, ShownUse::new(now));
        let has_plenty = shown.most * 4 <= headers.limit;
        let refills = shown.most * USED_DIVISOR <= shown.answers;
        if has_plenty && refills && self.times < MOST_TIMES {
            self.times *= STEP;
            meters[self.meter].resize(self.amount(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_providers::cost::LimitDimension;

    const LIMIT: u64 = 600;
    const SECOND: Duration = Duration::from_secs(1);

    fn used(used: u64) -> RateLimitHeaders {
        RateLimitHeaders {
            dimension: LimitDimension::Requests,
            limit: LIMIT,
            remaining: LIMIT - used,
            whole_in: Some(SECOND / 10),
            resolution: Duration::from_millis(20),
            per: Some(60 * SECOND),
        }
    }

    /// Returns the limit that is assumed after a call each tenth of a second, of which the answers report `use_of_call`.
    fn assumed(calls: u64, use_of_call: impl Fn(u64) -> u64) -> (HeaderLimit, Vec<Meter>, Instant) {
        let mut now = Instant::now();
        let mut meters = Vec::new();
        let mut limit = HeaderLimit::new(&used(0), &mut meters, now);
        for call in 0..calls {
            now += SECOND / 10;
            limit.observe(&used(use_of_call(call)), Duration::ZERO, &mut meters, now);
        }
        (limit, meters, now)
    }

    #[test]
    fn a_limit_that_stays_nearly_whole_is_exceeded_until_half_is_left_or_no_answer_says_so() {
        let (mut limit, mut meters, now) = assumed(600, |_| 2);
        assert!(limit.times > 2.0, "{limit:?}");
        limit.observe(&used(310), Duration::ZERO, &mut meters, now);
        assert!(limit.times < 1.01, "{limit:?}");
        let (mut limit, mut meters, now) = assumed(600, |_| 2);
        limit.doubt_old_answers(&mut meters, now + LONGEST_BELIEVED);
        assert!(limit.times > 1.0, "{limit:?}");
        limit.doubt_old_answers(&mut meters, now + LONGEST_BELIEVED + SECOND);
        assert!(limit.times < 1.01, "{limit:?}");
    }

    #[test]
    fn windows_that_begin_again_show_nothing() {
        let (fixed, ..) = assumed(3_000, |call| call % LIMIT);
        let (sliding, ..) = assumed(3_000, |call| call.min(LIMIT));
        assert!(fixed.times < 1.01 && sliding.times < 1.01, "{fixed:?}");
    }

    #[test]
    fn a_refusal_ends_it_for_good() {
        let (mut limit, mut meters, mut now) = assumed(600, |_| 2);
        limit.refused(&mut meters, now);
        for _ in 0..600 {
            now += SECOND / 10;
            limit.observe(&used(2), Duration::ZERO, &mut meters, now);
        }
        assert!(limit.times < 1.01, "{limit:?}");
    }
}
