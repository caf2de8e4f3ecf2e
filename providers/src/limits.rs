//! Rate-limit headers, in each provider's form.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;

use crate::cost::LimitDimension;
use crate::decoded::RateLimitHeaders;
use crate::message::header;
use crate::retry_after::{LONGEST, duration};

/// The largest limit that is believed. A header with a larger one is ignored.
const LARGEST_LIMIT: u64 = 1 << 40;
/// The longest time to a reset that is believed. A longer one is a time on another clock, or a
/// mistake.
const LONGEST_RESET: Duration = Duration::from_secs(25 * 60 * 60);
/// The largest error of a duration with a fraction.
const EXACT: Duration = Duration::from_millis(20);
/// The marks of a duration in Go's notation that is not in whole seconds.
const FRACTIONS: [&str; 5] = [".", "ms", "us", "µs", "ns"];

/// The headers of one limit. `x-ratelimit-reset` alone has five meanings, so the table states the
/// form and nothing guesses it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitHeader {
    counts: LimitDimension,
    limit: String,
    remaining: String,
    reset: Option<String>,
    #[serde(default)]
    form: HeaderForm,
    /// The period in seconds; `None` where the provider does not document it.
    per_seconds: Option<u64>,
}

/// A header that contains the wait until the next call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitHeader {
    header: String,
    form: HeaderForm,
}

/// The form of a time in the future.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HeaderForm {
    /// Go's notation, or whole seconds.
    #[default]
    Duration,
    Seconds,
    /// A point in time in RFC 3339.
    Rfc3339,
    UnixSeconds,
    UnixMillis,
}

impl HeaderForm {
    fn read(self, text: &str, now: Timestamp) -> Option<Duration> {
        let text = text.trim();
        let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).ok();
        let seconds = |text: &str| Duration::try_from_secs_f64(text.parse().ok()?).ok();
        match self {
            HeaderForm::Duration => match text.parse() {
                Ok(seconds) => Some(Duration::from_secs(seconds)),
                Err(_) => Some(duration(&text.to_lowercase())?.0),
            },
            HeaderForm::Seconds => seconds(text),
            HeaderForm::Rfc3339 => until(text.parse().ok()?),
            HeaderForm::UnixSeconds => until(Timestamp::from_second(text.parse().ok()?).ok()?),
            HeaderForm::UnixMillis => until(Timestamp::from_millisecond(text.parse().ok()?).ok()?),
        }
    }

    /// Returns the largest error of a written time. "59s" may be truncated or rounded; a time with
    /// a fraction is neither.
    fn resolution(self, text: &str) -> Duration {
        let fine = match self {
            HeaderForm::Duration | HeaderForm::Seconds => {
                FRACTIONS.iter().any(|mark| text.contains(mark))
            }
            HeaderForm::Rfc3339 => text.contains('.'),
            HeaderForm::UnixSeconds => false,
            HeaderForm::UnixMillis => true,
        };
        if fine { EXACT } else { Duration::from_secs(1) }
    }
}

impl LimitHeader {
    /// Reads the limit; `None` where a header is missing or cannot be read. Numbers may have
    /// thousands separators. A limit that is not positive counts as unknown.
    pub(super) fn read(&self, headers: &HeaderMap, now: Timestamp) -> Option<RateLimitHeaders> {
        let limit = number(headers, &self.limit)?;
        if !(1..=LARGEST_LIMIT).contains(&limit) {
            return None;
        }
        let remaining = number(headers, &self.remaining)?.min(limit);
        let text = |name: &String| header(headers, name);
        let reset = self.reset.as_ref().and_then(text);
        let whole_in = reset.and_then(|reset| self.form.read(reset, now));
        Some(RateLimitHeaders {
            dimension: self.counts,
            limit,
            remaining,
            whole_in: whole_in.filter(|wait| *wait <= LONGEST_RESET),
            resolution: reset.map_or(Duration::from_secs(1), |reset| self.form.resolution(reset)),
            per: self.per_seconds.map(Duration::from_secs),
        })
    }
}

/// Reads a whole number, with thousands separators or without.
fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    let plain = header(headers, name)?.replace(',', "");
    plain.trim().parse().ok()
}

impl WaitHeader {
    pub(super) fn read(&self, headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
        let text = header(headers, &self.header)?;
        Some(self.form.read(text, now)?.min(LONGEST))
    }
}
