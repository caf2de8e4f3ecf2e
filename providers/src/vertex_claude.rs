//! Anthropic's models at Vertex: their Messages, but the model stands in the address and the version in the body
//! (vendor's SDK 2.12).

use jiff::Timestamp;

use super::anthropic::{Anthropic, FIELDS, request, samples};
use super::chat::{Chat, Fields};
use super::{Adapter, Answer, Call, Kind, Unsupported};
use crate::message::{Reply, Request};

/// The dialect of Anthropic's models at Vertex.
#[derive(Debug)]
pub(super) struct VertexClaude;

impl Adapter for VertexClaude {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Chat]
    }

    fn fields(&self) -> Option<&'static Fields> {
        Some(&FIELDS)
    }

    fn encode(&self, call: &Call<'_>) -> Result<Request, Unsupported> {
        let chat = Chat::read(&call.job.body, &FIELDS, &call.endpoint.provider.name)?;
        let version = call.endpoint.api_version.as_deref().unwrap_or_default();
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

    fn decode(&self, call: &Call<'_>, reply: &Reply, now: Timestamp) -> Option<Answer> {
        Anthropic.decode(call, reply, now)
    }
}
