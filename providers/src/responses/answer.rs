//! The decoding of a response into an answer to a chat.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::DIALECT;
use crate::adapter::{AdapterAnswer, AnswerKind};
use crate::chat::answer::{AnswerChoice, AnsweredCall, ChatAnswer, FinishReason, raw};
use crate::error::ErrorBody;
use crate::usage::WireUsage;

#[derive(Deserialize)]
pub(super) struct ResponsesAnswer {
    id: String,
    model: Option<String>,
    status: String,
    #[serde(default)]
    output: Vec<Value>,
    error: Option<Value>,
    incomplete_details: Option<IncompleteDetails>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct IncompleteDetails {
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ResponseItem {
    Message {
        content: Vec<ResponsePart>,
    },
    FunctionCall {
        call_id: String,
        name: String,
        arguments: String,
    },
    Reasoning {
        #[serde(default)]
        summary: Vec<ResponsePart>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct ResponsePart {
    text: Option<String>,
    refusal: Option<String>,
}

impl ResponsesAnswer {
    pub(super) fn unified(self, model: &str, now: Timestamp) -> Option<AdapterAnswer> {
        let usage = self.usage.as_ref().and_then(WireUsage::unified);
        let error = self.error.filter(|error| !error.is_null());
        let is_answered = ["completed", "incomplete"].contains(&self.status.as_str());
        if error.is_some() || !is_answered {
            let error = error.unwrap_or_else(|| json!({ "code": self.status }));
            return Some(AdapterAnswer {
                body: raw(&error)?,
                usage,
                answer_kind: AnswerKind::Error(ErrorBody::of(&error)),
            });
        }
        let reason = self.incomplete_details.and_then(|details| details.reason);
        let finish = match reason.as_deref() {
            Some("max_output_tokens") => FinishReason::Length,
            Some("content_filter") => FinishReason::Filtered,
            _ => FinishReason::Stop,
        };
        let native_finish = reason.unwrap_or(self.status);
        let mut choice = AnswerChoice {
            finish,
            native_finish,
            ..AnswerChoice::default()
        };
        for item in self.output {
            take(&mut choice, item);
        }
        let answer = ChatAnswer {
            id: Some(self.id),
            model: self.model,
            choices: vec![choice],
            usage,
        };
        answer.unified(model, now)
    }
}

fn take(choice: &mut AnswerChoice, value: Value) {
    match ResponseItem::deserialize(&value) {
        Ok(ResponseItem::Message { content }) => {
            for part in content {
                if let Some(refusal) = part.refusal {
                    choice.finish = FinishReason::Filtered;
                    choice.text.get_or_insert_default().push_str(&refusal);
                }
                if let Some(text) = part.text {
                    choice.text.get_or_insert_default().push_str(&text);
                }
            }
        }
        Ok(ResponseItem::FunctionCall {
            call_id,
            name,
            arguments,
        }) => {
            choice.calls.push(AnsweredCall {
                id: Some(call_id),
                name,
                arguments,
                extra: None,
            });
        }
        Ok(ResponseItem::Reasoning { summary }) => {
            let texts = summary.into_iter().filter_map(|part| part.text);
            let text: String = texts.collect();
            if !text.is_empty() {
                choice.reasoning.get_or_insert_default().push_str(&text);
            }
            // Without its content it is the name of a stored item, and nothing is stored.
            if value.get("encrypted_content").is_some_and(Value::is_string) {
                choice.keep(DIALECT, value);
            }
        }
        Ok(ResponseItem::Other) | Err(_) => {}
    }
}
