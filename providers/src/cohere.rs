//! Version 2 of Cohere's API: chat, embed and rerank.

mod answer;
mod request;

use forebay_schemas::Usage;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall, AnswerKind};
use crate::chat::ChatFieldRules;
use crate::embedding::{EmbeddingRequest, usage_of_prompt};
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::rerank::Rerank;
use crate::unsupported::Unsupported;

/// The most texts of one call (vendor's documentation).
const MOST_TEXTS: usize = 96;
/// The purpose of vectors where a job names none; the API requires one.
const INPUT_TYPE: &str = "search_document";
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

/// Cohere's dialect.
#[derive(Debug)]
pub(super) struct Cohere;

impl Adapter for Cohere {
    fn kinds(&self) -> &'static [WorkKind] {
        &[WorkKind::Chat, WorkKind::Embeddings, WorkKind::Rerank]
    }

    fn fields(&self) -> Option<&'static ChatFieldRules> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        match call.kind {
            WorkKind::Embeddings => call.post("/v2/embed", &embed(call)?),
            WorkKind::Rerank => call.post("/v2/rerank", &rerank(call)?),
            _ => {
                let chat = call.chat(&FIELDS)?;
                call.post("/v2/chat", &request::of(&chat, call.model)?)
            }
        }
    }

    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        match call.kind {
            WorkKind::Embeddings => {
                let embedding = EmbeddingRequest::read(&call.job.body).ok()?;
                let embedded: CohereEmbedded = serde_json::from_slice(&reply.body).ok()?;
                let billed = embedded.meta.and_then(|meta| meta.billed_units);
                let usage = billed.and_then(BilledUnits::usage);
                let vectors = embedded.embeddings.float;
                embedding.answer(call.model, vectors, usage)
            }
            WorkKind::Rerank => {
                let body: Box<RawValue> = serde_json::from_slice(&reply.body).ok()?;
                let _: CohereRanked = serde_json::from_str(body.get()).ok()?;
                Some(AdapterAnswer {
                    body,
                    usage: None,
                    answer_kind: AnswerKind::Whole,
                })
            }
            _ => {
                let chat: answer::CohereChat = serde_json::from_slice(&reply.body).ok()?;
                chat.unified().unified(call.model, now)
            }
        }
    }
}

fn embed(call: &AdapterCall<'_>) -> Result<Value, Unsupported> {
    let embedding = EmbeddingRequest::read(&call.job.body)?;
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
        // A text that is too long is refused, as at OpenAI, and not cut.
        "truncate": "NONE",
    });
    if let Some(dimensions) = embedding.dimensions {
        body["output_dimension"] = dimensions.into();
    }
    Ok(body)
}

fn rerank(call: &AdapterCall<'_>) -> Result<Value, Unsupported> {
    let rerank = Rerank::read(&call.job.body)?;
    let mut body =
        json!({ "model": call.model, "query": rerank.query, "documents": rerank.documents });
    if let Some(top) = rerank.top_n {
        body["top_n"] = top.into();
    }
    Ok(body)
}

#[derive(Deserialize)]
struct CohereEmbedded {
    embeddings: CohereVectors,
    meta: Option<CohereMeta>,
}

#[derive(Deserialize)]
struct CohereVectors {
    float: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct CohereMeta {
    billed_units: Option<BilledUnits>,
}

#[derive(Deserialize)]
struct BilledUnits {
    input_tokens: Option<f64>,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that comes as a float"
)]
impl BilledUnits {
    fn usage(self) -> Option<Usage> {
        Some(usage_of_prompt(self.input_tokens? as u64))
    }
}

/// The required parts of an answer to rerank, so that no other answer passes for one.
#[derive(Deserialize)]
struct CohereRanked {
    #[serde(rename = "results")]
    _results: Vec<CohereRank>,
}

#[derive(Deserialize)]
struct CohereRank {
    #[serde(rename = "index")]
    _index: u64,
    #[serde(rename = "relevance_score")]
    _score: f64,
}
