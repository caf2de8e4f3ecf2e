//! Limits that are not configured: read from the provider's headers, or found by trying.
//!
//! # Why
//!
//! Most users do not know the limits of their accounts, and providers change them. A fixed guess is too slow, or is
//! refused all the time.
//!
//! # How
//!
//! Headers that state a limit are believed at once: each becomes a meter of its own. While no header states a limit on
//! calls, a search finds their rate. It starts at one call a second and doubles every five seconds until a call is
//! refused. One probe then shows which of two is so: a minute's allowance is spent, or the rate is too high. After that
//! the search keeps a rate slightly below the refused one, and tries a little more from time to time.
//!
//! # Invariants
//!
//! - The searched limit counts only while no header states a limit on calls for a period of up to a minute.
//! - A rate that was used fully without a refusal is a floor: the search falls below it only if a refusal proves otherwise.
//! - Refusals in the 15 s after a step back change nothing at first: the provider's window still contains the excess.
//! - A limit that was found outlives the process.

mod header_limit;
mod lowered;
mod period;
mod rate;
mod recent_calls;
mod search;

pub(super) use lowered::LoweredLimit;
pub(super) use rate::BelievedRate;

use std::time::Duration;

use tokio::time::Instant;

use super::limit::Amount;
use super::meter::{Meter, MeterWait};
use super::saved::FoundLimit;
use forebay_providers::RateLimitHeaders;
use header_limit::HeaderLimit;
use period::Period;
use search::LimitSearch;

/// A call that a limit refused.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefusedCall {
    pub(super) number: u64,
    pub(super) job: u64,
    /// The time at which it was permitted.
    pub(super) granted: Instant,
    /// The wait that the provider stated.
    pub(super) hint: Option<Duration>,
}

/// The learned limits of one model. Their meters are in the account's ledger.
#[derive(Debug)]
pub(super) struct LearnedLimits {
    search: LimitSearch,
    /// The index of the meter of the searched limit.
    searched: usize,
    stated: Vec<HeaderLimit>,
}

impl LearnedLimits {
    /// Begins to learn, and adds the meter of the searched limit to `meters`. A process before this one may have called
    /// up to `spent_at`.
    pub(super) fn new(meters: &mut Vec<Meter>, now: Instant, spent_at: Option<Instant>) -> Self {
        let search = LimitSearch::new(now);
        meters.push(Meter::new(search.amount(), now, spent_at));
        Self {
            search,
            searched: meters.len() - 1,
            stated: Vec::new(),
        }
    }

    /// Returns the indices of the meters that count. The searched one counts only while [`Self::follows_headers`] is false.
    pub(super) fn meters(&self) -> Vec<usize> {
        let searched = (!self.follows_headers()).then_some(self.searched);
        let stated = self.stated.iter();
        let stated = stated.map(|stated| stated.meter);
        searched.into_iter().chain(stated).collect()
    }

    /// Returns the limits as they are assumed now.
    pub(super) fn amounts(&self) -> Vec<Amount> {
        let searched = self.search.amount();
        let searched = (!self.follows_headers()).then_some(searched);
        let stated = self.stated.iter().map(HeaderLimit::amount);
        searched.into_iter().chain(stated).collect()
    }

    /// Returns the periods of the limits that headers state.
    fn periods(&self) -> impl Iterator<Item = &Period> {
        let stated = self.stated.iter();
        stated.map(|stated| &stated.period)
    }

    /// Returns the longest period of the limits that headers state; `None` if they state none.
    pub(super) fn longest_period(&self) -> Option<Duration> {
        self.periods().map(Period::per).max()
    }

    /// Returns true if headers state a limit on calls for a period of up to a minute. Nothing is searched then.
    pub(super) fn follows_headers(&self) -> bool {
        self.periods().any(Period::limits_short_calls)
    }

    /// Returns a description of each limit, for people.
    pub(super) fn describe(&self) -> Vec<String> {
        let amounts = self.amounts();
        let mut limits: Vec<_> = amounts.iter().map(Amount::to_string).collect();
        let is_found = self.search.found().is_some();
        // The searched limit comes first.
        if let Some(searched) = limits.first_mut()
            && !self.follows_headers()
            && !is_found
        {
            searched.insert_str(0, "trying ");
        }
        limits
    }

    /// Returns the limit that the search found; `None` if it is still searching, or headers state the limit.
    pub(super) fn found(&self) -> Option<FoundLimit> {
        if self.follows_headers() {
            None
        } else {
            self.search.found()
        }
    }

    /// Continues from the limit that a process before this one found.
    pub(super) fn resume(&mut self, found: FoundLimit, meters: &mut [Meter], now: Instant) {
        self.search.resume(found, now);
        self.resize(meters, now);
    }

    /// Lets the searched limit grow, if it is time.
    pub(super) fn grow(&mut self, meters: &mut [Meter], now: Instant) {
        let stated = self.stated.iter_mut();
        stated.for_each(|stated| stated.doubt_old_answers(meters, now));
        if !self.follows_headers() && self.search.grow(now) {
            self.resize(meters, now);
        }
    }

    /// Notes that `meter` makes a call wait. Returns true if the call may be sent all the same, as the probe. The probe
    /// tells a spent minute from a rate that was too high.
    pub(super) fn may_pass_as_probe(
        &mut self,
        meter: usize,
        wait: MeterWait,
        now: Instant,
        probing: bool,
    ) -> bool {
        meter == self.searched && self.search.may_pass_as_probe(wait, now, probing)
    }

    /// Notes that `call` is sent as that probe.
    pub(super) fn begin_probe(&mut self, call: u64) {
        self.search.begin_probe(call);
    }

    /// Notes that `call`, permitted at `granted`, was accepted.
    pub(super) fn accepted(
        &mut self,
        call: u64,
        granted: Instant,
        meters: &mut [Meter],
        now: Instant,
    ) {
        if self.search.accepted(call, granted, now) {
            meters[self.searched].forget();
            self.resize(meters, now);
        }
    }

    /// Notes that a limit refused a call.
    pub(super) fn refused(&mut self, call: RefusedCall, meters: &mut [Meter], now: Instant) {
        let taken = meters[self.searched].taken(now);
        self.search.refused(call.granted, taken, call.hint, now);
        if self.search.is_rate() {
            meters[self.searched].forget();
        }
        self.resize(meters, now);
    }

    /// Notes that a limit refused a call while headers state the limit.
    pub(super) fn refused_at_stated(&mut self, meters: &mut [Meter], now: Instant) {
        let stated = self.stated.iter_mut();
        stated.for_each(|stated| stated.refused(meters, now));
    }

    fn resize(&self, meters: &mut [Meter], now: Instant) {
        let amount = self.search.amount();
        meters[self.searched].resize(amount, now);
    }

    /// Applies the rate-limit headers of the answer to a call that is `age` old. Adds a meter to `meters` for each new
    /// limit.
    pub(super) fn observe(
        &mut self,
        headers: &[RateLimitHeaders],
        age: Duration,
        meters: &mut Vec<Meter>,
        now: Instant,
    ) {
        for headers in headers.iter().filter(|headers| headers.limit > 0) {
            self.update(headers, age, meters, now);
        }
        if self.follows_headers() {
            // While the searched meter does not count, it would miss the end of the calls under way.
            meters[self.searched].forget();
        }
    }

    /// Updates the limit that `headers` state. Adds it and its meter, if it is new.
    fn update(
        &mut self,
        headers: &RateLimitHeaders,
        age: Duration,
        meters: &mut Vec<Meter>,
        now: Instant,
    ) {
        let dimension = headers.dimension;
        let mut stated = self.stated.iter_mut();
        match stated.find(|stated| stated.period.dimension() == dimension) {
            Some(stated) => stated.observe(headers, age, meters, now),
            None => {
                let stated = HeaderLimit::new(headers, meters, now);
                stated.count_others(headers, age, meters, now);
                self.stated.push(stated);
            }
        }
    }
}
