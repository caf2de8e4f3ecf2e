//! The period of a limit. Headers state a limit and the time until all of it is back, but not the period. It follows
//! from how the two move.

use std::time::Duration;

use tokio::time::Instant;

use forebay_providers::RateLimitHeaders;
use forebay_providers::cost::LimitDimension;

/// The periods that providers use, in seconds.
const PERIODS: [u32; 4] = [1, 60, 3_600, 86_400];
/// The index of the period that is assumed while nothing shows another.
const MINUTE_INDEX: usize = 1;
/// Least number of recent answers that replace all earlier ones.
const MIN_ANSWERS: u32 = 20;
/// Least time that these answers must span, which is longer than most windows.
const MIN_SPAN: Duration = Duration::from_secs(120);
/// Largest deviation of a bucket's refill time from the one that its period implies, as a part of the latter.
const TOLERANCE: f64 = 0.25;

/// The period of one limit.
///
/// A bucket is whole again after the used part of its period; a window a period after its last call, or
/// its first. Each answer rules out the buckets that do not fit it. The longest bucket that fits all answers is taken:
/// a period that is too long costs time, and one that is too short costs refusals. If no bucket fits, the shortest
/// window that fits is taken.
#[derive(Debug)]
pub(super) struct Period {
    dimension: LimitDimension,
    limit: u64,
    /// The index of the period that the provider documents; `None` if it is inferred.
    documented: Option<usize>,
    /// True for each period whose bucket fits all answers.
    buckets: [bool; PERIODS.len()],
    /// The longest time until the whole limit is back that an answer stated.
    longest: Option<Duration>,
    /// The same for recent answers alone, so that one odd answer is not believed for ever.
    recent: RecentAnswers,
}

#[derive(Debug)]
struct RecentAnswers {
    since: Instant,
    answers: u32,
    buckets: [bool; PERIODS.len()],
    longest: Option<Duration>,
}

impl RecentAnswers {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            answers: 0,
            buckets: [true; PERIODS.len()],
            longest: None,
        }
    }
}

impl Period {
    pub(super) fn new(headers: &RateLimitHeaders, now: Instant) -> Self {
        let is_documented = |per: &u32| headers.per == Some(Duration::from_secs((*per).into()));
        let mut period = Self {
            dimension: headers.dimension,
            limit: headers.limit,
            documented: PERIODS.iter().position(is_documented),
            buckets: [true; PERIODS.len()],
            longest: None,
            recent: RecentAnswers::new(now),
        };
        period.apply(headers, now);
        period
    }

    pub(super) fn dimension(&self) -> LimitDimension {
        self.dimension
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    fn index(&self) -> usize {
        if let Some(documented) = self.documented {
            return documented;
        }
        let Some(longest) = self.longest else {
            return MINUTE_INDEX;
        };
        let is_window = |per: &u32| longest.as_secs_f64() <= f64::from(*per) * 1.02;
        let bucket = self.buckets.iter().rposition(|fits| *fits);
        bucket
            .or_else(|| PERIODS.iter().position(is_window))
            .unwrap_or(PERIODS.len() - 1)
    }

    pub(super) fn per(&self) -> Duration {
        Duration::from_secs(u64::from(PERIODS[self.index()]))
    }

    /// Returns true if the limit is on calls, for a period of up to a minute.
    pub(super) fn limits_short_calls(&self) -> bool {
        self.dimension == LimitDimension::Requests && self.is_short()
    }

    /// Returns true if the period is a minute or less.
    fn is_short(&self) -> bool {
        self.index() <= MINUTE_INDEX
    }

    /// Applies the headers of an answer. Returns true if the limit or its period changes.
    pub(super) fn observe(&mut self, headers: &RateLimitHeaders, now: Instant) -> bool {
        let before = (self.limit, self.per());
        if headers.limit != self.limit {
            *self = Self::new(headers, now);
        } else {
            self.apply(headers, now);
        }
        before != (self.limit, self.per())
    }

    fn apply(&mut self, headers: &RateLimitHeaders, now: Instant) {
        let used = headers.limit.saturating_sub(headers.remaining);
        let Some(whole_in) = headers.whole_in.filter(|_| used > 0) else {
            return;
        };
        let recent = &mut self.recent;
        self.longest = self.longest.max(Some(whole_in));
        recent.longest = recent.longest.max(Some(whole_in));
        for (index, per) in PERIODS.into_iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
            let expected = used as f64 / headers.limit as f64 * f64::from(per);
            let allowed = expected * TOLERANCE + headers.resolution.as_secs_f64();
            let fits = (whole_in.as_secs_f64() - expected).abs() <= allowed;
            self.buckets[index] &= fits;
            recent.buckets[index] &= fits;
        }
        recent.answers += 1;
        if recent.answers >= MIN_ANSWERS && now >= recent.since + MIN_SPAN {
            let RecentAnswers {
                buckets, longest, ..
            } = std::mem::replace(recent, RecentAnswers::new(now));
            (self.buckets, self.longest) = (buckets, longest);
        }
    }

    /// Returns the waits after which the used part is back: one for a window, ten equal parts for a bucket. The headers
    /// are up to `age` old.
    pub(super) fn returns(&self, headers: &RateLimitHeaders, age: Duration) -> Vec<Duration> {
        let per = self.per();
        let whole_in = headers.whole_in.unwrap_or(per).min(per);
        let whole_in = whole_in.saturating_sub(age);
        if whole_in.is_zero() {
            return Vec::new();
        }
        let parts = if self.buckets.contains(&true) { 10 } else { 1 };
        (1..=parts).map(|part| whole_in * part / parts).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(limit: u64, used: u64, whole_in: f64) -> RateLimitHeaders {
        RateLimitHeaders {
            dimension: LimitDimension::Requests,
            limit,
            remaining: limit - used,
            whole_in: Some(Duration::from_secs_f64(whole_in)),
            resolution: Duration::from_millis(20),
            per: None,
        }
    }

    fn period(seen: &[(u64, u64, f64)]) -> u64 {
        let mut seen = seen
            .iter()
            .map(|(limit, used, whole_in)| headers(*limit, *used, *whole_in));
        let now = Instant::now();
        let mut period = Period::new(&seen.next().expect("an answer"), now);
        seen.for_each(|headers| {
            period.observe(&headers, now);
        });
        period.per().as_secs()
    }

    #[test]
    fn a_bucket_reveals_its_period_with_one_answer() {
        assert_eq!(period(&[(60, 1, 1.0)]), 60);
        assert_eq!(period(&[(500, 1, 0.12)]), 60);
        assert_eq!(period(&[(200, 1, 432.0)]), 86_400);
        assert_eq!(period(&[(10_000, 1, 0.006)]), 60);
        assert_eq!(period(&[(150_000, 16, 0.006)]), 60);
    }

    #[test]
    fn a_window_reveals_its_period_with_two_answers() {
        assert_eq!(period(&[(600, 1, 60.0)]), 60);
        assert_eq!(
            period(&[(60, 1, 60.0)]),
            3_600,
            "an hour's bucket would say the same"
        );
        assert_eq!(period(&[(60, 1, 60.0), (60, 2, 59.0)]), 60);
        assert_eq!(period(&[(10, 1, 1.0), (10, 5, 0.9)]), 1);
        assert_eq!(period(&[(1_000, 300, 40_000.0)]), 86_400);
    }

    #[test]
    fn one_odd_answer_is_not_believed_for_ever() {
        let start = Instant::now();
        let mut period = Period::new(&headers(500, 1, 86_400.0), start);
        for answer in 0..100 {
            period.observe(
                &headers(500, 1, 0.12),
                start + Duration::from_secs(3 * answer),
            );
        }
        assert_eq!(period.per().as_secs(), 60);
    }

    #[test]
    fn another_limit_begins_again_and_no_reset_means_a_minute() {
        assert_eq!(period(&[(60, 1, 60.0), (120, 1, 0.5)]), 60);
        let silent = RateLimitHeaders {
            whole_in: None,
            ..headers(60, 1, 0.0)
        };
        assert_eq!(Period::new(&silent, Instant::now()).per().as_secs(), 60);
    }
}
