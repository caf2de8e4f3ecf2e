//! Cohere's chat response as an answer.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::Value;

use crate::chat::answer::{self, ChatAnswer, Choice, Finish};

#[derive(Deserialize)]
pub(super) struct Chat {
    id: String,
    finish_reason: String,
    message: Message,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<Vec<Item>>,
    tool_calls: Option<Vec<Call>>,
    /// What it means to do with its tools.
    tool_plan: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Item {
    Text {
        text: String,
    },
    Thinking {
        thinking: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    arguments: Value,
}

/// Counts come as floats.
#[derive(Deserialize)]
struct WireUsage {
    tokens: Option<Tokens>,
    /// What is paid for, where that alone is told.
    billed_units: Option<Tokens>,
    cached_tokens: Option<f64>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    input_tokens: f64,
    #[serde(default)]
    output_tokens: f64,
}

impl Chat {
    pub(super) fn unified(self) -> ChatAnswer {
        let finish = match self.finish_reason.as_str() {
            "MAX_TOKENS" => Finish::Length,
            "ERROR" | "TIMEOUT" => Finish::Failed,
            _ => Finish::Stop,
        };
        let mut choice = Choice {
            finish,
            native_finish: self.finish_reason,
            ..Choice::default()
        };
        choice.reasoning = self.message.tool_plan;
        for item in self.message.content.into_iter().flatten() {
            match item {
                Item::Text { text } => choice.text.get_or_insert_default().push_str(&text),
                Item::Thinking { thinking } => {
                    choice.reasoning.get_or_insert_default().push_str(&thinking)
                }
                Item::Other => {}
            }
        }
        let calls = self
            .message
            .tool_calls
            .into_iter()
            .flatten()
            .map(|call| answer::Call {
                id: call.id,
                name: call.function.name,
                arguments: answer::arguments(call.function.arguments),
                extra: None,
            });
        choice.calls = calls.collect();
        let usage = self.usage.and_then(WireUsage::unified);
        ChatAnswer {
            id: Some(self.id),
            model: None,
            choices: vec![choice],
            usage,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts that come as floats"
)]
impl WireUsage {
    fn unified(self) -> Option<Usage> {
        let tokens = self.tokens.or(self.billed_units)?;
        Some(Usage {
            input_tokens: tokens.input_tokens as u64,
            output_tokens: tokens.output_tokens as u64,
            cached_input_tokens: self.cached_tokens.unwrap_or(0.0) as u64,
            ..Usage::default()
        })
    }
}
