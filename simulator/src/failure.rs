//! Failures on demand: every known error of each vendor, in the form that the vendor sends.

mod anthropic;
mod azure;
mod bedrock;
mod cohere;
mod deepseek;
mod gemini;
mod groq;
mod mistral;
mod ollama;
mod openai;
mod openrouter;

use serde::Serialize;
use serde_json::Value;

use super::answer::{VendorAnswer, digest};
use super::vendor::Vendor;

/// The prefix of a model's name that requests a failure.
pub(super) const FAILURE_PREFIX: &str = "fail-";
/// The suffix of a case that occurs only at OpenAI's Responses.
const RESPONSES_SUFFIX: &str = "-responses";
/// The most characters of a prompt that an error repeats.
const MAX_PROMPT_CHARS: usize = 100;

/// A failure that a request can ask for with the model `fail-CASE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VendorFailure {
    /// The name of the vendor.
    pub provider: &'static str,
    /// The name of the case: its class, and a suffix that distinguishes it from others of that class.
    pub case: &'static str,
    /// The class of failure that the case means for the client, for example `rate_limited`.
    pub class: &'static str,
    /// The calls that can fail in this way: `chat` means all calls, `responses` means OpenAI's Responses alone.
    pub task: &'static str,
    /// The HTTP status of the failure.
    pub status: u16,
}

/// One failure of one vendor.
///
/// The body may hold the placeholders `$KEY_HEAD`, `$KEY_TAIL`, `$MODEL`, `$ACCOUNT` and `$PROMPT`. They are replaced
/// with the parts of the call that this vendor repeats.
#[derive(Debug)]
struct FailureRow {
    case: &'static str,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

const fn row(case: &'static str, status: u16, body: &'static str) -> FailureRow {
    FailureRow {
        case,
        status,
        headers: &[],
        body,
    }
}

const fn row_with_headers(
    case: &'static str,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
) -> FailureRow {
    FailureRow {
        case,
        status,
        headers,
        body,
    }
}

/// The failures that a proxy in front of any vendor may send.
const COMMON_ROWS: [FailureRow; 2] = [
    row("malformed_response", 200, "<html>not the answer</html>"),
    row("malformed_response-empty", 200, ""),
];

fn rows(vendor: Vendor) -> &'static [FailureRow] {
    match vendor {
        Vendor::OpenAi => openai::ROWS,
        Vendor::Azure => azure::ROWS,
        Vendor::Anthropic => anthropic::ROWS,
        Vendor::Gemini => gemini::ROWS,
        Vendor::Mistral => mistral::ROWS,
        Vendor::Cohere => cohere::ROWS,
        Vendor::Bedrock => bedrock::ROWS,
        Vendor::Ollama => ollama::ROWS,
        Vendor::Groq => groq::ROWS,
        Vendor::DeepSeek => deepseek::ROWS,
        Vendor::OpenRouter => openrouter::ROWS,
    }
}

fn all(vendor: Vendor) -> impl Iterator<Item = &'static FailureRow> {
    rows(vendor).iter().chain(&COMMON_ROWS)
}

/// Returns all failures of all vendors.
pub fn failures() -> Vec<VendorFailure> {
    let of = |vendor: Vendor| all(vendor).map(move |row| row.failure(vendor));
    Vendor::ALL.into_iter().flat_map(of).collect()
}

impl FailureRow {
    fn failure(&self, vendor: Vendor) -> VendorFailure {
        let only_responses = self.case.ends_with(RESPONSES_SUFFIX);
        VendorFailure {
            provider: vendor.name(),
            case: self.case,
            class: class(self.case),
            task: if only_responses { "responses" } else { "chat" },
            status: self.status,
        }
    }
}

/// Returns the case of this name, if any vendor has it.
pub(super) fn case(name: &str) -> Option<&'static str> {
    let mut rows = Vendor::ALL.into_iter().flat_map(all);
    let row = rows.find(|row| row.case == name)?;
    Some(row.case)
}

fn class(case: &'static str) -> &'static str {
    case.split('-').next().unwrap_or(case)
}

/// The parts of a call that an error may repeat.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FailureContext<'a> {
    pub(super) key: &'a str,
    pub(super) model: &'a str,
    pub(super) account: &'a str,
    pub(super) body: &'a [u8],
}

/// Returns the vendor's failure of this name. If the vendor has none, returns its first failure of the same class.
pub(super) fn answer(
    vendor: Vendor,
    case: &str,
    context: &FailureContext<'_>,
) -> Option<VendorAnswer> {
    let fits = |row: &&FailureRow| row.case == case;
    let like = |row: &&FailureRow| Some(class(row.case)) == case.split('-').next();
    let row = all(vendor).find(fits).or_else(|| all(vendor).find(like))?;
    let body = fill_placeholders(row.body, context);
    let kind = match body.chars().next() {
        Some('{' | '[') => "application/json",
        Some('<') | None => "text/html",
        Some(_) => "text/plain",
    };
    let id = format!("req_{}", digest(body.as_bytes()));
    let answer = VendorAnswer::raw(row.status, kind, body.into_bytes());
    let answer = match vendor {
        Vendor::Anthropic => answer.with("request-id", &id),
        Vendor::Bedrock => answer.with("x-amzn-requestid", &id),
        Vendor::Gemini | Vendor::Ollama => answer,
        _ => answer.with("x-request-id", &id),
    };
    let headers = row.headers.iter();
    Some(headers.fold(answer, |answer, (name, value)| answer.with(name, value)))
}

/// Returns the failure that the model's name requests, if the vendor has one of exactly that name.
pub(super) fn requested(vendor: Vendor, context: &FailureContext<'_>) -> Option<VendorAnswer> {
    let case = context.model.strip_prefix(FAILURE_PREFIX)?;
    let known = all(vendor).any(|row| row.case == case);
    known.then(|| answer(vendor, case, context))?
}

/// Replaces the placeholders in a body with the parts of the call.
fn fill_placeholders(body: &str, context: &FailureContext<'_>) -> String {
    if !body.contains('$') {
        return body.to_owned();
    }
    let key = context.key;
    let head: String = key.chars().take(8).collect();
    let tail = match key.char_indices().nth_back(3) {
        Some((start, _)) if key.chars().count() > 12 => &key[start..],
        _ => "",
    };
    let prompt: String = prompt(context.body)
        .chars()
        .take(MAX_PROMPT_CHARS)
        .collect();
    let parts = [
        ("$KEY_HEAD", head.as_str()),
        ("$KEY_TAIL", tail),
        ("$MODEL", context.model),
        ("$ACCOUNT", context.account),
        ("$PROMPT", &prompt),
    ];
    let mut filled = body.to_owned();
    for (placeholder, part) in parts {
        filled = filled.replace(placeholder, &in_json(part));
    }
    filled
}

/// Returns a text as it is written inside a JSON string, without the quotation marks.
fn in_json(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted.strip_prefix('"');
    let inner = inner.and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or_default().to_owned()
}

/// Returns the last text of a request, at the place where its dialect keeps it.
fn prompt(body: &[u8]) -> String {
    fn last(value: &Value) -> Option<&str> {
        match value {
            Value::Array(list) => list.iter().rev().find_map(last_text),
            other => last_text(other),
        }
    }
    fn last_text(value: &Value) -> Option<&str> {
        let keys = [
            "messages", "contents", "input", "texts", "content", "parts", "text", "prompt", "query",
        ];
        match value {
            Value::String(text) => Some(text),
            Value::Object(map) => keys.iter().find_map(|key| last(map.get(*key)?)),
            _ => None,
        }
    }
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    last(&request).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const CLASSES: [&str; 13] = [
        "rate_limited",
        "ramp_limited",
        "quota_exhausted",
        "exceeds_limit",
        "billing_stop",
        "bad_key",
        "model_not_allowed",
        "overloaded",
        "server_error",
        "context_too_long",
        "content_filtered",
        "bad_request",
        "malformed_response",
    ];

    #[test]
    fn every_failure_has_a_name_of_its_own_and_a_known_class() {
        let failures = failures();
        let names: BTreeSet<_> = failures
            .iter()
            .map(|failure| (failure.provider, failure.case))
            .collect();
        assert_eq!(names.len(), failures.len());
        for failure in &failures {
            assert!(CLASSES.contains(&failure.class), "{failure:?}");
        }
        for class in [
            "rate_limited",
            "server_error",
            "overloaded",
            "bad_request",
            "malformed_response",
        ] {
            for vendor in Vendor::ALL {
                let known = failures
                    .iter()
                    .any(|f| f.provider == vendor.name() && f.class == class);
                assert!(
                    known || vendor == Vendor::Ollama,
                    "{} {class}",
                    vendor.name()
                );
            }
        }
    }

    #[test]
    fn every_body_that_looks_like_json_is_json() {
        let context = FailureContext {
            key: "sk-1234567890-tail",
            model: "m\"x",
            account: "a",
            body: b"{\"input\":\"a \\\"b\\\"\"}",
        };
        for vendor in Vendor::ALL {
            for row in all(vendor) {
                let body = fill_placeholders(row.body, &context);
                if body.starts_with(['{', '[']) {
                    let read = serde_json::from_str::<Value>(&body);
                    assert!(read.is_ok(), "{} {}: {body}", vendor.name(), row.case);
                }
            }
        }
    }

    #[test]
    fn what_a_provider_repeats_is_repeated() {
        let body =
            br#"{"messages":[{"role":"user","content":[{"type":"text","text":"a secret wish"}]}]}"#;
        let context = FailureContext {
            key: "sk-12345-67890-tail",
            model: "fail-bad_key",
            account: "acme",
            body,
        };
        let text = |vendor, case| {
            let answer = answer(vendor, case, &context).expect("a failure");
            String::from_utf8(answer.body).expect("text")
        };
        let openai = text(Vendor::OpenAi, "bad_key");
        assert!(
            openai.contains("sk-12345") && openai.contains("tail") && !openai.contains("67890"),
            "{openai}"
        );
        assert!(text(Vendor::Groq, "rate_limited").contains("org_acme"));
        assert!(text(Vendor::OpenRouter, "content_filtered").contains("a secret wish"));
        assert!(requested(Vendor::OpenAi, &context).is_some());
        assert!(
            requested(
                Vendor::OpenAi,
                &FailureContext {
                    model: "fail-nothing",
                    ..context
                }
            )
            .is_none()
        );
    }
}
