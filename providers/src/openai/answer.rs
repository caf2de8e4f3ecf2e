//! The parts of an answer in OpenAI's dialect that Forebay itself reads: its shape, its usage, a
//! refusal or an error. The body itself is kept as it came.

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
            WorkKind::Embeddings | WorkKind::Image => self.data.is_some_and(has_items),
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

/// Returns the reason of a refused choice; `None` for any other.
fn refusal(choice: &Value) -> Option<String> {
    let words = choice
        .pointer("/message/refusal")
        .and_then(Value::as_str)
        .filter(|words| !words.is_empty());
    let content = choice.pointer("/message/content");
    let is_empty = content.is_none_or(|content| content.is_null() || content == "");
    if let Some(words) = words {
        return Some(words.to_owned());
    }
    let finish = choice.get("finish_reason");
    let is_filtered = is_empty && finish.is_some_and(|reason| reason == "content_filter");
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
