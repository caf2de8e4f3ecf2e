//! Completions as messages: encoded, published unless another is there, and read back.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::DirectGetErrorKind;
use bytes::Bytes;
use forebay_schemas::header::{FINGERPRINT_HEADER, MESSAGE_HEADER, OBJECT_HEADER};
use forebay_schemas::{Completion, Identity};
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::{JetStreamQueue, publish_stored, text_of, traced, unavailable};
use crate::crash::{self, CrashPoint};
use crate::large::{run_blocking_if_large, size_of};
use crate::queue::{CompletionPublication, Error, ExistingCompletion, PublishOutcome};

/// Bytes of a message that are reserved for its headers.
const HEADER_ROOM: usize = 4 * 1024;

impl JetStreamQueue {
    /// Returns the identity and the time of the last published completion; `None` if none was published. The identity
    /// is `None` if the completion has left the stream or cannot be decoded.
    ///
    /// # Errors
    /// Fails if the stream cannot be read.
    pub async fn last_completion(&self) -> Result<Option<(Option<Identity>, Timestamp)>, Error> {
        let name = self.names.completions_stream();
        let stream = self.context.get_stream(name).await;
        let stream = stream.map_err(unavailable)?;
        let state = &stream.cached_info().state;
        if state.last_sequence == 0 {
            return Ok(None);
        }
        let published = state.last_timestamp.unix_timestamp_nanos();
        let published = Timestamp::from_nanosecond(published).map_err(unavailable)?;
        let completion = match stream.direct_get(state.last_sequence).await {
            Ok(message) => serde_json::from_slice::<Completion>(&message.payload).ok(),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => None,
            Err(error) => return Err(unavailable(error)),
        };
        let identity = completion.map(|completion| completion.identity());
        Ok(Some((identity, published)))
    }

    /// Returns the size of the largest payload that the server takes beside the headers, in bytes.
    fn room(&self) -> usize {
        self.client.max_payload().saturating_sub(HEADER_ROOM)
    }

    /// Encodes a completion as the headers and the payload of a message. If no message can hold it, an object holds the
    /// whole completion, the payload leaves out its body, and a header names the object.
    ///
    /// # Errors
    /// Fails if the completion cannot be encoded, or the object cannot be kept.
    pub async fn message(
        &self,
        completion: &Completion,
        traceparent: Option<&str>,
    ) -> Result<(HeaderMap, Bytes), Error> {
        let mut headers = traced(traceparent);
        let whole = run_blocking_if_large(size_of(completion), || json(completion))?;
        if whole.len() <= self.room() {
            return Ok((headers, whole));
        }
        let object = self.answers.keep(&self.names, completion, &whole);
        headers.insert(OBJECT_HEADER, object.await?);
        let mut rest = without_body(completion);
        let mut payload = json(&rest)?;
        if payload.len() > self.room() {
            // The server takes only very small messages. The object still holds the calls.
            rest.attempts.clear();
            payload = json(&rest)?;
        }
        Ok((headers, payload))
    }
}

/// Publishes a completion, unless its subject holds another message than the one that it replaces.
pub(super) async fn publish(
    queue: &JetStreamQueue,
    publication: CompletionPublication<'_>,
) -> Result<PublishOutcome, Error> {
    let completion = publication.completion;
    let identity = completion.identity();
    let subject = subject_of(queue, &identity);
    let (mut headers, payload) = queue.message(completion, publication.traceparent).await?;
    crash::at(CrashPoint::Kept);
    headers.insert(
        NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
        publication.replaces.to_string(),
    );
    headers.insert(FINGERPRINT_HEADER, publication.fingerprint);
    if let Some(message) = publication.message {
        headers.insert(MESSAGE_HEADER, message);
    }
    match publish_stored(&queue.context, subject, headers, payload).await {
        Ok(_) => Ok(PublishOutcome::First),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
            Ok(match read(queue, &identity).await? {
                Some(existing) => PublishOutcome::Already(Box::new(existing)),
                None => PublishOutcome::Gone,
            })
        }
        Err(error) => Err(unavailable(error)),
    }
}

/// Returns the message on the subject of an identity's completion; `None` if there is none.
pub(super) async fn read(
    queue: &JetStreamQueue,
    identity: &Identity,
) -> Result<Option<ExistingCompletion>, Error> {
    let name = queue.names.completions_stream();
    let stream = queue.stream(name).await?;
    let subject = subject_of(queue, identity);
    match stream.direct_get_last_for_subject(subject).await {
        Ok(message) => decode(queue, &message).await.map(Some),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

/// Returns the subject of an identity's completion.
fn subject_of(queue: &JetStreamQueue, identity: &Identity) -> String {
    let Identity { team, batch, id } = identity;
    queue.names.completion(team, batch.as_deref(), id)
}

async fn decode(
    queue: &JetStreamQueue,
    message: &StreamMessage,
) -> Result<ExistingCompletion, Error> {
    let header = |name: &str| text_of(&message.headers, name);
    let completion = match serde_json::from_slice(&message.payload).ok() {
        // A completion whose object is gone counts as none.
        Some(completion) => {
            let object = header(OBJECT_HEADER);
            let whole = queue.answers.whole(completion, object.as_deref());
            whole.await?
        }
        None => None,
    };
    let published = message.time.unix_timestamp_nanos();
    Ok(ExistingCompletion {
        completion,
        fingerprint: header(FINGERPRINT_HEADER),
        message: header(MESSAGE_HEADER),
        published: Timestamp::from_nanosecond(published).map_err(unavailable)?,
        sequence: message.sequence,
    })
}

fn json(completion: &Completion) -> Result<Bytes, Error> {
    serde_json::to_vec(completion)
        .map(Bytes::from)
        .map_err(unavailable)
}

/// Returns the part of a large completion that a message can hold: all but the answer's body and the metadata.
fn without_body(completion: &Completion) -> Completion {
    let mut rest = Completion {
        metadata: None,
        ..completion.clone()
    };
    if let Some(response) = &mut rest.response {
        response.body = RawValue::NULL.to_owned();
    }
    rest
}
