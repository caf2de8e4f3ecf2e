//! Mistral's chat, which resembles OpenAI's. It refuses fields that it does not know, has its own
//! form of ids of calls, and answers in chunks where it thinks.

mod answer;
mod moderation;
mod request;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall};
use crate::chat::ChatFieldRules;
use crate::embedding::EmbeddingRequest;
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::openai::OpenAi;
use crate::unsupported::Unsupported;

/// The dialect's name in `reasoning_details`.
const DIALECT: &str = "mistral";
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
        "parallel_tool_calls",
        "reasoning_effort",
        "metadata",
        "prompt_cache_key",
    ],
};

/// Mistral's dialect.
#[derive(Debug)]
pub(super) struct Mistral;

impl Adapter for Mistral {
    fn kinds(&self) -> &'static [WorkKind] {
        &[
            WorkKind::Chat,
            WorkKind::Embeddings,
            WorkKind::Moderation,
            WorkKind::Transcription,
        ]
    }

    fn fields(&self) -> Option<&'static ChatFieldRules> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        match call.kind {
            WorkKind::Chat => {
                let chat = call.chat(&FIELDS)?;
                call.post("/chat/completions", &request::of(&chat, call.model)?)
            }
            WorkKind::Embeddings => call.post("/embeddings", &embed(call)?),
            _ => OpenAi.encode(call),
        }
    }

    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        match call.kind {
            WorkKind::Chat => {
                let completion: answer::MistralCompletion =
                    serde_json::from_slice(&reply.body).ok()?;
                completion.unified().unified(call.model, now)
            }
            WorkKind::Moderation => {
                let moderated: moderation::ModerationAnswer =
                    serde_json::from_slice(&reply.body).ok()?;
                moderated.unified(call.model)
            }
            _ => OpenAi.decode(call, reply, now),
        }
    }
}

fn embed(call: &AdapterCall<'_>) -> Result<Value, Unsupported> {
    let embedding = EmbeddingRequest::read(&call.job.body)?;
    embedding.without(&[("input_type", embedding.input_type.is_some())], "Mistral")?;
    let mut body = json!({
        "model": call.model,
        "input": embedding.texts(),
        "encoding_format": embedding.encoding(),
    });
    if let Some(dimensions) = embedding.dimensions {
        body["output_dimension"] = dimensions.into();
    }
    Ok(body)
}
