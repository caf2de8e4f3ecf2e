//! OpenAI's Responses. A job that is one is sent as it is. A chat is encoded as one, for models
//! without another API.

mod answer;
mod request;

use jiff::Timestamp;

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall};
use crate::chat::ChatFieldRules;
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::openai::OpenAi;
use crate::unsupported::Unsupported;

/// The dialect's name in `reasoning_details`.
const DIALECT: &str = "responses";
const FIELDS: ChatFieldRules = ChatFieldRules {
    maps: &[
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "verbosity",
        "service_tier",
        "safety_identifier",
        "user",
        "metadata",
        "prompt_cache_key",
    ],
};

/// OpenAI's dialect of Responses.
#[derive(Debug)]
pub(super) struct Responses;

impl Adapter for Responses {
    fn kinds(&self) -> &'static [WorkKind] {
        &[WorkKind::Chat, WorkKind::Responses]
    }

    fn fields(&self) -> Option<&'static ChatFieldRules> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        if call.kind == WorkKind::Responses {
            return OpenAi.encode(call);
        }
        let chat = call.chat(&FIELDS)?;
        call.post("/responses", &request::of(&chat, call.model)?)
    }

    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        if call.kind == WorkKind::Responses {
            return OpenAi.decode(call, reply, now);
        }
        let response: answer::ResponsesAnswer = serde_json::from_slice(&reply.body).ok()?;
        response.unified(call.model, now)
    }
}
