//! OpenAI chat completions and embeddings, and every server that speaks them.

use std::time::Duration;

use forebay_schemas::job::Object;
use forebay_schemas::{Class, Job, Response, Usage};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Adapter, Decoded, Figures, Scope, estimate};
use crate::cost::{Cost, Dimension, Together};
use crate::retry_after;
use crate::secret::Secret;
use crate::upstream::{Reply, Request};

/// The calls that this dialect has, as OpenAI's paths.
const PATHS: [&str; 2] = ["/v1/chat/completions", "/v1/embeddings"];
/// Codes that say that the account has no such model.
const MODEL_CODES: [&str; 2] = ["model_not_found", "DeploymentNotFound"];
/// The most answer tokens that are reserved: more than any model gives.
const MOST_ANSWER_TOKENS: u64 = 10_000_000;
/// The fields of a body that make its prompt.
/// Longest name of a request that is repeated, in characters.
const LONGEST_REQUEST_ID: usize = 200;
const PROMPT: [&str; 5] = ["messages", "input", "tools", "functions", "response_format"];
/// Answer tokens that are reserved where a request sets no maximum.
const UNSTATED_ANSWER_TOKENS: u64 = 1024;

/// No limit is larger; a header that says so is not understood.
const LARGEST_LIMIT: u64 = 1 << 40;
/// A reset further away is a time on somebody's clock, or a mistake.
const LONGEST_RESET: Duration = Duration::from_secs(25 * 60 * 60);
/// No call has more tokens; an answer that says so is not understood.
const MOST_TOKENS: u64 = 1 << 40;
/// How exact a Go duration in a header is.
const EXACT: Duration = Duration::from_millis(20);
/// What a duration in Go's notation has in it that is not of whole seconds.
const FRACTIONS: [&str; 5] = [".", "ms", "us", "µs", "ns"];

/// OpenAI's dialect.
#[derive(Debug)]
pub(super) struct OpenAi;

impl Adapter for OpenAi {
    fn encode(&self, job: &Job, model: &str, base_url: &str) -> Result<Request, String> {
        let Some(path) = PATHS.iter().find(|path| **path == job.url) else {
            return Err(format!(
                "field `url`: `{}` is not supported, use one of {}",
                job.url,
                PATHS.join(", ")
            ));
        };
        let mut body: Object = job.body.clone();
        let model = serde_json::value::to_raw_value(model).map_err(|error| error.to_string())?;
        body.insert("model".to_owned(), model);
        let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let path = path.trim_start_matches("/v1");
        Ok(Request {
            url: format!("{}{path}", base_url.trim_end_matches('/')),
            headers,
            body: body.into(),
            account: String::new(),
        })
    }

    fn authorise(&self, headers: &mut HeaderMap, secret: &Secret) -> Result<(), String> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", secret.expose()))
            .map_err(|_| "the key holds characters that cannot stand in a header".to_owned())?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(())
    }

    /// OpenAI admits a call by the larger of its `max_tokens` and an estimate from its length (vendor's
    /// documentation, mid-2026).
    fn admission_cost(&self, job: &Job, model: &str) -> Cost {
        let number = |field: &str| job.body.get(field).and_then(|raw| raw.get().parse::<u64>().ok());
        let parts = job.body.iter().filter(|(key, _)| PROMPT.contains(&key.as_str()));
        let parts =
            parts.filter_map(|(key, raw)| Some((key, serde_json::from_str::<Value>(raw.get()).ok()?)));
        let prompt: usize = parts.map(|(key, part)| tokens(model, key, &part)).sum();
        let answer = match job.url.as_str() {
            "/v1/embeddings" => 0,
            _ => number("max_completion_tokens")
                .or_else(|| number("max_tokens"))
                .map_or(UNSTATED_ANSWER_TOKENS, |most| most.min(MOST_ANSWER_TOKENS)),
        };
        Cost { requests: 1, input_tokens: prompt as u64, output_tokens: answer, together: Together::Larger }
    }

    fn settles(&self) -> bool {
        false
    }

    /// `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`: numbers, some with thousands commas, and a Go
    /// duration until all is back (vendor's documentation, mid-2026). Azure writes it in whole seconds, and
    /// 0 or -1 for limits that it does not know.
    fn observe(&self, headers: &HeaderMap) -> Vec<Figures> {
        let kinds = [("requests", Dimension::Requests), ("tokens", Dimension::Tokens)];
        kinds.into_iter().filter_map(|(name, dimension)| figures(headers, name, dimension)).collect()
    }

    fn decode(&self, reply: &Reply, now: Timestamp) -> Decoded {
        let raw: Option<Box<RawValue>> = serde_json::from_slice(&reply.body).ok();
        let retry_after = retry_after::from_headers(&reply.headers, now);
        let request_id = reply.headers.get("x-request-id").and_then(|id| id.to_str().ok());
        let request_id = request_id.map(|id| id.chars().take(LONGEST_REQUEST_ID).collect());
        let error = (reply.status >= 400).then(|| ErrorBody::read(&reply.body));
        let class = match (&error, &raw) {
            (Some(error), _) => Some(classify(reply.status, error)),
            (None, None) => Some(Class::MalformedResponse),
            (None, Some(_)) if !(200..300).contains(&reply.status) => Some(Class::BadRequest),
            (None, Some(_)) => None,
        };
        let usage = raw.as_ref().filter(|_| class.is_none()).and_then(|raw| usage(raw.get()));
        let error = error.unwrap_or_default();
        let scope = match class {
            Some(Class::BadKey) => Scope::Key,
            // A 403 without a code can be about a moderated prompt as well as about the model.
            Some(Class::ModelNotAllowed) if !error.is(&MODEL_CODES) => Scope::Request,
            _ => Scope::Model,
        };
        let hint = retry_after.or_else(|| retry_after::from_message(error.message.as_deref()?));
        let body = raw.or_else(|| (reply.status >= 400).then(|| text_as_json(&reply.body)).flatten());
        Decoded {
            class,
            response: body.map(|body| Response { status_code: reply.status, request_id, body }),
            code: error.code.or(error.kind),
            message: error.message,
            usage,
            retry_after: hint,
            scope,
        }
    }
}

/// Tokens of a part of a request's body: as the model's tokenizer counts them, if that is here, else likely.
#[cfg_attr(
    not(feature = "exact-tokens"),
    expect(unused_variables, reason = "an estimate is the same for all models")
)]
fn tokens(model: &str, name: &str, part: &Value) -> usize {
    #[cfg(feature = "exact-tokens")]
    if let Some(exact) = super::exact::tokens(model, name, part) {
        return exact;
    }
    estimate::tokens(part)
}

fn figures(headers: &HeaderMap, name: &str, dimension: Dimension) -> Option<Figures> {
    let text = |part: &str| headers.get(format!("x-ratelimit-{part}-{name}"))?.to_str().ok();
    let number = |part: &str| text(part)?.replace(',', "").trim().parse::<u64>().ok();
    let limit = number("limit").filter(|limit| (1..=LARGEST_LIMIT).contains(limit))?;
    let remaining = number("remaining")?.min(limit);
    let reset = text("reset").map(str::trim);
    let whole_seconds = reset.and_then(|text| text.parse().ok()).map(Duration::from_secs);
    // "59s" may have been cut off or rounded; what has a fraction was not.
    let has_fraction = reset.is_some_and(|text| FRACTIONS.iter().any(|mark| text.contains(mark)));
    let resolution = if has_fraction { EXACT } else { Duration::from_secs(1) };
    let whole_in = whole_seconds.or_else(|| retry_after::go_duration(reset?));
    let whole_in = whole_in.filter(|wait| *wait <= LONGEST_RESET);
    Some(Figures { dimension, limit, remaining, whole_in, resolution })
}

/// An error body that is not JSON, as a JSON string: at most its first 2,000 characters.
fn text_as_json(body: &[u8]) -> Option<Box<RawValue>> {
    let text: String = String::from_utf8_lossy(body).chars().take(2_000).collect();
    serde_json::value::to_raw_value(&text).ok()
}

#[derive(Debug, Default)]
struct ErrorBody {
    message: Option<String>,
    kind: Option<String>,
    code: Option<String>,
}

impl ErrorBody {
    /// Reads `{"error":{"message","type","code"}}`, `{"error":"text"}` and `{"message","type","code"}`;
    /// `code` may be a number.
    fn read(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return Self::default() };
        let error = value.get("error").unwrap_or(&value);
        if let Value::String(message) = error {
            return Self { message: Some(message.clone()), ..Self::default() };
        }
        let text = |field| match error.get(field) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        Self { message: text("message"), kind: text("type"), code: text("code") }
    }

    fn says(&self, words: &[&str]) -> bool {
        let message = self.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        words.iter().any(|word| message.contains(word))
    }

    fn is(&self, names: &[&str]) -> bool {
        [&self.code, &self.kind].into_iter().flatten().any(|name| names.contains(&name.as_str()))
    }
}

/// OpenAI's codes first, then its words, then the status.
fn classify(status: u16, error: &ErrorBody) -> Class {
    if error.is(&[
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    ]) {
        return Class::BillingStop;
    }
    if status == 429 || status == 413 {
        if error.says(&["request too large"]) {
            return Class::ExceedsKeyLimit;
        }
        if error.is(&["slow_down"]) {
            return Class::RampLimited;
        }
        if error.says(&["resource unavailable"]) {
            return Class::Overloaded;
        }
        if status == 429 {
            return by_period(error);
        }
    }
    if error.is(&["invalid_api_key"]) {
        return Class::BadKey;
    }
    if error.is(&MODEL_CODES) {
        return Class::ModelNotAllowed;
    }
    if error.is(&["context_length_exceeded", "exceed_context_size_error"])
        || error.says(&["maximum context length", "exceeds the available context size", "prompt is too long"])
    {
        return Class::ContextTooLong;
    }
    if error.is(&["content_policy_violation", "content_filter", "invalid_prompt"])
        || error.says(&["content management policy", "as a result of our safety system"])
    {
        return Class::ContentFiltered;
    }
    by_status(status)
}

/// A limit per day is spent until its reset; any other is short.
fn by_period(error: &ErrorBody) -> Class {
    if error.says(&["per day", "(rpd)", "(tpd)"]) { Class::QuotaExhausted } else { Class::RateLimited }
}

fn by_status(status: u16) -> Class {
    match status {
        401 => Class::BadKey,
        402 => Class::BillingStop,
        403 => Class::ModelNotAllowed,
        408 | 409 | 424 | 500 | 502 | 504 | 524 => Class::ServerError,
        429 => Class::RateLimited,
        503 | 529 => Class::Overloaded,
        status if status >= 500 => Class::ServerError,
        _ => Class::BadRequest,
    }
}

#[derive(Deserialize)]
struct WithUsage {
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: u64,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: u64,
}

fn usage(body: &str) -> Option<Usage> {
    let wire = serde_json::from_str::<WithUsage>(body).ok()?.usage?;
    Some(Usage {
        input_tokens: wire.prompt_tokens.min(MOST_TOKENS),
        output_tokens: wire.completion_tokens.min(MOST_TOKENS),
        cached_input_tokens: wire.prompt_tokens_details.map_or(0, |details| details.cached_tokens),
        reasoning_tokens: wire.completion_tokens_details.map_or(0, |details| details.reasoning_tokens),
    })
}

#[cfg(test)]
mod tests;
