//! The decoding of Gemini's answer.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::{Value, json};

use super::DIALECT;
use crate::chat::answer::{AnswerChoice, AnsweredCall, ChatAnswer, FinishReason, arguments};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct GeminiAnswer {
    #[serde(default)]
    candidates: Vec<GeminiCandidate>,
    prompt_feedback: Option<PromptFeedback>,
    usage_metadata: Option<GeminiUsage>,
    model_version: Option<String>,
    response_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeminiCandidate {
    content: Option<GeminiContent>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct GeminiContent {
    #[serde(default)]
    parts: Vec<GeminiPart>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeminiPart {
    text: Option<String>,
    #[serde(default)]
    thought: bool,
    thought_signature: Option<Value>,
    function_call: Option<FunctionCall>,
    inline_data: Option<InlineBlob>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InlineBlob {
    mime_type: String,
    data: String,
}

#[derive(Debug, Deserialize)]
struct FunctionCall {
    id: Option<String>,
    name: String,
    #[serde(default)]
    args: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptFeedback {
    block_reason: Option<String>,
}

/// The usage. `candidates_token_count` excludes thoughts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GeminiUsage {
    prompt_token_count: u64,
    tool_use_prompt_token_count: u64,
    cached_content_token_count: u64,
    candidates_token_count: u64,
    thoughts_token_count: u64,
}

impl GeminiAnswer {
    /// Returns the unified answer; `None` where nothing was generated and no reason is given.
    pub(super) fn unified(self) -> Option<ChatAnswer> {
        let candidates = self.candidates.into_iter();
        let mut choices: Vec<_> = candidates.map(GeminiCandidate::choice).collect();
        if choices.is_empty() {
            let native_finish = self.prompt_feedback?.block_reason?;
            choices.push(AnswerChoice {
                finish: FinishReason::Filtered,
                native_finish,
                ..AnswerChoice::default()
            });
        }
        let usage = self.usage_metadata.as_ref().map(GeminiUsage::unified);
        Some(ChatAnswer {
            id: self.response_id,
            model: self.model_version,
            choices,
            usage,
        })
    }
}

impl GeminiCandidate {
    fn choice(self) -> AnswerChoice {
        let reason = self.finish_reason.unwrap_or_default();
        let mut choice = AnswerChoice {
            finish: finish(&reason),
            native_finish: reason,
            ..AnswerChoice::default()
        };
        let parts = self.content.map(|content| content.parts);
        for part in parts.into_iter().flatten() {
            part.take(&mut choice);
        }
        choice
    }
}

impl GeminiPart {
    fn take(self, choice: &mut AnswerChoice) {
        if let Some(call) = self.function_call {
            let extra = self
                .thought_signature
                .map(|signature| json!({ "google": { "thought_signature": signature } }));
            choice.calls.push(AnsweredCall {
                id: call.id,
                name: call.name,
                arguments: arguments(call.args),
                extra,
            });
            return;
        }
        if let Some(InlineBlob { mime_type, data }) = self.inline_data {
            choice
                .images
                .push(format!("data:{mime_type};base64,{data}"));
        }
        let is_signed = self.thought_signature.is_some();
        let Some(text) = self.text.or(is_signed.then(String::new)) else {
            return;
        };
        if self.thought {
            choice.reasoning.get_or_insert_default().push_str(&text);
        } else {
            choice.text.get_or_insert_default().push_str(&text);
        }
        if let Some(data) = self.thought_signature {
            choice.keep(DIALECT, data);
        }
    }
}

fn finish(reason: &str) -> FinishReason {
    match reason {
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "LANGUAGE"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => FinishReason::Filtered,
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "MALFORMED_RESPONSE"
        | "OTHER"
        | "NO_IMAGE" => FinishReason::Failed,
        _ => FinishReason::Stop,
    }
}

impl GeminiUsage {
    fn unified(&self) -> Usage {
        Usage {
            input_tokens: self
                .prompt_token_count
                .saturating_add(self.tool_use_prompt_token_count),
            output_tokens: self
                .candidates_token_count
                .saturating_add(self.thoughts_token_count),
            cached_input_tokens: self.cached_content_token_count,
            cache_write_tokens: 0,
            reasoning_tokens: self.thoughts_token_count,
        }
    }
}
