//! The parts of an answer that decide its price beside its tokens.

use forebay_schemas::{Job, Usage};
use serde::Deserialize;
use serde_json::Value;

use crate::kind::WorkKind;

/// The types of tools that cost nothing by themselves: the publisher of the job runs them.
const OWN_TOOLS: [&str; 2] = ["function", "custom"];

/// The facts of an answer that decide its price beside its tokens.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct BilledFacts {
    /// The service tier that served the request; `None` where the provider does not report it.
    pub tier: Option<String>,
    /// True if the price depends on something that usage does not count, or counts at an unusual
    /// price. Examples are sound, searches and a cache that lasts long.
    pub has_extras: bool,
    /// The billed usage, where the provider reports it beside the actual usage: Cohere bills the
    /// text alone.
    pub billed: Option<Usage>,
}

/// The fields that decide the price, over all providers. One provider's names mean nothing else at
/// another.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ChargedParts {
    #[serde(rename = "service_tier")]
    tier: Option<Value>,
    usage: Option<Value>,
    /// Gemini's name of the usage.
    usage_metadata: Option<Value>,
}

/// The paths inside the usage at which sound and searches are counted, and Anthropic's cache of one
/// hour.
const EXTRAS: [&str; 8] = [
    "/prompt_tokens_details/audio_tokens",
    "/completion_tokens_details/audio_tokens",
    "/input_tokens_details/audio_tokens",
    "/output_tokens_details/audio_tokens",
    "/server_tool_use/web_search_requests",
    "/server_tool_use/web_fetch_requests",
    "/num_search_queries",
    "/cache_creation/ephemeral_1h_input_tokens",
];
/// Gemini's lists of token counts by modality, each with the modalities that have the usual price.
const BY_MODALITY: [(&str, &[&str]); 3] = [
    (
        "promptTokensDetails",
        &["TEXT", "IMAGE", "VIDEO", "DOCUMENT"],
    ),
    (
        "cacheTokensDetails",
        &["TEXT", "IMAGE", "VIDEO", "DOCUMENT"],
    ),
    ("candidatesTokensDetails", &["TEXT"]),
];

/// Reads from the answer `body` to `job` the facts that decide its price beside its tokens.
pub(super) fn charge(kind: WorkKind, job: &Job, body: &[u8]) -> BilledFacts {
    match kind {
        WorkKind::Chat | WorkKind::Responses => {}
        WorkKind::Embeddings | WorkKind::Moderation => return BilledFacts::default(),
        // Priced by the image, the second, the character or the search.
        WorkKind::Rerank | WorkKind::Image | WorkKind::Speech | WorkKind::Transcription => {
            return BilledFacts {
                has_extras: true,
                ..BilledFacts::default()
            };
        }
    }
    let parts: ChargedParts = serde_json::from_slice(body).unwrap_or_default();
    let usage = parts.usage.unwrap_or_default();
    let metadata = parts.usage_metadata.unwrap_or_default();
    let counts = |path: &str| count_at(&usage, path).is_some_and(|count| count > 0.0);
    let tier_of_usage = usage.get("service_tier");
    let tier = parts.tier.as_ref().or(tier_of_usage);
    BilledFacts {
        tier: tier.and_then(Value::as_str).map(str::to_owned),
        has_extras: EXTRAS.into_iter().any(counts)
            || has_unusual_modality(&metadata)
            || asks_extras(job),
        billed: billed(&usage),
    }
}

fn count_at(usage: &Value, path: &str) -> Option<f64> {
    usage.pointer(path).and_then(Value::as_f64)
}

/// Returns true if Gemini counts tokens of a modality without the usual price.
fn has_unusual_modality(metadata: &Value) -> bool {
    for (field, usual) in BY_MODALITY {
        let parts = metadata.get(field).and_then(Value::as_array);
        let mut parts = parts.into_iter().flatten();
        if parts.any(|part| is_unusual(part, usual)) {
            return true;
        }
    }
    false
}

fn is_unusual(part: &Value, usual: &[&str]) -> bool {
    let modality = part.get("modality").and_then(Value::as_str);
    has_tokens(part) && modality.is_some_and(|modality| !usual.contains(&modality))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that comes as a float"
)]
fn billed(usage: &Value) -> Option<Usage> {
    let count = |path: &str| count_at(usage, path).map(|count| count as u64);
    let input_tokens = count("/billed_units/input_tokens")?;
    let output_tokens = count("/billed_units/output_tokens")?;
    Some(Usage {
        input_tokens,
        output_tokens,
        ..Usage::default()
    })
}

fn has_tokens(part: &Value) -> bool {
    part.get("tokenCount")
        .and_then(Value::as_u64)
        .is_some_and(|count| count > 0)
}

/// Returns true if a job requests tools that its provider runs and charges.
fn asks_extras(job: &Job) -> bool {
    let tools: Vec<Value> = given(job, "tools")
        .and_then(|raw| serde_json::from_str(raw).ok())
        .unwrap_or_default();
    let has = |field: &str| given(job, field).is_some();
    !tools.iter().all(is_own_tool) || has("web_search_options") || has("plugins")
}

/// Returns the text of a field of the body; `None` where it is missing or null.
fn given<'a>(job: &'a Job, field: &str) -> Option<&'a str> {
    let raw = job.body.get(field)?.get();
    (raw != "null").then_some(raw)
}

fn is_own_tool(tool: &Value) -> bool {
    let kind = tool.get("type").and_then(Value::as_str);
    kind.is_none_or(|kind| OWN_TOOLS.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(job: &str, body: &str) -> BilledFacts {
        let job = format!(r#"{{"id":"1","body":{job}}}"#);
        charge(
            WorkKind::Chat,
            &Job::parse(job.as_bytes()).expect("a job"),
            body.as_bytes(),
        )
    }

    #[test]
    fn plain_answers_have_no_extras() {
        for (job, body) in [
            (
                r#"{"tools":[{"type":"function"}]}"#,
                r#"{"usage":{"prompt_tokens_details":{"audio_tokens":0}}}"#,
            ),
            (
                r#"{"web_search_options":null}"#,
                r#"{"usageMetadata":{"promptTokensDetails":[{"modality":"TEXT","tokenCount":9}]}}"#,
            ),
            ("{}", "no JSON"),
        ] {
            assert_eq!(of(job, body), BilledFacts::default(), "{job} {body}");
        }
    }

    #[test]
    fn sound_searches_and_long_caches_are_extras() {
        for (job, body) in [
            (
                "{}",
                r#"{"usage":{"completion_tokens_details":{"audio_tokens":5}}}"#,
            ),
            (
                "{}",
                r#"{"usage":{"server_tool_use":{"web_search_requests":1}}}"#,
            ),
            (
                "{}",
                r#"{"usage":{"cache_creation":{"ephemeral_1h_input_tokens":7}}}"#,
            ),
            (
                "{}",
                r#"{"usageMetadata":{"promptTokensDetails":[{"modality":"AUDIO","tokenCount":9}]}}"#,
            ),
            (
                "{}",
                r#"{"usageMetadata":{"candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":9}]}}"#,
            ),
            (r#"{"tools":[{"type":"web_search"}]}"#, "{}"),
            (r#"{"web_search_options":{}}"#, "{}"),
        ] {
            assert!(of(job, body).has_extras, "{job} {body}");
        }
    }

    #[test]
    fn what_is_billed_may_be_less_than_what_was_used() {
        let body = r#"{"usage":{"billed_units":{"input_tokens":5.0,"output_tokens":7.0},"tokens":{"input_tokens":71}}}"#;
        let expected = Usage {
            input_tokens: 5,
            output_tokens: 7,
            ..Usage::default()
        };
        assert_eq!(of("{}", body).billed, Some(expected));
    }

    #[test]
    fn the_tier_is_the_one_that_served() {
        assert_eq!(
            of("{}", r#"{"service_tier":"flex"}"#).tier.as_deref(),
            Some("flex")
        );
        assert_eq!(
            of("{}", r#"{"usage":{"service_tier":"priority"}}"#)
                .tier
                .as_deref(),
            Some("priority")
        );
    }
}
