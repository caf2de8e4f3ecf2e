//! Ollama's own chat and embeddings.

mod answer;
mod request;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall};
use crate::chat::ChatFieldRules;
use crate::embedding::{EmbeddingRequest, usage_of_prompt};
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::unsupported::Unsupported;

const FIELDS: ChatFieldRules = ChatFieldRules {
    maps: &[
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "tools",
        "tool_choice",
        "reasoning_effort",
    ],
};

/// Ollama's dialect.
#[derive(Debug)]
pub(super) struct Ollama;

impl Adapter for Ollama {
    fn kinds(&self) -> &'static [WorkKind] {
        &[WorkKind::Chat, WorkKind::Embeddings]
    }

    fn fields(&self) -> Option<&'static ChatFieldRules> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        if call.kind == WorkKind::Embeddings {
            return call.post("/api/embed", &embed(call)?);
        }
        let chat = call.chat(&FIELDS)?;
        call.post("/api/chat", &request::of(&chat, call.model)?)
    }

    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        if call.kind == WorkKind::Embeddings {
            let embedding = EmbeddingRequest::read(&call.job.body).ok()?;
            let embedded: OllamaEmbedded = serde_json::from_slice(&reply.body).ok()?;
            let usage = embedded.prompt_eval_count.map(usage_of_prompt);
            return embedding.answer(call.model, embedded.embeddings, usage);
        }
        let chat: answer::OllamaChat = serde_json::from_slice(&reply.body).ok()?;
        chat.unified().unified(call.model, now)
    }
}

fn embed(call: &AdapterCall<'_>) -> Result<Value, Unsupported> {
    let embedding = EmbeddingRequest::read(&call.job.body)?;
    embedding.without(&[("input_type", embedding.input_type.is_some())], "Ollama")?;
    // A text that is too long is refused, as at OpenAI, and not cut.
    let mut body = json!({ "model": call.model, "input": embedding.texts(), "truncate": false });
    if let Some(dimensions) = embedding.dimensions {
        body["dimensions"] = dimensions.into();
    }
    Ok(body)
}

#[derive(Deserialize)]
struct OllamaEmbedded {
    embeddings: Vec<Vec<f32>>,
    prompt_eval_count: Option<u64>,
}
