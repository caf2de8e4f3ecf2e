//! The decoding of Ollama's answer.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::Value;

use crate::chat::answer::{AnswerChoice, AnsweredCall, ChatAnswer, FinishReason, arguments};

#[derive(Deserialize)]
pub(super) struct OllamaChat {
    model: Option<String>,
    message: OllamaMessage,
    done_reason: Option<String>,
    /// The tokens of the prompt; absent where the prompt is in the cache.
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
}

#[derive(Deserialize)]
struct OllamaMessage {
    content: Option<String>,
    thinking: Option<String>,
    tool_calls: Option<Vec<OllamaCall>>,
}

#[derive(Deserialize)]
struct OllamaCall {
    id: Option<String>,
    function: OllamaFunction,
}

#[derive(Deserialize)]
struct OllamaFunction {
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl OllamaChat {
    pub(super) fn unified(self) -> ChatAnswer {
        let usage = self.usage();
        let reason = self.done_reason.unwrap_or_default();
        let finish = match reason.as_str() {
            "length" => FinishReason::Length,
            // The model was loaded and generated nothing.
            "load" => FinishReason::Failed,
            _ => FinishReason::Stop,
        };
        let OllamaMessage {
            content,
            thinking,
            tool_calls,
        } = self.message;
        let calls = tool_calls.into_iter().flatten();
        let choice = AnswerChoice {
            text: content,
            reasoning: thinking,
            calls: calls.map(OllamaCall::unified).collect(),
            finish,
            native_finish: reason,
            ..AnswerChoice::default()
        };
        ChatAnswer {
            id: None,
            model: self.model,
            choices: vec![choice],
            usage,
        }
    }
    fn usage(&self) -> Option<Usage> {
        self.prompt_eval_count.or(self.eval_count)?;
        Some(Usage {
            input_tokens: self.prompt_eval_count.unwrap_or(0),
            output_tokens: self.eval_count.unwrap_or(0),
            ..Usage::default()
        })
    }
}

impl OllamaCall {
    fn unified(self) -> AnsweredCall {
        AnsweredCall {
            id: self.id,
            name: self.function.name,
            arguments: arguments(self.function.arguments),
            extra: None,
        }
    }
}
