//! OpenAI's dialect, and every server that speaks it: the job's body goes as it is, but for the quirks of the
//! provider's entry in the table, and so does the answer.

mod messages;
mod multipart;

use forebay_schemas::Usage;
use forebay_schemas::job::Object;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::chat::{is_so_anyway, null_as_empty};
use super::error::ErrorBody;
use super::{Adapter, Answer, Call, Kind, Said, Unsupported, endpoint};
use crate::upstream::{Reply, Request};

/// No call has more tokens; an answer that says so is not understood.
pub(super) const MOST_TOKENS: u64 = 1 << 40;
/// What a deployment's address begins with where Azure's API has a version.
const DEPLOYMENTS: &str = "/openai/deployments/";

/// OpenAI's dialect.
#[derive(Debug)]
pub(super) struct OpenAi;

impl Adapter for OpenAi {
    fn kinds(&self) -> &'static [Kind] {
        &Kind::ALL
    }

    fn encode(&self, call: &Call<'_>) -> Result<Request, Unsupported> {
        if let Some(unsupported) = self.refusal(call) {
            return Err(unsupported);
        }
        let body = body(call)?;
        if call.kind == Kind::Transcription {
            let (content_type, bytes) = multipart::of(&body)?;
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, content_type);
            return Ok(call.request(&path(call), headers, bytes));
        }
        call.post(&path(call), &body)
    }

    fn refusal(&self, call: &Call<'_>) -> Option<Unsupported> {
        let quirks = call.endpoint.provider.quirks_of(call.model);
        let mut refused = quirks.flat_map(|quirks| &quirks.refuses);
        if let Some(field) = refused.find(|field| asks(&call.job.body, field)) {
            let problem = format!("{} refuses it, leave it out", call.endpoint.provider.name);
            return Some(Unsupported::new(format!("body.{field}"), problem));
        }
        if call.kind == Kind::Transcription {
            return multipart::file(&call.job.body).err();
        }
        None
    }

    fn decode(&self, call: &Call<'_>, reply: &Reply, _: Timestamp) -> Option<Answer> {
        if call.kind == Kind::Speech {
            return Some(Answer { body: endpoint::binary(reply)?, usage: None, said: Said::Whole });
        }
        let Ok(body) = serde_json::from_slice::<Box<RawValue>>(&reply.body) else {
            // A transcription may have been asked for as plain text, or as subtitles.
            return (call.kind == Kind::Transcription).then(|| text(reply)).flatten();
        };
        // No kind of work is answered by a bare value or a list.
        if !body.get().trim_start().starts_with('{') {
            return None;
        }
        let parts: Parts = serde_json::from_str(body.get()).unwrap_or_default();
        if parts.object.as_deref() == Some("error") {
            return None;
        }
        Some(Answer { usage: parts.usage.as_ref().and_then(WireUsage::unified), said: parts.said(), body })
    }
}

/// The path under the base address; Azure's older form names the deployment in it.
fn path(call: &Call<'_>) -> String {
    let path = call.kind.url().trim_start_matches("/v1");
    match &call.endpoint.api_version {
        // Responses name no deployment.
        Some(version) if call.kind == Kind::Responses => format!("/openai{path}?api-version={version}"),
        Some(version) => format!("{DEPLOYMENTS}{}{path}?api-version={version}", encoded(call.model)),
        None => path.to_owned(),
    }
}

/// Whether a field asks for more than happens without it.
fn asks(body: &Object, field: &str) -> bool {
    let value = body.get(field).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    value.is_some_and(|value| !value.is_null() && !is_so_anyway(field, &value))
}

/// A name in a path.
pub(super) fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2D", "-")
        .replace("%2E", ".")
        .replace("%5F", "_")
}

/// The job's body with the target's model and the provider's quirks.
fn body(call: &Call<'_>) -> Result<Object, Unsupported> {
    let mut body = call.job.body.clone();
    let model = serde_json::value::to_raw_value(call.model);
    body.insert("model".to_owned(), model.map_err(|error| Unsupported::new("model", error.to_string()))?);
    for quirks in call.endpoint.provider.quirks_of(call.model) {
        // What is refused was not asked for, or the job were not here.
        for field in quirks.drops.iter().chain(&quirks.refuses) {
            body.remove(field);
        }
        for (field, name) in &quirks.renames {
            if let Some(value) = body.remove(field) {
                body.entry(name.clone()).or_insert(value);
            }
        }
    }
    messages::adapt(&mut body, call.endpoint.provider.quirks_of(call.model));
    Ok(body)
}

fn text(reply: &Reply) -> Option<Answer> {
    let text = std::str::from_utf8(&reply.body).ok()?;
    let body = serde_json::value::to_raw_value(&serde_json::json!({ "text": text })).ok()?;
    Some(Answer { body, usage: None, said: Said::Whole })
}

/// The parts of an answer that matter to others than whoever asked.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Parts {
    usage: Option<WireUsage>,
    #[serde(deserialize_with = "null_as_empty")]
    choices: Vec<Choice>,
    error: Option<Value>,
    /// What it is; vLLM's older errors are `error` and have nothing around them.
    object: Option<String>,
    /// Of Responses.
    status: Option<String>,
    incomplete_details: Option<Incomplete>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Choice {
    finish_reason: Option<String>,
    message: Option<Message>,
    /// OpenRouter's, of a provider that failed after it began.
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Message {
    refusal: Option<String>,
    content: Option<Value>,
}

impl Parts {
    /// A refusal is what no choice has anything beside.
    fn said(&self) -> Said {
        let failed = self.choices.first().and_then(|choice| choice.error.as_ref()).or(self.error.as_ref());
        if let Some(error) = failed.filter(|error| error.is_object() || error.is_string()) {
            return Said::Error(ErrorBody::of(error));
        }
        if self.status.as_deref() == Some("failed") {
            return Said::Error(ErrorBody::default());
        }
        let cut = self.incomplete_details.as_ref().and_then(|details| details.reason.as_deref());
        if self.status.as_deref() == Some("incomplete") && cut == Some("content_filter") {
            return Said::Filtered("the provider's content filter cut the answer off".to_owned());
        }
        let mut reasons = self.choices.iter().map(Choice::refusal);
        match reasons.next() {
            Some(Some(reason)) if reasons.all(|reason| reason.is_some()) => Said::Filtered(reason),
            _ => Said::Whole,
        }
    }
}

impl Choice {
    fn refusal(&self) -> Option<String> {
        let message = self.message.as_ref();
        let words = message.and_then(|message| message.refusal.clone()).filter(|words| !words.is_empty());
        let content = message.and_then(|message| message.content.as_ref());
        let is_empty = content.is_none_or(|content| content.is_null() || content == "");
        let filtered = self.finish_reason.as_deref() == Some("content_filter") && is_empty;
        words.or_else(|| filtered.then(|| "the provider's content filter took the answer away".to_owned()))
    }
}

/// Usage of chats and embeddings, and of Responses with its other names.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct WireUsage {
    #[serde(alias = "input_tokens", deserialize_with = "count")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens", deserialize_with = "count")]
    completion_tokens: Option<u64>,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(alias = "output_tokens_details")]
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name for the cached part.
    #[serde(deserialize_with = "count")]
    prompt_cache_hit_tokens: Option<u64>,
}

/// A count; a server that has none may say null, and some count in fractions.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count that comes as a float")]
fn count<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(from)?;
    let count = value.as_u64().or_else(|| value.as_f64().map(|count| count as u64));
    Ok(count.map(|count| count.min(MOST_TOKENS)))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

impl WireUsage {
    /// `None` where no tokens are told: some sound is paid for by the second.
    pub(super) fn unified(&self) -> Option<Usage> {
        self.prompt_tokens.or(self.completion_tokens)?;
        let cached = self.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens);
        let reasoning = self.completion_tokens_details.as_ref().and_then(|details| details.reasoning_tokens);
        Some(Usage {
            input_tokens: self.prompt_tokens.unwrap_or(0),
            output_tokens: self.completion_tokens.unwrap_or(0),
            cached_input_tokens: cached.or(self.prompt_cache_hit_tokens).unwrap_or(0),
            reasoning_tokens: reasoning.unwrap_or(0),
        })
    }
}
