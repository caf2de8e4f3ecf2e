//! The rate-limit headers of answers, in each vendor's own form.

use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::account::{Config, LimitHeaders};
use super::admission::{Admission, tightest};
use super::cost::TokenCount;
use super::vendor::Vendor;
use super::window::RemainingLimit;

const MINUTE: Duration = Duration::from_secs(60);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the rate-limit headers of an answer at `now`.
pub(super) fn headers(
    account: &Config,
    admission: &Admission,
    cost: TokenCount,
    now: SystemTime,
) -> HeaderMap {
    let mut writer = HeaderWriter(HeaderMap::new());
    let vendor = account.provider;
    if account.headers == LimitHeaders::Limits {
        let left = &admission.left;
        match vendor {
            Vendor::OpenAi => {
                writer.as_openai(tightest(&left.calls), tightest(&left.tokens), go_duration)
            }
            Vendor::Azure => {
                writer.as_openai(tightest(&left.calls), tightest(&left.tokens), whole_seconds)
            }
            // Groq reports calls a day and tokens a minute.
            Vendor::Groq => {
                let calls = tightest_of_day(&left.calls, true);
                let tokens = tightest_of_day(&left.tokens, false);
                writer.as_openai(calls, tokens, go_duration_rounded);
            }
            Vendor::Anthropic => writer.as_anthropic(admission, now),
            Vendor::Mistral => writer.as_mistral(admission, cost),
            _ => {}
        }
    }
    if vendor == Vendor::Anthropic {
        writer.set("anthropic-organization-id", &account.name);
    }
    if let Some(wait) = admission.refused.and_then(|refused| refused.wait()) {
        if account.headers != LimitHeaders::None {
            writer.wait(vendor, wait, now);
        }
        if account.headers == LimitHeaders::Limits && vendor == Vendor::OpenRouter {
            writer.as_openrouter(admission.refusing_limit, wait, now);
        }
    }
    writer.0
}

/// Returns the tightest limit whose period is a day or longer, or of those whose period is shorter. If there is none,
/// returns the tightest of all.
fn tightest_of_day(rests: &[RemainingLimit], day: bool) -> Option<RemainingLimit> {
    let mut same = rests.to_vec();
    same.retain(|rest| (rest.per >= DAY) == day);
    tightest(&same).or_else(|| tightest(rests))
}

/// Returns an amount of a limit per minute. A limit whose period is a minute or longer stays as it is.
fn per_minute(rest: RemainingLimit, amount: u64) -> u64 {
    if rest.per >= MINUTE || rest.per.is_zero() {
        return amount;
    }
    let period = rest.per.as_millis().max(1);
    let periods = u64::try_from(MINUTE.as_millis() / period);
    amount * periods.unwrap_or(1)
}

/// The rate-limit headers of one answer, while they are written.
struct HeaderWriter(HeaderMap);

impl HeaderWriter {
    fn set(&mut self, name: &'static str, value: impl Display) {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.0.insert(HeaderName::from_static(name), value);
        }
    }

    fn as_openai(
        &mut self,
        calls: Option<RemainingLimit>,
        tokens: Option<RemainingLimit>,
        format_wait: fn(Duration) -> String,
    ) {
        let names = [
            (
                calls,
                [
                    "x-ratelimit-limit-requests",
                    "x-ratelimit-remaining-requests",
                    "x-ratelimit-reset-requests",
                ],
            ),
            (
                tokens,
                [
                    "x-ratelimit-limit-tokens",
                    "x-ratelimit-remaining-tokens",
                    "x-ratelimit-reset-tokens",
                ],
            ),
        ];
        for (rest, [limit, remaining, reset]) in names {
            if let Some(rest) = rest {
                self.set(limit, rest.limit);
                self.set(remaining, rest.remaining);
                self.set(reset, format_wait(rest.reset_in));
            }
        }
    }

    fn as_anthropic(&mut self, admission: &Admission, now: SystemTime) {
        let left = &admission.left;
        let all = [&left.tokens[..], &left.input, &left.output].concat();
        let names = [
            (
                tightest(&left.calls),
                1,
                [
                    "anthropic-ratelimit-requests-limit",
                    "anthropic-ratelimit-requests-remaining",
                    "anthropic-ratelimit-requests-reset",
                ],
            ),
            (
                tightest(&all),
                1_000,
                [
                    "anthropic-ratelimit-tokens-limit",
                    "anthropic-ratelimit-tokens-remaining",
                    "anthropic-ratelimit-tokens-reset",
                ],
            ),
            (
                tightest(&left.input),
                1_000,
                [
                    "anthropic-ratelimit-input-tokens-limit",
                    "anthropic-ratelimit-input-tokens-remaining",
                    "anthropic-ratelimit-input-tokens-reset",
                ],
            ),
            (
                tightest(&left.output),
                1_000,
                [
                    "anthropic-ratelimit-output-tokens-limit",
                    "anthropic-ratelimit-output-tokens-remaining",
                    "anthropic-ratelimit-output-tokens-reset",
                ],
            ),
        ];
        for (rest, rounding, [limit, remaining, reset]) in names {
            if let Some(rest) = rest {
                self.set(limit, rest.limit);
                let rounded = (rest.remaining + rounding / 2) / rounding * rounding;
                self.set(remaining, rounded);
                self.set(reset, rfc3339(now + rest.reset_in));
            }
        }
    }

    /// Sets Mistral's headers, which state each limit per minute even if its period is shorter.
    fn as_mistral(&mut self, admission: &Admission, cost: TokenCount) {
        if let Some(rest) = tightest(&admission.left.calls) {
            self.set("x-ratelimit-limit-req-minute", per_minute(rest, rest.limit));
            self.set(
                "x-ratelimit-remaining-req-minute",
                per_minute(rest, rest.remaining),
            );
        }
        if let Some(rest) = tightest(&admission.left.tokens) {
            self.set(
                "x-ratelimit-limit-tokens-minute",
                per_minute(rest, rest.limit),
            );
            self.set(
                "x-ratelimit-remaining-tokens-minute",
                per_minute(rest, rest.remaining),
            );
            self.set("x-ratelimit-tokens-query-cost", cost.tokens);
        }
    }

    fn as_openrouter(&mut self, limit: Option<RemainingLimit>, wait: Duration, now: SystemTime) {
        self.set("x-ratelimit-limit", limit.map_or(0, |rest| rest.limit));
        self.set(
            "x-ratelimit-remaining",
            limit.map_or(0, |rest| rest.remaining),
        );
        self.set("x-ratelimit-reset", unix_time(now + wait).as_millis());
    }

    /// Sets the headers in which this vendor states how long to wait.
    fn wait(&mut self, vendor: Vendor, wait: Duration, now: SystemTime) {
        let seconds = whole_seconds(wait);
        match vendor {
            Vendor::OpenAi | Vendor::Azure => {
                self.set("retry-after", &seconds);
                self.set("retry-after-ms", wait.as_micros().div_ceil(1_000));
            }
            Vendor::Anthropic | Vendor::Mistral | Vendor::Groq | Vendor::OpenRouter => {
                self.set("retry-after", &seconds);
            }
            Vendor::Cohere => {
                let reset = unix_time(now + wait).as_secs().saturating_add(1);
                self.set("retry-after", &seconds);
                self.set("x-ratelimit-reset", reset);
            }
            Vendor::Gemini | Vendor::Bedrock | Vendor::Ollama | Vendor::DeepSeek => {}
        }
    }
}

pub(super) fn unix_time(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn rfc3339(time: SystemTime) -> String {
    // Seconds are rounded up, so that the time is never earlier than the reset.
    humantime::format_rfc3339_seconds(time + Duration::from_millis(999)).to_string()
}

fn whole_seconds(wait: Duration) -> String {
    wait.as_secs_f64().ceil().to_string()
}

/// Formats a duration as Go does: `120ms`, `1.5s`, `6m0s`, `1h2m3.5s`.
pub(super) fn go_duration(wait: Duration) -> String {
    let (seconds, millis) = (wait.as_secs(), wait.subsec_millis());
    if seconds == 0 {
        return format!("{millis}ms");
    }
    let rest = format!("{}.{millis:03}", seconds % 60);
    let rest = rest.trim_end_matches('0').trim_end_matches('.');
    match (seconds / 3_600, seconds / 60 % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// Formats a duration as Go does, rounded up to hundredths of a second: `2m59.56s`, `7.66s`.
pub(super) fn go_duration_rounded(wait: Duration) -> String {
    let rounded = wait.as_millis().div_ceil(10) * 10;
    let millis = u64::try_from(rounded).unwrap_or(u64::MAX);
    go_duration(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::admission::LimitedAccount;
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn of(config: &str, name: &str) -> Option<String> {
        let account =
            LimitedAccount::new(format!("name=a,key=k,{config}").parse().expect("a config"));
        let now = Instant::now();
        let cost = TokenCount {
            tokens: 400,
            input: 400,
            output: 0,
        };
        drop(account.admit(cost, now));
        let admission = account.admit(cost, now);
        let headers = headers(account.config(), &admission, cost, UNIX_EPOCH);
        headers
            .get(name)
            .map(|value| value.to_str().expect("text").to_owned())
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (millis, expected) in [
            (120, "120ms"),
            (1_500, "1.5s"),
            (60_000, "1m0s"),
            (360_000, "6m0s"),
            (3_723_500, "1h2m3.5s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), expected);
        }
        assert_eq!(go_duration_rounded(Duration::from_millis(7_654)), "7.66s");
    }

    #[test]
    fn every_vendor_reports_limits_in_its_own_way() {
        let openai = "limit=1/1m,tokens=9000/1m";
        assert_eq!(
            of(openai, "x-ratelimit-reset-requests").as_deref(),
            Some("1m0s")
        );
        assert_eq!(of(openai, "retry-after").as_deref(), Some("60"));
        let azure = "fixture=azure-600,limit=1/10s";
        assert_eq!(of(azure, "x-ratelimit-reset-tokens").as_deref(), Some("60"));
        assert_eq!(of(azure, "retry-after-ms").as_deref(), Some("10000"));
        let anthropic = "fixture=anthropic-legacy-t1,limit=1/1m";
        assert_eq!(
            of(anthropic, "anthropic-ratelimit-input-tokens-remaining").as_deref(),
            Some("30000")
        );
        assert_eq!(
            of(anthropic, "anthropic-ratelimit-requests-reset").as_deref(),
            Some("1970-01-01T00:01:00Z")
        );
        assert_eq!(
            of("fixture=groq-free", "x-ratelimit-limit-requests").as_deref(),
            Some("1000")
        );
        assert_eq!(
            of("fixture=groq-free", "x-ratelimit-limit-tokens").as_deref(),
            Some("8000")
        );
        assert_eq!(
            of("fixture=mistral-rps", "x-ratelimit-limit-req-minute").as_deref(),
            Some("60")
        );
        assert_eq!(of("fixture=gemini-free,limit=1/1m", "retry-after"), None);
        assert_eq!(
            of("provider=cohere,limit=1/1m", "x-ratelimit-reset").as_deref(),
            Some("61")
        );
        assert_eq!(
            of("provider=openrouter,limit=1/1m", "x-ratelimit-reset").as_deref(),
            Some("60000")
        );
    }
}
