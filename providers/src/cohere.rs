//! Cohere's second version: chat, embed and rerank.

mod answer;
mod request;

use forebay_schemas::Usage;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::chat::{Chat, Fields};
use super::embedding::Embedding;
use super::rerank::Rerank;
use super::{Adapter, Answer, Call, Kind, Said, Unsupported};
use crate::message::{Reply, Request};

/// The most texts of one call (vendor's documentation).
const MOST_TEXTS: usize = 96;
/// What vectors are for where a job does not say; the API asks for it.
const INPUT_TYPE: &str = "search_document";
const FIELDS: Fields = Fields {
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

/// Cohere's dialect.
#[derive(Debug)]
pub(super) struct Cohere;

impl Adapter for Cohere {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Chat, Kind::Embeddings, Kind::Rerank]
    }

    fn fields(&self) -> Option<&'static Fields> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &Call<'_>) -> Result<Request, Unsupported> {
        match call.kind {
            Kind::Embeddings => call.post("/v2/embed", &embed(call)?),
            Kind::Rerank => call.post("/v2/rerank", &rerank(call)?),
            _ => {
                let chat = Chat::read(&call.job.body, &FIELDS, &call.endpoint.provider.name)?;
                call.post("/v2/chat", &request::of(&chat, call.model)?)
            }
        }
    }

    fn decode(&self, call: &Call<'_>, reply: &Reply, now: Timestamp) -> Option<Answer> {
        match call.kind {
            Kind::Embeddings => {
                let embedding = Embedding::read(&call.job.body).ok()?;
                let embedded: Embedded = serde_json::from_slice(&reply.body).ok()?;
                let usage = embedded
                    .meta
                    .and_then(|meta| meta.billed_units)
                    .and_then(Billed::usage);
                embedding.answer(call.model, embedded.embeddings.float, usage)
            }
            Kind::Rerank => {
                let body: Box<RawValue> = serde_json::from_slice(&reply.body).ok()?;
                let _: Ranked = serde_json::from_str(body.get()).ok()?;
                Some(Answer {
                    body,
                    usage: None,
                    said: Said::Whole,
                })
            }
            _ => {
                let chat: answer::Chat = serde_json::from_slice(&reply.body).ok()?;
                chat.unified().unified(call.model, now)
            }
        }
    }
}

fn embed(call: &Call<'_>) -> Result<Value, Unsupported> {
    let embedding = Embedding::read(&call.job.body)?;
    let texts = embedding.texts();
    if texts.len() > MOST_TEXTS {
        let problem = format!(
            "has {} texts, Cohere takes at most {MOST_TEXTS} in a call",
            texts.len()
        );
        return Err(Unsupported::new("body.input", problem));
    }
    let mut body = json!({
        "model": call.model,
        "input_type": embedding.input_type.as_deref().unwrap_or(INPUT_TYPE),
        "texts": texts,
        "embedding_types": ["float"],
        // What is too long is refused, as at OpenAI, and not cut.
        "truncate": "NONE",
    });
    if let Some(dimensions) = embedding.dimensions {
        body["output_dimension"] = dimensions.into();
    }
    Ok(body)
}

fn rerank(call: &Call<'_>) -> Result<Value, Unsupported> {
    let rerank = Rerank::read(&call.job.body)?;
    let mut body =
        json!({ "model": call.model, "query": rerank.query, "documents": rerank.documents });
    if let Some(top) = rerank.top_n {
        body["top_n"] = top.into();
    }
    Ok(body)
}

#[derive(Deserialize)]
struct Embedded {
    embeddings: Vectors,
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Vectors {
    float: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Meta {
    billed_units: Option<Billed>,
}

#[derive(Deserialize)]
struct Billed {
    input_tokens: Option<f64>,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that comes as a float"
)]
impl Billed {
    fn usage(self) -> Option<Usage> {
        Some(Usage {
            input_tokens: self.input_tokens? as u64,
            ..Usage::default()
        })
    }
}

/// What an answer to rerank has, so that another one is not taken for it.
#[derive(Deserialize)]
struct Ranked {
    #[serde(rename = "results")]
    _results: Vec<Rank>,
}

#[derive(Deserialize)]
struct Rank {
    #[serde(rename = "index")]
    _index: u64,
    #[serde(rename = "relevance_score")]
    _score: f64,
}
