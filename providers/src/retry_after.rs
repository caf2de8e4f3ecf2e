//! The wait that a provider requests, read from headers and messages. The time of reading is an
//! argument.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

use crate::message::header;

/// The longest wait that is believed: 32 days.
pub const LONGEST: Duration = Duration::from_secs(32 * 24 * 60 * 60);

/// Reads the wait from `retry-after-ms` (milliseconds), else from `retry-after` (seconds, or an
/// HTTP date). A value that is not a number, is negative or lies in the past gives `None`.
pub fn from_headers(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let millis = header(headers, "retry-after-ms").and_then(|text| seconds(text, 1e-3));
    if millis.is_some() {
        return millis;
    }
    let text = header(headers, "retry-after")?;
    seconds(text, 1.0).or_else(|| until_date(text, now))
}

fn seconds(text: &str, unit: f64) -> Option<Duration> {
    let number: f64 = text.trim().parse().ok()?;
    let wait = Duration::try_from_secs_f64(number * unit)
        .ok()
        .or((number > 0.0).then_some(LONGEST))?;
    (number.is_finite()).then(|| wait.min(LONGEST))
}

fn until_date(text: &str, now: Timestamp) -> Option<Duration> {
    let date = httpdate::parse_http_date(text.trim()).ok()?;
    let at = Timestamp::try_from(date).ok()?;
    let wait = Duration::try_from(at.duration_since(now)).ok()?;
    Some(wait.min(LONGEST))
}

/// Reads the wait from a message such as `Please try again in 1m2.5s`, `try again in 120ms` or
/// `retry in 38.2s`.
pub fn from_message(message: &str) -> Option<Duration> {
    let lower = message.to_ascii_lowercase();
    let (_, rest) = lower
        .split_once("try again in ")
        .or_else(|| lower.split_once("retry in "))?;
    go_duration(rest)
}

/// Reads a Go duration at the start of `text`: `6m0s`, `120ms`, `1h2m3.5s`.
pub fn go_duration(text: &str) -> Option<Duration> {
    let mut total = None;
    let mut rest = text;
    loop {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let Ok(number) = rest[..digits].trim_end_matches('.').parse::<f64>() else {
            break;
        };
        let units: [(&str, f64); 4] = [("ms", 1e-3), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let Some((unit, scale)) = units
            .into_iter()
            .find(|(unit, _)| rest[digits..].starts_with(unit))
        else {
            break;
        };
        let part = Duration::try_from_secs_f64(number * scale).unwrap_or(LONGEST);
        total = Some(
            total
                .unwrap_or(Duration::ZERO)
                .saturating_add(part)
                .min(LONGEST),
        );
        rest = &rest[digits + unit.len()..];
    }
    total
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

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
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().expect("a time");
        for (pairs, expected) in [
            (vec![("retry-after", "3")], Some(3_000)),
            (vec![("retry-after", "0.25")], Some(250)),
            (
                vec![("retry-after", "3"), ("retry-after-ms", "1500")],
                Some(1_500),
            ),
            (
                vec![("retry-after", "Tue, 24 Nov 2026 10:00:10 GMT")],
                Some(10_000),
            ),
            (vec![("retry-after", "Tue, 24 Nov 2026 09:00:00 GMT")], None),
            (vec![("retry-after", "soon")], None),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "NaN")], None),
            (vec![], None),
        ] {
            let wait = from_headers(&headers(&pairs), now).map(|wait| wait.as_millis());
            assert_eq!(wait, expected, "{pairs:?}");
        }
    }

    #[test]
    fn no_hint_is_longer_than_32_days() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(
            from_headers(&headers(&[("retry-after", "1e300")]), now),
            Some(LONGEST)
        );
        assert_eq!(
            from_headers(&headers(&[("retry-after", "99999999")]), now),
            Some(LONGEST)
        );
        assert_eq!(from_message("try again in 99999999999999h"), Some(LONGEST));
    }

    #[test]
    fn words_are_read_as_go_durations() {
        for (message, expected) in [
            ("Please try again in 5.289s. Visit", Some(5_289)),
            ("Please try again in 6m0s.", Some(360_000)),
            ("try again in 120ms", Some(120)),
            ("Please retry in 38.2s.", Some(38_200)),
            ("try again in 1h2m3.5s", Some(3_723_500)),
            ("please try again in a while", None),
            ("please try again later", None),
        ] {
            assert_eq!(
                from_message(message).map(|wait| wait.as_millis()),
                expected,
                "{message}"
            );
        }
    }
}
