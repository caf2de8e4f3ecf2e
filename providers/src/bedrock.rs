//! Bedrock's Converse.

mod answer;
mod request;

use jiff::Timestamp;

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall};
use crate::chat::ChatFieldRules;
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::unsupported::Unsupported;

/// The dialect's name in `reasoning_details`.
const DIALECT: &str = "bedrock";
const FIELDS: ChatFieldRules = ChatFieldRules {
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
    fn kinds(&self) -> &'static [WorkKind] {
        &[WorkKind::Chat]
    }

    fn fields(&self) -> Option<&'static ChatFieldRules> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        let chat = call.chat(&FIELDS)?;
        // A model's id may be an ARN. AWS signs the path with its colons and slashes encoded.
        let path = format!("/model/{}/converse", call.model_in_path());
        call.post(&path, &request::of(&chat, call.model)?)
    }

    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        let conversed: answer::ConverseAnswer = serde_json::from_slice(&reply.body).ok()?;
        conversed.unified().unified(call.model, now)
    }
}
