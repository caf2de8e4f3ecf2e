//! The parts of an answer in OpenAI's dialect that Forebay itself reads: its shape, its usage, a
//! refusal or an error. The body itself is kept as it came.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use forebay_schemas::Usage;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::adapter::{AdapterCall, AnswerKind};
use crate::error::ErrorBody;
use crate::kind::WorkKind;
use crate::message::Reply;
use crate::usage::WireUsage;

/// The reasons with which a whole answer ends, or one that is as long as it may be.
const ENDS: [&str; 10] = [
    "stop",
    "length",
    "tool_calls",
    "function_call",
    "eos",
    "eos_token",
    "end_turn",
    "stop_sequence",
    "max_tokens",
    "model_length",
];
/// The reasons with which a content filter ends an answer.
const FILTERED_ENDS: [&str; 6] = [
    "content_filter",
    "content_filtered",
    "sensitive",
    "safety",
    "prohibited_content",
    "moderation",
];
/// The reasons with which an answer ends because the model or its provider failed: those of z.AI, DeepSeek, OpenRouter, vLLM
/// and gateways.
const BROKEN_ENDS: [&str; 9] = [
    "error",
    "network_error",
    "insufficient_system_resource",
    "abort",
    "aborted",
    "cancelled",
    "timeout",
    "failed",
    "malformed_function_call",
];
/// The forms of a transcription that are not JSON.
const PLAIN: [&str; 3] = ["text", "srt", "vtt"];

/// The parts of an answer. A part of an unexpected type does not fail the others, since each is
/// read by itself.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct AnswerParts<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    choices: Option<Value>,
    error: Option<Value>,
    /// The type of the answer. vLLM's older errors have `error` here and no object around them.
    object: Option<Value>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    results: Option<&'a RawValue>,
    text: Option<Value>,
    /// The output of Responses.
    #[serde(borrow)]
    output: Option<&'a RawValue>,
    status: Option<Value>,
    incomplete_details: Option<Value>,
}

impl<'a> AnswerParts<'a> {
    /// Reads the parts of a body; `None` for anything but an object. A bare value or a list is no
    /// answer to any kind of work. Also `None` for vLLM's older errors.
    pub(super) fn read(body: &'a str) -> Option<Self> {
        let parts: Self = serde_json::from_str(body).ok()?;
        let object = parts.object.as_ref();
        let is_error = object.is_some_and(|object| object == "error");
        (body.trim_start().starts_with('{') && !is_error).then_some(parts)
    }

    /// Returns true if the body has what an answer to this kind of work needs.
    pub(super) fn answers(&self, kind: WorkKind) -> bool {
        match kind {
            WorkKind::Chat => self.choices().next().is_some(),
            WorkKind::Responses => self.output.is_some_and(is_list),
            WorkKind::Embeddings => self.data.is_some_and(has_vectors),
            WorkKind::Image => self.data.is_some_and(has_items),
            WorkKind::Moderation | WorkKind::Rerank => self.results.is_some_and(is_list),
            WorkKind::Transcription => self.text.as_ref().is_some_and(Value::is_string),
            // Speech is not JSON.
            WorkKind::Speech => false,
        }
    }

    /// Returns the usage; `None` where no tokens are reported.
    pub(super) fn usage(&self) -> Option<Usage> {
        let usage: WireUsage = serde_json::from_str(self.usage?.get()).ok()?;
        usage.unified()
    }

    fn choices(&self) -> impl Iterator<Item = &Value> {
        let choices = self.choices.as_ref().and_then(Value::as_array);
        choices.into_iter().flatten()
    }

    /// Returns the kind of the answer. It is a refusal only if every choice is one.
    pub(super) fn answer_kind(&self) -> AnswerKind {
        // OpenRouter puts the error of a provider that failed after its start into the choice.
        let first = self.choices().next();
        let of_choice = first.and_then(|choice| choice.get("error"));
        let failed = of_choice.or(self.error.as_ref());
        if let Some(error) = failed.filter(|error| error.is_object() || error.is_string()) {
            return AnswerKind::Error(ErrorBody::of(error));
        }
        let is = |status: &str| self.status.as_ref().is_some_and(|found| found == status);
        if is("failed") || is("cancelled") {
            return AnswerKind::Error(ErrorBody::default());
        }
        let details = self.incomplete_details.as_ref();
        let cut = details.and_then(|details| details.get("reason"));
        if is("incomplete") && cut.is_some_and(|reason| reason == "content_filter") {
            return AnswerKind::Filtered(
                "the provider's content filter cut the answer off".to_owned(),
            );
        }
        if let Some(reason) = self.choices().find_map(broken_end) {
            return AnswerKind::Error(ErrorBody {
                message: Some(format!("the provider ended the answer with `{reason}`")),
                code: Some(reason.to_owned()),
                names: vec![reason.to_owned()],
                ..ErrorBody::default()
            });
        }
        let mut reasons = self.choices().map(refusal);
        match reasons.next() {
            Some(Some(reason)) if reasons.all(|reason| reason.is_some()) => {
                AnswerKind::Filtered(reason)
            }
            _ => AnswerKind::Whole,
        }
    }
}

fn is_list(value: &RawValue) -> bool {
    value.get().starts_with('[')
}

fn has_items(list: &RawValue) -> bool {
    let items = list.get().strip_prefix('[');
    items.is_some_and(|items| !items.trim_start().starts_with(']'))
}

/// Returns true if each vector of an answer has numbers, and all have equally many.
fn has_vectors(list: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Item<'a> {
        #[serde(borrow)]
        embedding: Option<&'a RawValue>,
    }
    let Ok(items) = serde_json::from_str::<Vec<Item<'_>>>(list.get()) else {
        return false;
    };
    let lengths = items
        .iter()
        .map(|item| vector_length(item.embedding?.get()));
    let lengths: Option<BTreeSet<_>> = lengths.collect();
    lengths.is_some_and(|lengths| lengths.len() == 1)
}

/// Returns a measure of a vector's length: of two vectors in the same encoding, equal lengths have equal measures. `None` for
/// a vector without numbers.
fn vector_length(vector: &str) -> Option<usize> {
    if let Some(base64) = vector.strip_prefix('"') {
        return (base64.len() > 1).then_some(base64.len());
    }
    let numbers = vector.strip_prefix('[')?;
    let has_numbers = !numbers.trim_start().starts_with(']');
    has_numbers.then(|| numbers.matches(',').count() + 1)
}

/// Returns the reason for which an answer ended that is no end: the model or its provider failed. An unknown reason is one if
/// the choice has no content.
fn broken_end(choice: &Value) -> Option<&str> {
    let reason = choice.get("finish_reason")?.as_str()?;
    let is_known = ENDS.contains(&reason) || FILTERED_ENDS.contains(&reason);
    let is_broken = BROKEN_ENDS.contains(&reason) || (!is_known && is_empty(choice));
    is_broken.then_some(reason)
}

/// Returns true if a choice has neither text nor calls of tools.
fn is_empty(choice: &Value) -> bool {
    let has = |field: &str| {
        let value = choice.pointer(field);
        value.is_some_and(|value| !value.is_null() && value != "" && value != &json!([]))
    };
    let fields = [
        "content",
        "tool_calls",
        "function_call",
        "audio",
        "images",
        "refusal",
    ];
    !fields.iter().any(|field| has(&format!("/message/{field}")))
}

/// Returns the reason of a refused choice; `None` for any other.
fn refusal(choice: &Value) -> Option<String> {
    let words = choice
        .pointer("/message/refusal")
        .and_then(Value::as_str)
        .filter(|words| !words.is_empty());
    if let Some(words) = words {
        return Some(words.to_owned());
    }
    let reason = choice.get("finish_reason").and_then(Value::as_str)?;
    let is_filtered = FILTERED_ENDS.contains(&reason) && is_empty(choice);
    is_filtered.then(|| "the provider's content filter took the answer away".to_owned())
}

/// Returns the sound of a reply as JSON; `None` for a page or an error in its place.
pub(super) fn sound(reply: &Reply) -> Option<Box<RawValue>> {
    let content_type = reply.header(CONTENT_TYPE);
    let is_text = content_type.is_some_and(|kind| kind.contains("json") || kind.contains("html"));
    (!is_text && !reply.body.is_empty()).then(|| binary(reply))?
}

/// Returns a transcription in plain text or subtitles as JSON; `None` if the job requests no such
/// format.
pub(super) fn plain_text(call: &AdapterCall<'_>, reply: &Reply) -> Option<Box<RawValue>> {
    let format = call.job.body.get("response_format")?;
    let format: String = serde_json::from_str(format.get()).ok()?;
    let is_requested = call.kind == WorkKind::Transcription && PLAIN.contains(&format.as_str());
    let content_type = reply.header(CONTENT_TYPE);
    let is_page = content_type.is_some_and(|kind| kind.contains("html"));
    let text = std::str::from_utf8(&reply.body)
        .ok()
        .filter(|_| is_requested && !is_page)?;
    serde_json::value::to_raw_value(&json!({ "text": text })).ok()
}

/// Returns a binary answer as JSON: its type, and its bytes in base64.
fn binary(reply: &Reply) -> Option<Box<RawValue>> {
    let kind = reply.header(CONTENT_TYPE);
    let body = json!({ "content_type": kind, "data": BASE64_STANDARD.encode(&reply.body) });
    serde_json::value::to_raw_value(&body).ok()
}
