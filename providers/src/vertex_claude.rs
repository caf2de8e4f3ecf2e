//! Anthropic's models at Vertex. The body is that of Messages, but the address contains the model,
//! and the body contains the version (vendor's SDK 2.12).

use jiff::Timestamp;

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall};
use crate::anthropic::{Anthropic, FIELDS, request, samples};
use crate::chat::ChatFieldRules;
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::unsupported::Unsupported;

/// The dialect of Anthropic's models at Vertex.
#[derive(Debug)]
pub(super) struct VertexClaude;

impl Adapter for VertexClaude {
    fn kinds(&self) -> &'static [WorkKind] {
        &[WorkKind::Chat]
    }

    fn fields(&self) -> Option<&'static ChatFieldRules> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported> {
        let chat = call.chat(&FIELDS)?;
        let version = call.endpoint.version();
        let mut body = request::of(&chat, call.model, samples(version))?;
        if let Some(body) = body.as_object_mut() {
            body.remove("model");
            body.insert("anthropic_version".to_owned(), version.into());
        }
        call.post(
            &format!("/models/{}:rawPredict", call.model_in_path()),
            &body,
        )
    }

    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        Anthropic.decode(call, reply, now)
    }
}
