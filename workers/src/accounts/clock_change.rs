//! The state that a process before this one saved, put right where the clock was set since.
//!
//! # Why
//!
//! What is spent of a long limit is saved with the time at which it returns, on the wall clock. A clock that is set between
//! two starts would return it too early, and the limit would be exceeded.
//!
//! # How
//!
//! Every saved time moves with the clock, so it lies as far ahead as before. A calendar day is another one on the clock that
//! was set, and neither clock is known to be right. What was spent therefore returns when the day is over on both.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::limit::{Amount, Limit};
use super::meter::end_of_day;
use super::saved::{AccountState, ModelState, SpentLimits};
use crate::clock::SavedMoment;

/// Calls may have been sent for this long after the state was saved: it is saved each minute while the server is there.
const LONGEST_SINCE_SAVED: Duration = Duration::from_secs(60 * 60);

/// By how much the clock was set, and what follows for the state of limits.
struct ClockChange<'a> {
    by: SignedDuration,
    /// The last time, on the clock as it is now, at which a call was sent that the state counts.
    last_sent: Timestamp,
    limits: &'a [Limit],
}

impl AccountState {
    /// Returns this state of `limits` with its times as the clock shows them `now`.
    pub(crate) fn on_clock(mut self, now: &SavedMoment, limits: &[Limit]) -> Self {
        let Some(saved) = self.saved_at.take() else {
            return self;
        };
        let by = saved.clock_change(now);
        if by.is_zero() {
            return self;
        }
        let change = ClockChange {
            by,
            last_sent: (moved(saved.wall, by) + LONGEST_SINCE_SAVED).min(now.wall),
            limits,
        };
        change.apply_to(&mut self);
        self
    }
}

impl ClockChange<'_> {
    fn apply_to(&self, state: &mut AccountState) {
        let AccountState {
            keys,
            models,
            spent,
            saved_at: _,
        } = state;
        self.move_spent(spent);
        let mut paused: Vec<_> = keys.values_mut().collect();
        for ModelState {
            paused: model,
            spent,
            found: _,
        } in models.values_mut()
        {
            self.move_spent(spent);
            paused.extend(model);
        }
        for paused in paused {
            paused.until = paused.until.map(|at| moved(at, self.by));
        }
    }

    fn move_spent(&self, spent: &mut SpentLimits) {
        for (key, parts) in spent {
            let limit = self.limits.iter().find(|limit| limit.key() == *key);
            let day_over = limit.and_then(|limit| self.day_over(limit));
            for (at, _) in parts {
                let moved = moved(*at, self.by);
                *at = day_over.map_or(moved, |over| over.max(moved));
            }
        }
    }

    /// The end of the day of the last call, on the clock as it is now, if the limit is one of calendar days.
    fn day_over(&self, limit: &Limit) -> Option<Timestamp> {
        match &limit.amount {
            Amount::PerPeriod {
                day_in: Some(zone), ..
            } => Some(end_of_day(self.last_sent, zone)),
            _ => None,
        }
    }
}

/// The time `at` after the clock was set by `by`.
fn moved(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use jiff::tz::TimeZone;
    use tokio::time::Instant;

    use super::*;
    use forebay_providers::cost::LimitDimension;

    use crate::accounts::tests::{ONE, account_on};
    use crate::accounts::{Account, Algorithm, ClockPair};
    use crate::clock::Clock;

    const HOUR: i64 = 3_600;

    fn of_a_day() -> Limit {
        let amount = Amount::PerPeriod {
            dimension: LimitDimension::Requests,
            limit: 100,
            per: Duration::from_secs(24 * 60 * 60),
            algorithm: Algorithm::Counted,
            day_in: Some(TimeZone::UTC),
        };
        Limit {
            amount,
            models: None,
        }
    }

    /// The moment `seconds` after the machine's start, on a clock that is wrong by `wrong` seconds. In truth the machine
    /// started at ten.
    fn moment(seconds: i64, wrong: i64) -> SavedMoment {
        let truth: Timestamp = "2026-11-24T10:00:00Z".parse().expect("a time");
        SavedMoment {
            wall: truth + SignedDuration::from_secs(seconds + wrong),
            since_boot_ms: u64::try_from(seconds * 1_000).expect("after the start"),
            boot: Some("one".to_owned()),
        }
    }

    #[test]
    fn a_spent_day_returns_no_sooner_than_the_true_one_ends_however_the_clock_is_set_between_starts()
     {
        let limit = of_a_day();
        let days = [-72, -24, -15, -2, 0, 2, 15, 24].map(|hours| hours * HOUR);
        for (before, after) in days.iter().flat_map(|one| days.map(|two| (*one, two))) {
            // Spent when the clock was right, or saved by a start that had put it on a wrong clock.
            let first = moment(0, 0);
            let spent = end_of_day(first.wall, &TimeZone::UTC);
            let mut state = AccountState {
                spent: [(limit.key(), vec![(spent, 100)])].into(),
                saved_at: Some(first),
                ..AccountState::default()
            };
            for (start, wrong) in [(60, before), (120, after), (180, before)] {
                let now = moment(start, wrong);
                state = state.on_clock(&now, std::slice::from_ref(&limit));
                let returns_at = state.spent[&limit.key()][0].0;
                let in_truth = returns_at - SignedDuration::from_secs(wrong);
                assert!(in_truth >= spent, "{before} {after} {start}: {in_truth}");
                state.saved_at = Some(now);
            }
        }
    }

    #[test]
    fn a_day_that_was_spent_on_a_wrong_clock_lasts_as_long_as_the_true_one() {
        let limit = of_a_day();
        let true_end = end_of_day(moment(0, 0).wall, &TimeZone::UTC);
        let wrong = [-72, -24, -15, -2, 2, 15, 24].map(|hours| (hours * HOUR, 0));
        for (before, after) in wrong.into_iter().chain([(-72 * HOUR, 2 * HOUR)]) {
            let first = moment(0, before);
            let spent = end_of_day(first.wall, &TimeZone::UTC);
            let state = AccountState {
                spent: [(limit.key(), vec![(spent, 100)])].into(),
                saved_at: Some(first),
                ..AccountState::default()
            };
            let state = state.on_clock(&moment(60, after), std::slice::from_ref(&limit));
            let in_truth = state.spent[&limit.key()][0].0 - SignedDuration::from_secs(after);
            assert!(in_truth >= true_end, "{before} {after}: {in_truth}");
        }
    }

    /// A clock that can be set. The machine runs on meanwhile.
    #[derive(Debug)]
    struct SettableClock {
        started: Instant,
        /// The hours by which it is wrong.
        wrong: AtomicI64,
    }

    impl Clock for SettableClock {
        fn now(&self) -> Timestamp {
            let truth: Timestamp = "2026-11-24T10:00:00Z".parse().expect("a time");
            let wrong = SignedDuration::from_hours(self.wrong.load(Ordering::Relaxed));
            truth + self.started.elapsed() + wrong
        }

        fn since_boot(&self) -> Duration {
            self.started.elapsed()
        }

        fn boot(&self) -> Option<String> {
            Some("one".to_owned())
        }
    }

    /// Makes every call that an account allows now. Returns their number.
    fn spend_all(account: &Arc<Account>) -> usize {
        let now = Instant::now();
        let permits = std::iter::from_fn(|| account.reserve("m", ONE, now).ok());
        let sent = permits.map(|permit| permit.send_marker().sent(now));
        sent.count()
    }

    #[tokio::test(start_paused = true)]
    async fn no_day_has_more_calls_than_its_limit_however_the_clock_is_set_between_two_starts() {
        let cases = [
            (-72, 2),
            (0, -72),
            (-72, 0),
            (0, 2),
            (2, 0),
            (0, 24),
            (24, 0),
            (0, -24),
            (-24, 0),
            (0, 15),
            (-15, 0),
            (0, 0),
        ];
        for (before, after) in cases {
            let clock = Arc::new(SettableClock {
                started: Instant::now(),
                wrong: AtomicI64::new(before),
            });
            let start = || account_on(vec![of_a_day()], 1, None, clock.clone());
            let moment = || ClockPair {
                instant: Instant::now(),
                wall: clock.now(),
            };
            let first = start();
            assert_eq!(spend_all(&first), 100);
            let saved = AccountState {
                saved_at: Some(SavedMoment::of(clock.as_ref())),
                ..first.saved_state(false, moment())
            };
            tokio::time::advance(Duration::from_secs(60)).await;
            clock.wrong.store(after, Ordering::Relaxed);
            let second = start();
            let now = SavedMoment::of(clock.as_ref());
            second.resume(&saved.on_clock(&now, &[of_a_day()]), moment());
            // Until a little before the true midnight, and for a day and a night more.
            for _ in 0..27 {
                assert_eq!(spend_all(&second), 0, "{before} {after}: {}", clock.now());
                tokio::time::advance(Duration::from_secs(30 * 60)).await;
            }
            tokio::time::advance(Duration::from_secs(38 * 60 * 60)).await;
            assert_eq!(spend_all(&second), 100, "{before} {after}: it comes back");
        }
    }

    #[test]
    fn a_pause_lasts_as_long_as_before_when_the_clock_is_set() {
        let first = moment(0, 0);
        let paused = super::super::PausedState {
            until: Some(first.wall + SignedDuration::from_secs(600)),
            reason: Some(forebay_schemas::Class::RateLimited),
        };
        let state = AccountState {
            keys: [("key".to_owned(), paused)].into(),
            saved_at: Some(first),
            ..AccountState::default()
        };
        let now = moment(60, -72 * HOUR);
        let until = state.on_clock(&now, &[]).keys["key"].until;
        assert_eq!(until, Some(now.wall + SignedDuration::from_secs(540)));
    }
}
