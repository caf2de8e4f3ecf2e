//! The answers to calls that a limit refuses, in each vendor's own form.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::account::{Config, LimitHeaders};
use super::admission::{Admission, RefusalReason, RemainingLimits, tightest};
use super::answer::{VendorAnswer, digest};
use super::cost::TokenCount;
use super::limits::{DAY, go_duration, go_duration_rounded, unix_time};
use super::vendor::Vendor;

/// The longest delay that Gemini advises, for any quota.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(38);

/// A refused call.
struct LimitRefusal<'a> {
    account: &'a Config,
    model: &'a str,
    refused: RefusalReason,
    limit: u64,
    used: u64,
    requested: u64,
    /// True if the period of the limit is a day or longer.
    long: bool,
    wait: Option<Duration>,
    now: SystemTime,
}

/// Returns the answer to a call that a limit refuses.
pub(super) fn answer(
    account: &Config,
    admission: &Admission,
    refused: RefusalReason,
    cost: TokenCount,
    model: Option<&str>,
    now: SystemTime,
) -> VendorAnswer {
    let RemainingLimits {
        calls,
        tokens,
        input,
        output,
    } = &admission.left;
    let (rests, requested) = match refused {
        RefusalReason::Calls(_) | RefusalReason::Busy => (calls, 1),
        RefusalReason::Input(_) => (input, cost.input),
        RefusalReason::Output(_) => (output, 0),
        RefusalReason::Tokens(_) => (tokens, cost.tokens),
        RefusalReason::TooLarge if tokens.is_empty() => (input, cost.input),
        RefusalReason::TooLarge => (tokens, cost.tokens),
    };
    // OpenAI reports the tightest limit, the others report the limit that refuses.
    let rest = if account.provider == Vendor::OpenAi {
        None
    } else {
        admission.refusing_limit
    };
    let rest = rest.or_else(|| tightest(rests));
    let refusal = LimitRefusal {
        account,
        model: model.unwrap_or("this-model"),
        refused,
        limit: rest.map_or(0, |rest| rest.limit),
        used: rest.map_or(0, |rest| rest.limit - rest.remaining),
        requested,
        long: rest.is_some_and(|rest| rest.per >= DAY),
        wait: refused.wait(),
        now,
    };
    match account.provider {
        Vendor::OpenAi => refusal.openai(),
        Vendor::Azure => refusal.azure(),
        Vendor::Anthropic => refusal.anthropic(),
        Vendor::Gemini => refusal.gemini(),
        Vendor::Mistral => refusal.mistral(),
        Vendor::Cohere => refusal.cohere(),
        Vendor::Bedrock => refusal.bedrock(),
        Vendor::Ollama => {
            let message = "server busy, please try again.  maximum pending requests exceeded";
            VendorAnswer::json(503, &json!({ "error": message }))
        }
        Vendor::Groq => refusal.groq(),
        Vendor::DeepSeek => refusal.deepseek(),
        Vendor::OpenRouter => refusal.openrouter(),
    }
}

fn as_openai(status: u16, kind: &str, message: &str) -> VendorAnswer {
    let code = "rate_limit_exceeded";
    let body =
        json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
    let id = format!("req_{}", digest(message.as_bytes()));
    VendorAnswer::json(status, &body).with("x-request-id", &id)
}

impl LimitRefusal<'_> {
    fn kind(&self) -> &'static str {
        match self.refused {
            RefusalReason::Calls(_) | RefusalReason::Busy => "requests",
            _ => "tokens",
        }
    }

    fn openai(&self) -> VendorAnswer {
        let (kind, name) = (self.kind(), &self.account.name);
        let (limit, used, requested) = (self.limit, self.used, self.requested);
        let Some(wait) = self.wait else {
            let message = format!(
                "Request too large for organization {name} on {kind} per min: Limit {limit}, Requested \
                 {requested}."
            );
            return as_openai(429, kind, &message);
        };
        if self.account.headers == LimitHeaders::None {
            return as_openai(429, kind, &format!("Rate limit reached for {kind}"));
        }
        let message = format!(
            "Rate limit reached for {kind} in organization {name}: Limit {limit}, Used {used}, Requested \
             {requested}. Please try again in {}ms.",
            wait.as_millis()
        );
        as_openai(429, kind, &message)
    }

    fn azure(&self) -> VendorAnswer {
        let message = match self.wait {
            Some(wait) => format!(
                "Requests to the ChatCompletions_Create Operation under Azure OpenAI API have exceeded {} rate \
                 limit of your current OpenAI S0 pricing tier. Please retry after {} seconds.",
                if self.kind() == "requests" {
                    "call"
                } else {
                    "token"
                },
                wait.as_secs_f64().ceil()
            ),
            None => format!(
                "Request too large for this deployment: Limit {}, Requested {}.",
                self.limit, self.requested
            ),
        };
        VendorAnswer::json(
            429,
            &json!({ "error": { "code": "429", "message": message } }),
        )
    }

    fn anthropic(&self) -> VendorAnswer {
        let what = match self.refused {
            RefusalReason::Output(_) => "output tokens",
            RefusalReason::Calls(_) | RefusalReason::Busy => "requests",
            _ => "input tokens",
        };
        let message = format!(
            "This request would exceed the rate limit for your organization ({}) of {} {what} per minute.",
            self.account.name, self.limit
        );
        let id = format!("req_{}", digest(message.as_bytes()));
        let error = json!({ "type": "rate_limit_error", "message": message });
        let body = json!({ "type": "error", "error": error, "request_id": id });
        VendorAnswer::json(429, &body).with("request-id", &id)
    }

    fn gemini(&self) -> VendorAnswer {
        let (metric, stem) = match (self.kind(), self.long) {
            ("requests", true) => ("requests", "GenerateRequestsPerDayPerProjectPerModel"),
            ("requests", false) => ("requests", "GenerateRequestsPerMinutePerProjectPerModel"),
            (_, true) => (
                "input_token_count",
                "GenerateContentInputTokensPerModelPerDay",
            ),
            (_, false) => (
                "input_token_count",
                "GenerateContentInputTokensPerModelPerMinute",
            ),
        };
        // Gemini advises as short a delay for a spent day as for a spent minute.
        let delay = self.wait.unwrap_or_default().min(MAX_RETRY_DELAY);
        let delay = format!("{:.3}", delay.as_secs_f64());
        let quota = json!({
            "quotaMetric": format!("generativelanguage.googleapis.com/generate_content_free_tier_{metric}"),
            "quotaId": format!("{stem}-FreeTier"),
            "quotaDimensions": { "location": "global", "model": self.model },
            "quotaValue": self.limit.to_string(),
        });
        let mut details = vec![
            json!({ "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [quota] }),
            json!({ "@type": "type.googleapis.com/google.rpc.Help", "links": [{
                "description": "Learn more about Gemini API quotas",
                "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
            }] }),
        ];
        let mut message =
            "You exceeded your current quota, please check your plan and billing details."
                .to_owned();
        if self.account.headers != LimitHeaders::None {
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{delay}s")
            }));
            message = format!("{message} Please retry in {delay}s.");
        }
        let status = "RESOURCE_EXHAUSTED";
        let error =
            json!({ "code": 429, "message": message, "status": status, "details": details });
        VendorAnswer::json(429, &json!({ "error": error }))
    }

    fn mistral(&self) -> VendorAnswer {
        let body = json!({
            "object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "param": null, "code": "1300"
        });
        VendorAnswer::json(429, &body)
    }

    fn cohere(&self) -> VendorAnswer {
        let period = if self.long { "month" } else { "minute" };
        let message = format!(
            "You are using a Trial key, which is limited to {} API calls / {period}. You can continue to use the \
             Trial key for free or upgrade to a Production key with higher rate limits.",
            self.limit
        );
        VendorAnswer::json(
            429,
            &json!({ "id": digest(message.as_bytes()), "message": message }),
        )
    }

    fn bedrock(&self) -> VendorAnswer {
        let what = match (self.kind(), self.long) {
            ("requests", _) => "requests",
            (_, true) => "tokens per day",
            (_, false) => "tokens",
        };
        let message = format!("Too many {what}, please wait before trying again.");
        VendorAnswer::json(429, &json!({ "message": message }))
            .with("x-amzn-errortype", "ThrottlingException")
    }

    fn groq(&self) -> VendorAnswer {
        let (kind, letter) = if self.kind() == "requests" {
            ("requests", "R")
        } else {
            ("tokens", "T")
        };
        let (period, end) = if self.long {
            ("day", "PD")
        } else {
            ("minute", "PM")
        };
        let place = format!(
            "model `{}` in organization `org_{}` service tier `on_demand` on {kind} per {period} ({letter}{end})",
            self.model, self.account.name
        );
        let (limit, used, requested) = (self.limit, self.used, self.requested);
        match self.wait {
            Some(wait) => {
                let wait = go_duration_rounded(wait);
                let message = format!(
                    "Rate limit reached for {place}: Limit {limit}, Used {used}, Requested {requested}. Please try \
                     again in {wait}. Need more tokens? Upgrade to Dev Tier today."
                );
                as_openai(429, kind, &message)
            }
            None => {
                let message = format!(
                    "Request too large for {place}: Limit {limit}, Requested {requested}, please reduce your \
                     message size and try again."
                );
                as_openai(413, kind, &message)
            }
        }
    }

    fn deepseek(&self) -> VendorAnswer {
        let error = json!({
            "message": "Rate limit reached: too many requests at once",
            "type": "rate_limit_reached_error",
            "param": null,
            "code": "rate_limit_reached_error",
        });
        VendorAnswer::json(429, &json!({ "error": error }))
    }

    fn openrouter(&self) -> VendorAnswer {
        let which = if self.long {
            "free-models-per-day"
        } else {
            "free-models-per-min"
        };
        let reset = unix_time(self.now + self.wait.unwrap_or_default());
        let headers = json!({
            "X-RateLimit-Limit": self.limit.to_string(),
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": reset.as_millis().to_string(),
        });
        let metadata = json!({ "headers": headers, "error_type": "rate_limit_exceeded" });
        let wait = go_duration(self.wait.unwrap_or_default());
        let message = format!("Rate limit exceeded: {which}. Try again in {wait}.");
        let error = json!({ "code": 429, "message": message, "metadata": metadata });
        let body: Value =
            json!({ "error": error, "user_id": format!("user_{}", self.account.name) });
        VendorAnswer::json(429, &body)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, UNIX_EPOCH};

    use super::super::admission::LimitedAccount;
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a moment to count from")]
    fn refused(config: &str) -> (u16, String) {
        let account =
            LimitedAccount::new(format!("name=a,key=k,{config}").parse().expect("a config"));
        let now = Instant::now();
        let cost = TokenCount {
            tokens: 400,
            input: 400,
            output: 0,
        };
        let _first = account.admit(cost, now);
        let admission = account.admit(cost, now);
        let why = admission.refused.expect("a refusal");
        let answer = answer(
            account.config(),
            &admission,
            why,
            cost,
            Some("m"),
            UNIX_EPOCH,
        );
        (
            answer.status.as_u16(),
            String::from_utf8(answer.body).expect("text"),
        )
    }

    #[test]
    fn every_vendor_refuses_in_its_own_words() {
        for (config, status, expected) in [
            (
                "limit=1/1m",
                429,
                "Limit 1, Used 1, Requested 1. Please try again in 60000ms.",
            ),
            ("tokens=100/1m", 429, "Request too large for organization a"),
            ("fixture=azure-600,limit=1/1s", 429, r#""code":"429""#),
            (
                "fixture=anthropic-legacy-t1,input_tokens=500/1m",
                429,
                "500 input tokens per minute",
            ),
            (
                "fixture=gemini-free,limit=1/1m",
                429,
                "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
            ),
            (
                "fixture=gemini-free,limit=1/1day",
                429,
                r#""retryDelay":"38.000s""#,
            ),
            ("fixture=mistral-rps", 429, r#""code":"1300""#),
            ("provider=cohere,limit=1/1m", 429, "1 API calls / minute"),
            (
                "fixture=bedrock,tokens=500/1m",
                429,
                "Too many tokens, please wait",
            ),
            (
                "fixture=bedrock,tokens=500/1day",
                429,
                "Too many tokens per day",
            ),
            ("provider=ollama,concurrent=1", 503, "server busy"),
            (
                "fixture=groq-free,tokens=100/1m",
                413,
                "Limit 100, Requested 400",
            ),
            (
                "fixture=groq-free,limit=1/1day",
                429,
                "requests per day (RPD)",
            ),
            (
                "fixture=deepseek,concurrent=1",
                429,
                "rate_limit_reached_error",
            ),
            (
                "provider=openrouter,limit=1/1day",
                429,
                "free-models-per-day",
            ),
        ] {
            let (got, body) = refused(config);
            assert_eq!(got, status, "{config}");
            assert!(body.contains(expected), "{config}: {body}");
        }
    }
}
