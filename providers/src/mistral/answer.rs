//! The decoding of Mistral's completion.

use serde::Deserialize;
use serde_json::Value;

use super::DIALECT;
use crate::chat::answer::{AnswerChoice, AnsweredCall, ChatAnswer, FinishReason, arguments};
use crate::usage::WireUsage;

#[derive(Deserialize)]
pub(super) struct MistralCompletion {
    id: String,
    model: Option<String>,
    choices: Vec<MistralChoice>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct MistralChoice {
    message: MistralMessage,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct MistralMessage {
    content: Option<MistralContent>,
    tool_calls: Option<Vec<MistralCall>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MistralContent {
    Text(String),
    Chunks(Vec<Value>),
}

#[derive(Deserialize)]
struct MistralCall {
    id: Option<String>,
    function: MistralFunction,
}

/// A called function. Its arguments are JSON as text, or an object.
#[derive(Deserialize)]
struct MistralFunction {
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl MistralCompletion {
    pub(super) fn unified(self) -> ChatAnswer {
        let choices = self.choices.into_iter();
        ChatAnswer {
            id: Some(self.id),
            model: self.model,
            choices: choices.map(MistralChoice::unified).collect(),
            usage: self.usage.as_ref().and_then(WireUsage::unified),
        }
    }
}

impl MistralChoice {
    fn unified(self) -> AnswerChoice {
        let reason = self.finish_reason.unwrap_or_default();
        let finish = match reason.as_str() {
            "length" | "model_length" => FinishReason::Length,
            "error" => FinishReason::Failed,
            _ => FinishReason::Stop,
        };
        let mut choice = AnswerChoice {
            finish,
            native_finish: reason,
            ..AnswerChoice::default()
        };
        let MistralMessage {
            content,
            tool_calls,
        } = self.message;
        match content {
            Some(MistralContent::Text(text)) => choice.text = Some(text),
            Some(MistralContent::Chunks(chunks)) => {
                for chunk in chunks {
                    take(&mut choice, chunk);
                }
            }
            None => {}
        }
        let calls = tool_calls.into_iter().flatten();
        choice.calls = calls.map(MistralCall::unified).collect();
        choice
    }
}

impl MistralCall {
    fn unified(self) -> AnsweredCall {
        AnsweredCall {
            // Some models send the text "null" as an id.
            id: self.id.filter(|id| id != "null"),
            name: self.function.name,
            arguments: arguments(self.function.arguments),
            extra: None,
        }
    }
}

/// Adds a chunk to the answer: text, or thoughts with their signature.
fn take(choice: &mut AnswerChoice, chunk: Value) {
    if let Some(text) = chunk.get("text").and_then(Value::as_str) {
        choice.text.get_or_insert_default().push_str(text);
        return;
    }
    let Some(thoughts) = chunk.get("thinking").and_then(Value::as_array) else {
        return;
    };
    let texts = thoughts
        .iter()
        .filter_map(|thought| thought.get("text")?.as_str());
    choice.reasoning.get_or_insert_default().extend(texts);
    choice.keep(DIALECT, chunk);
}
