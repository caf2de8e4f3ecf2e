//! Anthropic's Messages, in both versions of the API.

mod answer;
pub(super) mod request;

use http::HeaderValue;
use jiff::Timestamp;

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall};
use crate::chat::ChatFieldRules;
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::unsupported::Unsupported;

/// The dialect's name in `reasoning_details`.
const DIALECT: &str = "anthropic";
/// The first version without sampling parameters (vendor's SDK 2.12).
const WITHOUT_SAMPLING: &str = "2026-10-21";
pub(super) const FIELDS: ChatFieldRules = ChatFieldRules {
    maps: &[
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "safety_identifier",
        "user",
    ],
};

/// Returns true if a version takes sampling parameters. Vertex had its own names of the older
/// version.
pub(super) fn samples(version: &str) -> bool {
    version < WITHOUT_SAMPLING || version.starts_with("vertex-")
}

/// Anthropic's dialect.
#[derive(Debug)]
pub(super) struct Anthropic;

impl Adapter for Anthropic {
    fn kinds(&self) -> &'static [WorkKind] {
        &[WorkKind::Chat]
    }

    fn fields(&self) -> Option<&'static ChatFieldRules> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        let chat = call.chat(&FIELDS)?;
        let version = call.endpoint.version();
        let body = request::of(&chat, call.model, samples(version))?;
        let mut request = call.post("/v1/messages", &body)?;
        let version = HeaderValue::try_from(version)
            .map_err(|error| Unsupported::new("api_version", error.to_string()))?;
        request.headers.insert("anthropic-version", version);
        Ok(request)
    }

    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        let message: answer::AnthropicMessage = serde_json::from_slice(&reply.body).ok()?;
        message.unified().unified(call.model, now)
    }
}
