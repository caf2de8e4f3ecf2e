//! The wait that a provider requests, read from headers and messages. The time of reading is an
//! argument.
//!
//! Providers write a wait in many forms. One reader knows them all: a number of seconds, a duration with units, a date, and a
//! point in time since the Unix epoch. Of several waits in one reply the longest counts.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

use crate::message::header;

/// The longest wait that is believed: 32 days.
pub const LONGEST: Duration = Duration::from_secs(32 * 24 * 60 * 60);
/// The headers that contain a wait, each with the seconds that its plain number counts.
const HEADERS: [(&str, f64); 3] = [
    ("retry-after", 1.0),
    ("retry-after-ms", 1e-3),
    ("x-ms-retry-after-ms", 1e-3),
];
/// A larger number is no wait in seconds, but a point in time: of 2001 or later.
const FIRST_UNIX_TIME: f64 = 1e9;
/// A larger number is a point in time in milliseconds.
const FIRST_UNIX_MILLIS: f64 = 1e11;
/// The words before a wait in a message.
const PHRASES: [&str; 18] = [
    "again in",
    "again after",
    "again at",
    "retry in",
    "retry after",
    "retry-after",
    "retry_after",
    "retryafter",
    "retry at",
    "request after",
    "request in",
    "wait for",
    "wait",
    "resets in",
    "reset in",
    "resets after",
    "reset after",
    "available in",
];
/// Words between such a phrase and the wait.
const FILLERS: [&str; 8] = [
    "approximately",
    "about",
    "at least",
    "another",
    "around",
    "for",
    "up to",
    "is",
];
/// Units of time with their seconds. Those of several letters precede those with which they begin.
const UNITS: [(&str, f64); 24] = [
    ("milliseconds", 1e-3),
    ("millisecond", 1e-3),
    ("msecs", 1e-3),
    ("msec", 1e-3),
    ("ms", 1e-3),
    ("毫秒", 1e-3),
    ("seconds", 1.0),
    ("second", 1.0),
    ("secs", 1.0),
    ("sec", 1.0),
    ("秒", 1.0),
    ("minutes", 60.0),
    ("minute", 60.0),
    ("mins", 60.0),
    ("min", 60.0),
    ("分钟", 60.0),
    ("hours", 3600.0),
    ("hour", 3600.0),
    ("hrs", 3600.0),
    ("小时", 3600.0),
    ("days", 86400.0),
    ("day", 86400.0),
    ("天", 86400.0),
    ("分", 60.0),
];
/// Units of one letter. No letter may follow them, except for a further digit.
const SHORT_UNITS: [(&str, f64); 4] = [("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];

/// Reads the longest wait in headers. A value that is no wait, is negative or lies in the past gives `None`.
pub fn from_headers(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    HEADERS
        .iter()
        .filter_map(|(name, unit)| read(header(headers, *name)?, *unit, now))
        .max()
}

/// Reads a wait in any form. A plain number counts `unit` seconds.
pub(crate) fn read(text: &str, unit: f64, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(number) = text.parse::<f64>() {
        return of_number(number, unit, now);
    }
    let lower = text.to_lowercase();
    match duration(&lower) {
        Some((wait, "")) => Some(wait),
        _ => until_date(text, now),
    }
}

/// Reads a plain number: a wait, or a point in time since the Unix epoch.
fn of_number(number: f64, unit: f64, now: Timestamp) -> Option<Duration> {
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    let at = match number {
        FIRST_UNIX_MILLIS.. if number < FIRST_UNIX_MILLIS * 100.0 => number / 1e3,
        FIRST_UNIX_TIME..FIRST_UNIX_MILLIS => number,
        _ => return Some(wait_of(number * unit)),
    };
    let since_epoch = Duration::try_from(now.duration_since(Timestamp::UNIX_EPOCH)).ok()?;
    let wait = at - since_epoch.as_secs_f64();
    (wait > 0.0).then(|| wait_of(wait))
}

fn wait_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).map_or(LONGEST, |wait| wait.min(LONGEST))
}

/// Reads an HTTP date, or one of RFC 3339, also with a space for its `T`.
fn until_date(text: &str, now: Timestamp) -> Option<Duration> {
    let of_http = || Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok();
    let at = text.parse().ok().or_else(of_http)?;
    let wait = Duration::try_from(Timestamp::duration_since(at, now)).ok()?;
    (!wait.is_zero()).then(|| wait.min(LONGEST))
}

/// Reads the longest wait in the words of a message, such as `Please try again in 1m2.5s` or `retry after 5 seconds`.
pub fn from_message(message: &str, now: Timestamp) -> Option<Duration> {
    let lower = message.to_lowercase();
    let after_phrase = |phrase: &&str| {
        let found = lower.match_indices(*phrase);
        found
            .filter_map(|(at, phrase)| wait_at(&lower[at + phrase.len()..], phrase, now))
            .max()
    };
    let in_english = PHRASES.iter().filter_map(after_phrase).max();
    in_english.max(before_suffix(&lower))
}

/// Reads the wait that follows `phrase`.
fn wait_at(rest: &str, phrase: &str, now: Timestamp) -> Option<Duration> {
    let is_filling = |c: char| c.is_whitespace() || matches!(c, ':' | '=' | '"' | '\'' | '~' | '(');
    let mut rest = rest.trim_start_matches(is_filling);
    while let Some(after) = FILLERS.iter().find_map(|filler| rest.strip_prefix(filler)) {
        rest = after.trim_start_matches(is_filling);
    }
    if let Some((wait, _)) = duration(rest) {
        return Some(wait);
    }
    let end = rest
        .find([',', '"', '\'', ')', ';', '\n'])
        .unwrap_or(rest.len());
    let clause = rest[..end].trim_end_matches('.');
    // The names of fields are followed by plain numbers.
    if phrase.contains(['_', '-']) || phrase == "retryafter" {
        return read(clause, 1.0, now);
    }
    let first_word = clause.split_whitespace().next()?;
    let is_date = |text: &str| until_date(&text.to_uppercase(), now);
    is_date(clause).or_else(|| is_date(first_word))
}

/// Reads a wait before the Chinese word for `later`, such as `请在 5 秒后重试`.
fn before_suffix(message: &str) -> Option<Duration> {
    let (before, _) = message.split_once('后')?;
    let begins =
        before.rfind(|c: char| !(c.is_ascii_digit() || c == '.' || c == ' ' || is_han_unit(c)))?;
    let text = before[begins..].trim_start_matches(|c: char| !c.is_ascii_digit());
    match duration(text) {
        Some((wait, "")) => Some(wait),
        _ => None,
    }
}

fn is_han_unit(c: char) -> bool {
    matches!(c, '毫' | '秒' | '分' | '钟' | '小' | '时' | '天')
}

/// Reads a duration at the start of a text in lower case, such as `6m0s`, `120ms`, `5 seconds` or `1 hour and 2 minutes`.
/// Returns the rest of the text too.
pub(crate) fn duration(text: &str) -> Option<(Duration, &str)> {
    let mut total: Option<f64> = None;
    let mut rest = text;
    while let Some((number, unit, after)) = part(rest) {
        total = Some(total.unwrap_or(0.0) + number * unit);
        rest = after;
    }
    total.map(|seconds| (wait_of(seconds), rest))
}

/// Reads a number and its unit, and the separator before them.
fn part(text: &str) -> Option<(f64, f64, &str)> {
    let text = text.trim_start_matches([' ', ',']);
    let text = text.strip_prefix("and ").unwrap_or(text);
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..digits].trim_end_matches('.').parse().ok()?;
    let rest = text[digits..].trim_start_matches(' ');
    let long = UNITS
        .iter()
        .find_map(|(name, unit)| Some((*unit, rest.strip_prefix(name)?)));
    let short = || {
        SHORT_UNITS
            .iter()
            .find_map(|(name, unit)| Some((*unit, rest.strip_prefix(name)?)))
            .filter(|(_, after)| !after.starts_with(char::is_alphabetic))
    };
    let (unit, after) = long.or_else(short)?;
    Some((number, unit, after))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T10:00:00Z".parse().expect("a time")
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn every_form_of_the_header_is_read() {
        for (text, expected) in [
            ("3", Some(3_000)),
            ("0.25", Some(250)),
            (" 5s ", Some(5_000)),
            ("6m0s", Some(360_000)),
            ("1500ms", Some(1_500)),
            ("2 minutes", Some(120_000)),
            ("Tue, 24 Nov 2026 10:00:10 GMT", Some(10_000)),
            ("2026-11-24T10:00:10Z", Some(10_000)),
            ("2026-11-24 11:00:10+01:00", Some(10_000)),
            ("1795514410", Some(10_000)),
            ("1795514410.5", Some(10_500)),
            ("1795514410000", Some(10_000)),
            ("1795514390", None),
            ("Tue, 24 Nov 2026 09:00:00 GMT", None),
            ("soon", None),
            ("5 apples", None),
            ("-1", None),
            ("NaN", None),
            ("", None),
        ] {
            let wait = from_headers(&headers(&[("retry-after", text)]), now());
            assert_eq!(wait.map(|wait| wait.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn the_longest_of_several_headers_counts() {
        for (pairs, expected) in [
            (
                vec![("retry-after", "3"), ("retry-after-ms", "1500")],
                3_000,
            ),
            (
                vec![("retry-after", "0"), ("x-ms-retry-after-ms", "1500")],
                1_500,
            ),
            (
                vec![("retry-after", "1"), ("retry-after-ms", "1500")],
                1_500,
            ),
        ] {
            let wait = from_headers(&headers(&pairs), now()).expect("a wait");
            assert_eq!(wait.as_millis(), expected, "{pairs:?}");
        }
        assert_eq!(from_headers(&headers(&[]), now()), None);
    }

    #[test]
    fn no_hint_is_longer_than_32_days() {
        for text in [
            "1e300",
            "99999999",
            "99999999999999h",
            "9999-01-01T00:00:00Z",
        ] {
            let wait = from_headers(&headers(&[("retry-after", text)]), now());
            assert_eq!(wait, Some(LONGEST), "{text}");
        }
        let words = from_message("try again in 99999999999999h", now());
        assert_eq!(words, Some(LONGEST));
    }

    #[test]
    fn a_wait_in_words_is_read() {
        for (message, expected) in [
            ("Please try again in 5.289s. Visit", Some(5_289)),
            ("Please try again in 6m0s.", Some(360_000)),
            ("try again in 120ms", Some(120)),
            ("Please retry in 38.2s.", Some(38_200)),
            ("try again in 1h2m3.5s", Some(3_723_500)),
            (
                "No deployments available, Try again in 5 seconds.",
                Some(5_000),
            ),
            ("Please retry after 5 seconds.", Some(5_000)),
            (
                "Please wait for about 1 minute and 30 seconds",
                Some(90_000),
            ),
            ("Rate limit resets in 2 hours", Some(7_200_000)),
            ("{\"retry_after\": 5.5, \"x\": 1}", Some(5_500)),
            ("Retry-After: 7", Some(7_000)),
            ("try again at 2026-11-24T10:00:10Z.", Some(10_000)),
            ("again in 5s, or retry after 10 seconds", Some(10_000)),
            ("请求过于频繁,请在 5 秒后重试", Some(5_000)),
            ("请1分钟后再试", Some(60_000)),
            ("please try again in a while", None),
            ("please try again later", None),
            ("Limit: 20 requests in 1 minute", None),
            ("wait 20", None),
            ("try again in 5 models", None),
        ] {
            let wait = from_message(message, now());
            assert_eq!(wait.map(|wait| wait.as_millis()), expected, "{message}");
        }
    }
}
