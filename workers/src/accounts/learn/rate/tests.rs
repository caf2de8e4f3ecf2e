use std::collections::VecDeque;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

/// A provider that allows some calls in each period of ten seconds.
struct Provider {
    window: VecDeque<Instant>,
    level: f64,
    refilled_at: Instant,
    is_bucket: bool,
}

const PERIOD: Duration = Duration::from_secs(10);

impl Provider {
    fn new(is_bucket: bool, now: Instant) -> Self {
        Self {
            window: VecDeque::new(),
            level: 0.0,
            refilled_at: now,
            is_bucket,
        }
    }

    /// Returns true if it accepts a call.
    fn accepts(&mut self, limit: usize, now: Instant) -> bool {
        let most = limit as f64;
        let refilled = (now - self.refilled_at).as_secs_f64() * most / PERIOD.as_secs_f64();
        self.level = (self.level + refilled).min(most);
        self.refilled_at = now;
        while self.window.front().is_some_and(|at| *at + PERIOD <= now) {
            self.window.pop_front();
        }
        let accepts = match self.is_bucket {
            true => self.level >= 1.0,
            false => self.window.len() < limit,
        };
        if accepts {
            self.level -= 1.0;
            self.window.push_back(now);
        }
        accepts
    }
}

/// Calls made against a provider at the rate of a search.
struct Calls {
    now: Instant,
    made: u64,
    recent: RecentCalls,
    search: RateSearch,
    provider: Provider,
}

const BELIEVED: BelievedRate = BelievedRate {
    rate: 10.0,
    period: PERIOD,
};

impl Calls {
    fn new(is_bucket: bool) -> Self {
        let now = Instant::now();
        Self {
            now,
            made: 0,
            recent: RecentCalls::default(),
            search: RateSearch::new(BELIEVED.rate, now, 0),
            provider: Provider::new(is_bucket, now),
        }
    }

    /// Makes calls for some seconds. Returns the accepted calls a second and the number of refused ones.
    fn make_for(&mut self, seconds: u64, limit: usize) -> (f64, u32) {
        let until = self.now + Duration::from_secs(seconds);
        let (mut accepted, mut refused) = (0.0, 0);
        while self.now < until {
            self.search.note_wait();
            self.search.grow(BELIEVED, self.now);
            self.now += Duration::from_secs_f64(1.0 / self.search.rate());
            self.made += 1;
            self.recent.began(self.made, self.now);
            if self.provider.accepts(limit, self.now) {
                self.search.accepted();
                accepted += 1.0;
                continue;
            }
            refused += 1;
            self.recent.refused(self.made);
            let granted = self.now;
            self.now += MILLI;
            self.search
                .refused(granted, BELIEVED, &self.recent, self.now);
            self.now += SECOND;
        }
        (accepted / seconds as f64, refused)
    }
}

#[test]
fn a_rate_that_was_halved_is_found_within_two_periods_and_kept_with_few_refusals() {
    for is_bucket in [false, true] {
        let mut calls = Calls::new(is_bucket);
        calls.make_for(20, 50);
        let (rate, refused) = calls.make_for(600, 50);
        assert!((4.7..=5.1).contains(&rate), "{is_bucket}: {rate}");
        assert!(refused <= 15, "{is_bucket}: {refused} of 3,000");
    }
}

#[test]
fn a_limit_that_was_raised_again_is_reached_after_the_pause() {
    for is_bucket in [false, true] {
        let mut calls = Calls::new(is_bucket);
        calls.make_for(60, 50);
        calls.make_for(100, 120);
        let (rate, refused) = calls.make_for(60, 120);
        assert!(rate > 9.9 && refused == 0, "{is_bucket}: {rate} {refused}");
    }
}

#[test]
fn a_refusal_at_the_expected_pace_is_one_of_margins() {
    let mut calls = Calls::new(false);
    calls.make_for(9, 100);
    let early = calls
        .search
        .refused(calls.now, BELIEVED, &calls.recent, calls.now);
    assert!(early && calls.search.rate() > 9.5, "{:?}", calls.search);
}

#[test]
fn a_call_that_was_under_way_lowers_the_rate_to_what_it_shows_alone() {
    let mut calls = Calls::new(false);
    calls.make_for(60, 50);
    let rate = calls.search.rate();
    let before = calls.search.since - MILLI;
    let early = calls
        .search
        .refused(before, BELIEVED, &calls.recent, calls.now);
    assert!(!early && calls.search.rate() >= rate, "{:?}", calls.search);
    let early = calls
        .search
        .refused(before, BELIEVED, &RecentCalls::default(), calls.now);
    assert!(
        !early && calls.search.rate() < rate / 1.9,
        "{:?}",
        calls.search
    );
}
