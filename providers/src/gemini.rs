//! Gemini's `generateContent` and embeddings.

mod answer;
mod request;

use forebay_schemas::Usage;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::chat::{Chat, Fields};
use super::embedding::Embedding;
use super::{Adapter, Answer, Call, Kind, Unsupported};
use crate::message::{Reply, Request};

/// The dialect's name for what it wants back.
const DIALECT: &str = "gemini";
const FIELDS: Fields = Fields {
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
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Chat, Kind::Embeddings]
    }

    fn fields(&self) -> Option<&'static Fields> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &Call<'_>) -> Result<Request, Unsupported> {
        let method = |name: &str| format!("/models/{}:{name}", call.model_in_path());
        if call.kind == Kind::Embeddings {
            return call.post(&method("batchEmbedContents"), &embed(call)?);
        }
        let chat = Chat::read(&call.job.body, &FIELDS, &call.endpoint.provider.name)?;
        call.post(&method("generateContent"), &request::of(&chat)?)
    }

    fn decode(&self, call: &Call<'_>, reply: &Reply, now: Timestamp) -> Option<Answer> {
        if call.kind == Kind::Embeddings {
            let embedding = Embedding::read(&call.job.body).ok()?;
            let embedded: Embedded = serde_json::from_slice(&reply.body).ok()?;
            let tokens = embedded
                .usage_metadata
                .and_then(|usage| usage.prompt_token_count);
            let usage = tokens.map(|input_tokens| Usage {
                input_tokens,
                ..Usage::default()
            });
            let vectors = embedded
                .embeddings
                .into_iter()
                .map(|vector| vector.values)
                .collect();
            return embedding.answer(call.model, vectors, usage);
        }
        let generated: answer::Generated = serde_json::from_slice(&reply.body).ok()?;
        generated.unified()?.unified(call.model, now)
    }
}

fn embed(call: &Call<'_>) -> Result<serde_json::Value, Unsupported> {
    let embedding = Embedding::read(&call.job.body)?;
    let task = embedding.input_type.as_deref().and_then(task);
    let requests: Vec<_> = embedding
        .texts()
        .iter()
        .map(|text| {
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
            request
        })
        .collect();
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
struct Embedded {
    embeddings: Vec<Vector>,
    usage_metadata: Option<EmbedUsage>,
}

#[derive(Deserialize)]
struct Vector {
    values: Vec<f32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EmbedUsage {
    prompt_token_count: Option<u64>,
}
