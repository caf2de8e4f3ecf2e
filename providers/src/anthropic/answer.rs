//! The decoding of Anthropic's message.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::Value;

use super::DIALECT;
use crate::chat::answer::{AnswerChoice, AnsweredCall, ChatAnswer, FinishReason, arguments};

#[derive(Debug, Deserialize)]
pub(super) struct AnthropicMessage {
    id: String,
    model: String,
    content: Vec<Value>,
    stop_reason: Option<String>,
    stop_details: Option<StopDetails>,
    usage: AnthropicUsage,
}

#[derive(Debug, Deserialize)]
struct StopDetails {
    category: Option<String>,
}

/// The usage. `input_tokens` excludes the tokens that are read from and written to the cache.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AnthropicUsage {
    input_tokens: u64,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: u64,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Debug, Deserialize)]
struct OutputDetails {
    #[serde(default)]
    thinking_tokens: u64,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum AnthropicBlock {
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Value,
    },
    Thinking {
        thinking: String,
    },
    RedactedThinking {},
    /// Kinds that appear later contain nothing that was requested.
    #[serde(other)]
    Other,
}

impl AnthropicMessage {
    pub(super) fn unified(self) -> ChatAnswer {
        let reason = self.stop_reason.unwrap_or_default();
        let category = self.stop_details.and_then(|details| details.category);
        let mut choice = AnswerChoice {
            finish: finish(&reason),
            native_finish: category.map_or_else(
                || reason.clone(),
                |category| format!("{reason} ({category})"),
            ),
            ..AnswerChoice::default()
        };
        for value in self.content {
            take(&mut choice, value);
        }
        let usage = Some(self.usage.unified());
        ChatAnswer {
            id: Some(self.id),
            model: Some(self.model),
            choices: vec![choice],
            usage,
        }
    }
}

fn take(choice: &mut AnswerChoice, value: Value) {
    match AnthropicBlock::deserialize(&value) {
        Ok(AnthropicBlock::Text { text }) => choice.text.get_or_insert_default().push_str(&text),
        Ok(AnthropicBlock::ToolUse { id, name, input }) => {
            choice.calls.push(AnsweredCall {
                id: Some(id),
                name,
                arguments: arguments(input),
                extra: None,
            });
        }
        Ok(AnthropicBlock::Thinking { thinking }) => {
            choice.reasoning.get_or_insert_default().push_str(&thinking);
            choice.keep(DIALECT, value);
        }
        Ok(AnthropicBlock::RedactedThinking {}) => choice.keep(DIALECT, value),
        Ok(AnthropicBlock::Other) | Err(_) => {}
    }
}

fn finish(reason: &str) -> FinishReason {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
        "refusal" => FinishReason::Filtered,
        _ => FinishReason::Stop,
    }
}

impl AnthropicUsage {
    fn unified(&self) -> Usage {
        let read = self.cache_read_input_tokens.unwrap_or(0);
        let written = self.cache_creation_input_tokens.unwrap_or(0);
        Usage {
            input_tokens: self
                .input_tokens
                .saturating_add(read)
                .saturating_add(written),
            output_tokens: self.output_tokens,
            cached_input_tokens: read,
            cache_write_tokens: written,
            reasoning_tokens: self
                .output_tokens_details
                .as_ref()
                .map_or(0, |details| details.thinking_tokens),
        }
    }
}
