//! Bedrock's Converse.

mod answer;
mod request;

use jiff::Timestamp;

use super::chat::{Chat, Fields};
use super::{Adapter, Answer, Call, Kind, Unsupported};
use crate::message::{Reply, Request};

/// The dialect's name for what it wants back.
const DIALECT: &str = "bedrock";
const FIELDS: Fields = Fields {
    maps: &[
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "tools",
        "tool_choice",
        "reasoning_effort",
        "service_tier",
    ],
};

/// Bedrock's dialect.
#[derive(Debug)]
pub(super) struct Bedrock;

impl Adapter for Bedrock {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Chat]
    }

    fn fields(&self) -> Option<&'static Fields> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &Call<'_>) -> Result<Request, Unsupported> {
        let chat = Chat::read(&call.job.body, &FIELDS, &call.endpoint.provider.name)?;
        // An id may be an ARN; AWS signs the path with its colons and slashes encoded.
        let path = format!("/model/{}/converse", call.model_in_path());
        call.post(&path, &request::of(&chat, call.model)?)
    }

    fn decode(&self, call: &Call<'_>, reply: &Reply, now: Timestamp) -> Option<Answer> {
        let conversed: answer::Conversed = serde_json::from_slice(&reply.body).ok()?;
        conversed.unified().unified(call.model, now)
    }
}
