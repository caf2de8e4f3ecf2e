//! The decoding of Converse's answer.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::Value;

use super::DIALECT;
use crate::chat::answer::{AnswerChoice, AnsweredCall, ChatAnswer, FinishReason, arguments};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConverseAnswer {
    output: ConverseOutput,
    stop_reason: String,
    usage: BedrockUsage,
}

#[derive(Deserialize)]
struct ConverseOutput {
    message: BedrockMessage,
}

#[derive(Deserialize)]
struct BedrockMessage {
    content: Vec<BedrockBlock>,
}

/// A block, in which one of the members is present.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BedrockBlock {
    text: Option<String>,
    tool_use: Option<ToolUse>,
    reasoning_content: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolUse {
    tool_use_id: String,
    name: String,
    #[serde(default)]
    input: Value,
}

/// The usage. `inputTokens` excludes the tokens that are read from and written to the cache.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BedrockUsage {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_input_tokens: u64,
    cache_write_input_tokens: u64,
}

impl ConverseAnswer {
    pub(super) fn unified(self) -> ChatAnswer {
        let finish = match self.stop_reason.as_str() {
            "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
            "guardrail_intervened" | "content_filtered" => FinishReason::Filtered,
            "malformed_model_output" | "malformed_tool_use" => FinishReason::Failed,
            _ => FinishReason::Stop,
        };
        let mut choice = AnswerChoice {
            finish,
            native_finish: self.stop_reason,
            ..AnswerChoice::default()
        };
        for block in self.output.message.content {
            block.take(&mut choice);
        }
        let usage = Some(self.usage.unified());
        ChatAnswer {
            id: None,
            model: None,
            choices: vec![choice],
            usage,
        }
    }
}

impl BedrockBlock {
    fn take(self, choice: &mut AnswerChoice) {
        if let Some(text) = self.text {
            choice.text.get_or_insert_default().push_str(&text);
        }
        if let Some(call) = self.tool_use {
            choice.calls.push(AnsweredCall {
                id: Some(call.tool_use_id),
                name: call.name,
                arguments: arguments(call.input),
                extra: None,
            });
        }
        if let Some(content) = self.reasoning_content {
            let text = content.pointer("/reasoningText/text");
            if let Some(text) = text.and_then(Value::as_str) {
                choice.reasoning.get_or_insert_default().push_str(text);
            }
            let data = serde_json::json!({ "reasoningContent": content });
            choice.keep(DIALECT, data);
        }
    }
}

impl BedrockUsage {
    fn unified(&self) -> Usage {
        let cached = self
            .cache_read_input_tokens
            .saturating_add(self.cache_write_input_tokens);
        Usage {
            input_tokens: self.input_tokens.saturating_add(cached),
            output_tokens: self.output_tokens,
            cached_input_tokens: self.cache_read_input_tokens,
            cache_write_tokens: self.cache_write_input_tokens,
            reasoning_tokens: 0,
        }
    }
}
