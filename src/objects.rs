//! What no message can hold, on its way: jobs go out as objects that their messages name, and completions come in
//! whole.

use anyhow::Context as _;
use async_nats::HeaderMap;
use bytes::Bytes;
use forebay_schemas::subjects::OBJECT_HEADER;
use forebay_schemas::{Completion, Identity};
use forebay_workers::queue::jetstream::Objects;
use serde_json::json;

use crate::connection::Connection;

/// Room for a message's headers beside its payload, in bytes.
const HEADER_ROOM: usize = 1_024;

impl Connection {
    /// Whether no message can hold a job of so many bytes.
    pub fn is_large(&self, size: usize) -> bool {
        size + HEADER_ROOM > self.client.max_payload()
    }

    /// The message of a job: itself, or where it is large all that names it, the job itself being kept as an
    /// object that a header names.
    ///
    /// # Errors
    /// When the object cannot be kept.
    pub async fn enclose(
        &self,
        identity: &Identity,
        job: Bytes,
        headers: &mut HeaderMap,
    ) -> anyhow::Result<Bytes> {
        if !self.is_large(job.len()) {
            return Ok(job);
        }
        let Identity { team, batch, id } = identity;
        let object = self.names.object(team, batch.as_deref(), id);
        let kept = self.requests().put(&object, &job).await;
        kept.with_context(|| format!("the job of {} bytes cannot be kept as an object", job.len()))?;
        headers.insert(OBJECT_HEADER, object);
        Ok(json!({ "id": id, "batch": batch }).to_string().into())
    }

    /// The jobs that no message can hold.
    pub fn requests(&self) -> Objects {
        Objects::of_requests(&self.context, &self.names, self.client.max_payload())
    }

    /// The whole completion of a message that may name an object.
    ///
    /// # Errors
    /// When the message holds none, or the object cannot be fetched now.
    pub async fn open_completion(
        &self,
        payload: &[u8],
        headers: Option<&HeaderMap>,
    ) -> anyhow::Result<Completion> {
        let completion = serde_json::from_slice(payload)?;
        let object = object_of(headers);
        let answers = Objects::of_answers(&self.context, &self.names, self.client.max_payload());
        Ok(answers.whole(completion, object.as_deref()).await?)
    }
}

/// The object that a message names.
pub(crate) fn object_of(headers: Option<&HeaderMap>) -> Option<String> {
    Some(headers?.get(OBJECT_HEADER)?.as_str().to_owned())
}
