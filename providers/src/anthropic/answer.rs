//! Anthropic's message as an answer.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::Value;

use super::DIALECT;
use crate::chat::answer::{Call, ChatAnswer, Choice, Finish, arguments};

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    id: String,
    model: String,
    content: Vec<Value>,
    stop_reason: Option<String>,
    stop_details: Option<StopDetails>,
    usage: WireUsage,
}

#[derive(Debug, Deserialize)]
struct StopDetails {
    category: Option<String>,
}

/// `input_tokens` excludes what was read from and written to the cache.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireUsage {
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
enum Block {
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
    /// Kinds that appear later say nothing that was asked for.
    #[serde(other)]
    Other,
}

impl Message {
    pub(super) fn unified(self) -> ChatAnswer {
        let reason = self.stop_reason.unwrap_or_default();
        let category = self.stop_details.and_then(|details| details.category);
        let mut choice = Choice {
            finish: finish(&reason),
            native_finish: category.map_or_else(
                || reason.clone(),
                |category| format!("{reason} ({category})"),
            ),
            ..Choice::default()
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

fn take(choice: &mut Choice, value: Value) {
    match Block::deserialize(&value) {
        Ok(Block::Text { text }) => choice.text.get_or_insert_default().push_str(&text),
        Ok(Block::ToolUse { id, name, input }) => {
            choice.calls.push(Call {
                id: Some(id),
                name,
                arguments: arguments(input),
                extra: None,
            });
        }
        Ok(Block::Thinking { thinking }) => {
            choice.reasoning.get_or_insert_default().push_str(&thinking);
            choice.keep(DIALECT, value);
        }
        Ok(Block::RedactedThinking {}) => choice.keep(DIALECT, value),
        Ok(Block::Other) | Err(_) => {}
    }
}

fn finish(reason: &str) -> Finish {
    match reason {
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "refusal" => Finish::Filtered,
        _ => Finish::Stop,
    }
}

impl WireUsage {
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
