//! What Ollama answers, as an answer.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::Value;

use crate::chat::answer::{self, ChatAnswer, Choice, Finish};

#[derive(Deserialize)]
pub(super) struct Chat {
    model: Option<String>,
    message: Message,
    done_reason: Option<String>,
    /// Absent where the prompt is in the cache.
    prompt_eval_count: Option<u64>,
    eval_count: Option<u64>,
}

#[derive(Deserialize)]
struct Message {
    content: Option<String>,
    thinking: Option<String>,
    tool_calls: Option<Vec<Call>>,
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

impl Chat {
    pub(super) fn unified(self) -> ChatAnswer {
        let reason = self.done_reason.unwrap_or_default();
        let finish = match reason.as_str() {
            "length" => Finish::Length,
            // The model was only loaded.
            "load" => Finish::Failed,
            _ => Finish::Stop,
        };
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
        let choice = Choice {
            text: self.message.content,
            reasoning: self.message.thinking,
            calls: calls.collect(),
            finish,
            native_finish: reason,
            ..Choice::default()
        };
        let told = self.prompt_eval_count.or(self.eval_count).is_some();
        let usage = told.then(|| Usage {
            input_tokens: self.prompt_eval_count.unwrap_or(0),
            output_tokens: self.eval_count.unwrap_or(0),
            ..Usage::default()
        });
        ChatAnswer {
            id: None,
            model: self.model,
            choices: vec![choice],
            usage,
        }
    }
}
