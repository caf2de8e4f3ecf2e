//! The decoding of Cohere's chat response.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::Value;

use crate::chat::answer::{AnswerChoice, AnsweredCall, ChatAnswer, FinishReason, arguments};

#[derive(Deserialize)]
pub(super) struct CohereChat {
    id: String,
    finish_reason: String,
    message: CohereMessage,
    usage: Option<CohereUsage>,
}

#[derive(Deserialize)]
struct CohereMessage {
    content: Option<Vec<CohereItem>>,
    tool_calls: Option<Vec<CohereCall>>,
    /// The model's plan for its tools.
    tool_plan: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum CohereItem {
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
struct CohereCall {
    id: Option<String>,
    function: CohereFunction,
}

#[derive(Deserialize)]
struct CohereFunction {
    name: String,
    #[serde(default)]
    arguments: Value,
}

/// The usage; its counts are floats.
#[derive(Deserialize)]
struct CohereUsage {
    tokens: Option<CohereTokens>,
    /// The billed tokens, which count where the response has no others.
    billed_units: Option<CohereTokens>,
    cached_tokens: Option<f64>,
}

#[derive(Deserialize)]
struct CohereTokens {
    #[serde(default)]
    input_tokens: f64,
    #[serde(default)]
    output_tokens: f64,
}

impl CohereChat {
    pub(super) fn unified(self) -> ChatAnswer {
        let finish = match self.finish_reason.as_str() {
            "MAX_TOKENS" => FinishReason::Length,
            "ERROR" | "TIMEOUT" => FinishReason::Failed,
            _ => FinishReason::Stop,
        };
        let mut choice = AnswerChoice {
            finish,
            native_finish: self.finish_reason,
            ..AnswerChoice::default()
        };
        let CohereMessage {
            content,
            tool_calls,
            tool_plan,
        } = self.message;
        choice.reasoning = tool_plan;
        for item in content.into_iter().flatten() {
            match item {
                CohereItem::Text { text } => choice.text.get_or_insert_default().push_str(&text),
                CohereItem::Thinking { thinking } => {
                    choice.reasoning.get_or_insert_default().push_str(&thinking)
                }
                CohereItem::Other => {}
            }
        }
        let calls = tool_calls.into_iter().flatten();
        choice.calls = calls.map(CohereCall::unified).collect();
        let usage = self.usage.and_then(CohereUsage::unified);
        ChatAnswer {
            id: Some(self.id),
            model: None,
            choices: vec![choice],
            usage,
        }
    }
}

impl CohereCall {
    fn unified(self) -> AnsweredCall {
        AnsweredCall {
            id: self.id,
            name: self.function.name,
            arguments: arguments(self.function.arguments),
            extra: None,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts that come as floats"
)]
impl CohereUsage {
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
