//! A response as an answer to a chat.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::DIALECT;
use crate::chat::answer::{Call, ChatAnswer, Choice, Finish, raw};
use crate::usage::WireUsage;
use crate::{Answer, ErrorBody, Said};

#[derive(Deserialize)]
pub(super) struct Response {
    id: String,
    model: Option<String>,
    status: String,
    #[serde(default)]
    output: Vec<Value>,
    error: Option<Value>,
    incomplete_details: Option<Incomplete>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item {
    Message {
        content: Vec<Part>,
    },
    FunctionCall {
        call_id: String,
        name: String,
        arguments: String,
    },
    Reasoning {
        #[serde(default)]
        summary: Vec<Part>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
    refusal: Option<String>,
}

impl Response {
    pub(super) fn unified(self, model: &str, now: Timestamp) -> Option<Answer> {
        let usage = self.usage.as_ref().and_then(WireUsage::unified);
        let error = self.error.filter(|error| !error.is_null());
        if error.is_some() || !["completed", "incomplete"].contains(&self.status.as_str()) {
            let error = error.unwrap_or_else(|| json!({ "code": self.status }));
            return Some(Answer {
                body: raw(&error)?,
                usage,
                said: Said::Error(ErrorBody::of(&error)),
            });
        }
        let reason = self.incomplete_details.and_then(|details| details.reason);
        let finish = match reason.as_deref() {
            Some("max_output_tokens") => Finish::Length,
            Some("content_filter") => Finish::Filtered,
            _ => Finish::Stop,
        };
        let native_finish = reason.unwrap_or(self.status);
        let mut choice = Choice {
            finish,
            native_finish,
            ..Choice::default()
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

fn take(choice: &mut Choice, value: Value) {
    match Item::deserialize(&value) {
        Ok(Item::Message { content }) => {
            for part in content {
                if let Some(refusal) = part.refusal {
                    choice.finish = Finish::Filtered;
                    choice.text.get_or_insert_default().push_str(&refusal);
                }
                if let Some(text) = part.text {
                    choice.text.get_or_insert_default().push_str(&text);
                }
            }
        }
        Ok(Item::FunctionCall {
            call_id,
            name,
            arguments,
        }) => {
            choice.calls.push(Call {
                id: Some(call_id),
                name,
                arguments,
                extra: None,
            });
        }
        Ok(Item::Reasoning { summary }) => {
            let texts = summary.into_iter().filter_map(|part| part.text);
            let text: String = texts.collect();
            if !text.is_empty() {
                choice.reasoning.get_or_insert_default().push_str(&text);
            }
            // Without its content it is a name that only a stored answer has, and nothing is stored.
            if value.get("encrypted_content").is_some_and(Value::is_string) {
                choice.keep(DIALECT, value);
            }
        }
        Ok(Item::Other) | Err(_) => {}
    }
}
