//! What Gemini generated, as an answer.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde_json::{Value, json};

use super::DIALECT;
use crate::chat::answer::{Call, ChatAnswer, Choice, Finish, arguments};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Generated {
    #[serde(default)]
    candidates: Vec<Candidate>,
    prompt_feedback: Option<Feedback>,
    usage_metadata: Option<WireUsage>,
    model_version: Option<String>,
    response_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Content {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    text: Option<String>,
    #[serde(default)]
    thought: bool,
    thought_signature: Option<Value>,
    function_call: Option<FunctionCall>,
    inline_data: Option<Blob>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
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
struct Feedback {
    block_reason: Option<String>,
}

/// `candidates_token_count` excludes thoughts.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireUsage {
    prompt_token_count: u64,
    tool_use_prompt_token_count: u64,
    cached_content_token_count: u64,
    candidates_token_count: u64,
    thoughts_token_count: u64,
}

impl Generated {
    /// `None` where nothing was generated and nothing says why.
    pub(super) fn unified(self) -> Option<ChatAnswer> {
        let blocked = self
            .prompt_feedback
            .and_then(|feedback| feedback.block_reason);
        let mut choices: Vec<_> = self.candidates.into_iter().map(Candidate::choice).collect();
        if choices.is_empty() {
            let native_finish = blocked?;
            choices.push(Choice {
                finish: Finish::Filtered,
                native_finish,
                ..Choice::default()
            });
        }
        let usage = self.usage_metadata.as_ref().map(WireUsage::unified);
        Some(ChatAnswer {
            id: self.response_id,
            model: self.model_version,
            choices,
            usage,
        })
    }
}

impl Candidate {
    fn choice(self) -> Choice {
        let reason = self.finish_reason.unwrap_or_default();
        let mut choice = Choice {
            finish: finish(&reason),
            native_finish: reason,
            ..Choice::default()
        };
        for part in self.content.into_iter().flat_map(|content| content.parts) {
            part.take(&mut choice);
        }
        choice
    }
}

impl Part {
    fn take(self, choice: &mut Choice) {
        if let Some(call) = self.function_call {
            let extra = self
                .thought_signature
                .map(|signature| json!({ "google": { "thought_signature": signature } }));
            choice.calls.push(Call {
                id: call.id,
                name: call.name,
                arguments: arguments(call.args),
                extra,
            });
            return;
        }
        if let Some(Blob { mime_type, data }) = self.inline_data {
            choice
                .images
                .push(format!("data:{mime_type};base64,{data}"));
        }
        let Some(text) = self
            .text
            .or(self.thought_signature.is_some().then(String::new))
        else {
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

fn finish(reason: &str) -> Finish {
    match reason {
        "MAX_TOKENS" => Finish::Length,
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "LANGUAGE"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => Finish::Filtered,
        "MALFORMED_FUNCTION_CALL"
        | "UNEXPECTED_TOOL_CALL"
        | "TOO_MANY_TOOL_CALLS"
        | "MISSING_THOUGHT_SIGNATURE"
        | "MALFORMED_RESPONSE"
        | "OTHER"
        | "NO_IMAGE" => Finish::Failed,
        _ => Finish::Stop,
    }
}

impl WireUsage {
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
