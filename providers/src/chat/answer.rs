//! The unified chat answer, which is OpenAI's, from the answer of another dialect.

use forebay_schemas::Usage;
use jiff::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::adapter::{AdapterAnswer, AnswerKind};
use crate::error::ErrorBody;

/// An answer to a chat.
#[derive(Debug, Default)]
pub(crate) struct ChatAnswer {
    pub(crate) id: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) choices: Vec<AnswerChoice>,
    pub(crate) usage: Option<Usage>,
}

/// One of the requested answers.
#[derive(Debug, Default)]
pub(crate) struct AnswerChoice {
    pub(crate) text: Option<String>,
    /// Images as data URLs. OpenAI's shape has no place for them, so they are put into a message's
    /// `images`, as at OpenRouter.
    pub(crate) images: Vec<String>,
    /// The model's thoughts, for people.
    pub(crate) reasoning: Option<String>,
    /// The values that the provider wants back unchanged.
    pub(crate) opaque: Vec<OpaqueValue>,
    pub(crate) calls: Vec<AnsweredCall>,
    pub(crate) finish: FinishReason,
    /// The provider's own word for the reason of the end.
    pub(crate) native_finish: String,
}

/// A value that a provider wants back in a later turn and that means nothing to others, such as a
/// signature of thoughts. The message's `reasoning_details` contain it as `{"format": DIALECT,
/// "data": …}`. `"after": N` is added where N characters of the text precede it.
#[derive(Debug)]
pub(crate) struct OpaqueValue {
    dialect: &'static str,
    data: Value,
    after: usize,
}

/// A call of a tool.
#[derive(Debug)]
pub(crate) struct AnsweredCall {
    /// The provider's id; where it is `None`, the answer gets a generated one.
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    /// The arguments: JSON as text.
    pub(crate) arguments: String,
    /// The value that the provider wants back with the call.
    pub(crate) extra: Option<Value>,
}

/// The reason for the end of an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// The answer was complete. An unknown reason counts as this one, since new reasons appear
    /// often.
    #[default]
    Stop,
    Length,
    /// The answer was refused for its content.
    Filtered,
    /// The model or its provider failed.
    Failed,
}

impl ChatAnswer {
    /// Builds the answer in OpenAI's shape; `None` where there is no choice at all.
    pub(crate) fn unified(self, model: &str, now: Timestamp) -> Option<AdapterAnswer> {
        let answer_kind = self.answer_kind()?;
        let id = self
            .id
            .unwrap_or_else(|| format!("chatcmpl-{}", now.as_nanosecond()));
        let choices = self.choices.into_iter().enumerate();
        let choices: Vec<_> = choices
            .map(|(index, choice)| choice.unified(index, &id))
            .collect();
        let mut body = json!({
            "id": id,
            "object": "chat.completion",
            "created": now.as_second(),
            "model": self.model.as_deref().unwrap_or(model),
            "choices": choices,
        });
        if let Some(usage) = self.usage {
            body["usage"] = wire_usage(usage);
        }
        Some(AdapterAnswer {
            body: serde_json::value::to_raw_value(&body).ok()?,
            usage: self.usage,
            answer_kind,
        })
    }

    fn answer_kind(&self) -> Option<AnswerKind> {
        let first = self.choices.first()?;
        let words = first.native_finish.clone();
        if self.is_empty_by(&FinishReason::Filtered) {
            let reason = match first.text.as_deref() {
                None | Some("") => format!("the provider refused for the content: {words}"),
                Some(text) => text.to_owned(),
            };
            return Some(AnswerKind::Filtered(reason));
        }
        if self.is_empty_by(&FinishReason::Failed) {
            let message = Some(format!("the provider ended the answer with {words}"));
            let names = vec![words.clone()];
            return Some(AnswerKind::Error(ErrorBody {
                message,
                code: Some(words),
                names,
                ..ErrorBody::default()
            }));
        }
        Some(AnswerKind::Whole)
    }

    /// Returns true if every choice is empty and ended for this reason.
    fn is_empty_by(&self, finish: &FinishReason) -> bool {
        let is = |choice: &AnswerChoice| choice.finish == *finish && choice.is_empty();
        self.choices.iter().all(is)
    }
}

impl AnswerChoice {
    /// Keeps a value that `dialect` wants back at this place of the text.
    pub(crate) fn keep(&mut self, dialect: &'static str, data: Value) {
        let text = self.text.as_deref().unwrap_or_default();
        let after = text.chars().count();
        self.opaque.push(OpaqueValue {
            dialect,
            data,
            after,
        });
    }

    /// Returns true if the choice has no content. The words of a refusal do not count.
    fn is_empty(&self) -> bool {
        self.calls.is_empty()
            && self.images.is_empty()
            && (self.finish == FinishReason::Filtered
                || self.text.as_deref().is_none_or(str::is_empty))
    }

    fn unified(self, index: usize, id: &str) -> Value {
        let finish = match self.finish {
            FinishReason::Length => "length",
            FinishReason::Filtered => "content_filter",
            FinishReason::Stop | FinishReason::Failed if !self.calls.is_empty() => "tool_calls",
            FinishReason::Stop | FinishReason::Failed => "stop",
        };
        let mut message = Map::new();
        let mut set = |name: &str, value: Value| message.insert(name.to_owned(), value);
        set("role", "assistant".into());
        let refused = self.finish == FinishReason::Filtered;
        let (content, refusal) = if refused {
            (None, self.text)
        } else {
            (self.text, None)
        };
        set("content", content.into());
        set("refusal", refusal.into());
        if let Some(reasoning) = self.reasoning {
            set("reasoning_content", reasoning.into());
        }
        if !self.images.is_empty() {
            let image = |url: String| json!({ "type": "image_url", "image_url": { "url": url } });
            let images = self.images.into_iter().map(image);
            set("images", images.collect());
        }
        if !self.opaque.is_empty() {
            let details = self.opaque.into_iter().map(OpaqueValue::unified);
            set("reasoning_details", details.collect());
        }
        if !self.calls.is_empty() {
            let calls = self.calls.into_iter().enumerate();
            let calls = calls.map(|(place, call)| call.unified(id, index, place));
            set("tool_calls", calls.collect());
        }
        json!({
            "index": index,
            "message": message,
            "logprobs": null,
            "finish_reason": finish,
            "native_finish_reason": self.native_finish,
        })
    }
}

impl OpaqueValue {
    fn unified(self) -> Value {
        let mut detail = json!({ "format": self.dialect, "data": self.data });
        if self.after > 0 {
            detail["after"] = self.after.into();
        }
        detail
    }
}

impl AnsweredCall {
    fn unified(self, answer: &str, choice: usize, place: usize) -> Value {
        let id = self
            .id
            .unwrap_or_else(|| format!("call_{answer}_{choice}_{place}"));
        let mut call = json!({
            "id": id,
            "type": "function",
            "function": { "name": self.name, "arguments": self.arguments },
        });
        if let Some(extra) = self.extra {
            call["extra_content"] = extra;
        }
        call
    }
}

/// Encodes the usage in OpenAI's shape.
pub(crate) fn wire_usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens.saturating_add(usage.output_tokens),
        "prompt_tokens_details": { "cached_tokens": usage.cached_input_tokens },
        "completion_tokens_details": { "reasoning_tokens": usage.reasoning_tokens },
    })
}

/// Returns the arguments of a call as JSON in a text. They are given as an object, or as such a
/// text already. Missing arguments become an empty object.
pub(crate) fn arguments(given: Value) -> String {
    match given {
        Value::Null => "{}".to_owned(),
        Value::String(text) if text.is_empty() => "{}".to_owned(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Returns JSON as the body of an answer.
pub(crate) fn raw(body: &Value) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(body).ok()
}
