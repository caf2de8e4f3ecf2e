//! What headers say of limits, in each provider's form.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;

use super::RateLimitHeaders;
use crate::cost::LimitDimension;
use crate::retry_after::{LONGEST, go_duration};

/// No limit is larger; a header that says so is not understood.
const LARGEST_LIMIT: u64 = 1 << 40;
/// A reset further away is a time on somebody's clock, or a mistake.
const LONGEST_RESET: Duration = Duration::from_secs(25 * 60 * 60);
/// How exact a duration with a fraction is.
const EXACT: Duration = Duration::from_millis(20);
/// What a duration in Go's notation has in it that is not of whole seconds.
const FRACTIONS: [&str; 5] = [".", "ms", "us", "µs", "ns"];

/// The headers of one limit. `x-ratelimit-reset` alone has five meanings, so the form is said, never guessed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitHeader {
    counts: LimitDimension,
    limit: String,
    remaining: String,
    reset: Option<String>,
    #[serde(default)]
    form: HeaderForm,
    /// The period in seconds, where the provider documents it.
    per_seconds: Option<u64>,
}

/// A header that tells how long to wait.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitHeader {
    header: String,
    form: HeaderForm,
}

/// How a time to come is written.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HeaderForm {
    /// Go's notation, or whole seconds.
    #[default]
    Duration,
    Seconds,
    /// A time.
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
            HeaderForm::Duration => text
                .parse()
                .ok()
                .map(Duration::from_secs)
                .or_else(|| go_duration(text)),
            HeaderForm::Seconds => seconds(text),
            HeaderForm::Rfc3339 => until(text.parse().ok()?),
            HeaderForm::UnixSeconds => until(Timestamp::from_second(text.parse().ok()?).ok()?),
            HeaderForm::UnixMillis => until(Timestamp::from_millisecond(text.parse().ok()?).ok()?),
        }
    }

    /// How far off what is written may be: "59s" may have been cut off or rounded; what has a fraction was not.
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
    /// What it says; numbers may have thousands commas, and limits that are not positive are not known.
    pub(super) fn read(&self, headers: &HeaderMap, now: Timestamp) -> Option<RateLimitHeaders> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let number = |name: &str| text(name)?.replace(',', "").trim().parse::<u64>().ok();
        let limit = number(&self.limit).filter(|limit| (1..=LARGEST_LIMIT).contains(limit))?;
        let remaining = number(&self.remaining)?.min(limit);
        let reset = self.reset.as_deref().and_then(text);
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

impl WaitHeader {
    pub(super) fn read(&self, headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
        let text = headers.get(&self.header)?.to_str().ok()?;
        Some(self.form.read(text, now)?.min(LONGEST))
    }
}
