//! Gemini's `generateContent` and embeddings.

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

/// The dialect's name in `reasoning_details`.
const DIALECT: &str = "gemini";
const FIELDS: ChatFieldRules = ChatFieldRules {
    maps: &[
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "n",
        "tools",
        "tool_choice",
        "reasoning_effort",
    ],
};

/// Gemini's dialect.
#[derive(Debug)]
pub(super) struct Gemini;

impl Adapter for Gemini {
    fn kinds(&self) -> &'static [WorkKind] {
        &[WorkKind::Chat, WorkKind::Embeddings]
    }

    fn fields(&self) -> Option<&'static ChatFieldRules> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        let method = |name: &str| format!("/models/{}:{name}", call.model_in_path());
        if call.kind == WorkKind::Embeddings {
            return call.post(&method("batchEmbedContents"), &embed(call)?);
        }
        let chat = call.chat(&FIELDS)?;
        call.post(&method("generateContent"), &request::of(&chat)?)
    }

    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        if call.kind == WorkKind::Embeddings {
            let embedding = EmbeddingRequest::read(&call.job.body).ok()?;
            let embedded: GeminiEmbedded = serde_json::from_slice(&reply.body).ok()?;
            let metadata = embedded.usage_metadata;
            let tokens = metadata.and_then(|usage| usage.prompt_token_count);
            let vectors = embedded.embeddings.into_iter();
            let vectors = vectors.map(|vector| vector.values).collect();
            return embedding.answer(call.model, vectors, tokens.map(usage_of_prompt));
        }
        let generated: answer::GeminiAnswer = serde_json::from_slice(&reply.body).ok()?;
        generated.unified()?.unified(call.model, now)
    }
}

fn embed(call: &AdapterCall<'_>) -> Result<Value, Unsupported> {
    let embedding = EmbeddingRequest::read(&call.job.body)?;
    let task = embedding.input_type.as_deref().and_then(task);
    let mut requests = Vec::new();
    for text in embedding.texts() {
        let mut request = json!({
            "model": format!("models/{}", call.model),
            "content": { "parts": [{ "text": text }] },
        });
        if let Some(dimensions) = embedding.dimensions {
            request["outputDimensionality"] = dimensions.into();
        }
        if let Some(task) = task {
            request["taskType"] = task.into();
        }
        requests.push(request);
    }
    Ok(json!({ "requests": requests }))
}

fn task(input_type: &str) -> Option<&'static str> {
    match input_type {
        "search_document" => Some("RETRIEVAL_DOCUMENT"),
        "search_query" => Some("RETRIEVAL_QUERY"),
        "classification" => Some("CLASSIFICATION"),
        "clustering" => Some("CLUSTERING"),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GeminiEmbedded {
    embeddings: Vec<GeminiVector>,
    usage_metadata: Option<EmbedUsage>,
}

#[derive(Deserialize)]
struct GeminiVector {
    values: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EmbedUsage {
    prompt_token_count: Option<u64>,
}
