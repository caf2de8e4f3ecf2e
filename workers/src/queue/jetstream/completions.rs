//! Completions as messages: encoded, published unless another is there, and read back. What Forebay did not write on their
//! subjects is deleted: see [`CompletionTags`].

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use forebay_schemas::header::{FINGERPRINT_HEADER, MESSAGE_HEADER, OBJECT_HEADER};
use forebay_schemas::{Completion, Identity};
use jiff::Timestamp;
use serde_json::value::RawValue;
use tracing::warn;

use super::{CompletionTags, JetStreamQueue, publish_stored, text_of, traced, unavailable};
use crate::crash::{self, CrashPoint};
use crate::large::{run_blocking_if_large, size_of};
use crate::queue::{CompletionPublication, Error, ExistingCompletion, PublishOutcome};

/// Bytes of a message that are reserved for its headers.
const HEADER_ROOM: usize = 4 * 1024;
/// Limit of messages above a completion that are deleted before the caller has to try again.
const MAX_FOREIGN_AT_ONCE: usize = 1_000;

impl JetStreamQueue {
    /// Returns the identity and the time of the last published completion; `None` if none was published. The identity
    /// is `None` if the completion has left the stream or cannot be decoded, or if Forebay did not write the last message.
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
        let tags = CompletionTags::of_metadata(&stream.cached_info().config.metadata);
        let completion = match stream.get_raw_message(state.last_sequence).await {
            Ok(message) if is_own(&tags, &message) => {
                serde_json::from_slice::<Completion>(&message.payload).ok()
            }
            Ok(_) => None,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
            Err(error) => return Err(unavailable(error)),
        };
        let identity = completion.map(|completion| completion.identity());
        Ok(Some((identity, published)))
    }

    /// Returns the newest message that Forebay wrote on the subject of a completion; `None` if there is none. Deletes what
    /// hides it. The next completion then expects the right sequence, and readers of the last message find it.
    ///
    /// # Errors
    /// Fails if the stream cannot be read, or if new messages hide the completion all the time.
    pub async fn own_completion(&self, subject: &str) -> Result<Option<StreamMessage>, Error> {
        let stream = self.stream(self.names.completions_stream()).await?;
        let mut tags = self.completion_tags().await?;
        for deleted in 0..MAX_FOREIGN_AT_ONCE {
            let last = match stream.get_last_raw_message_by_subject(subject).await {
                Ok(last) => last,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                    return Ok(None);
                }
                Err(error) => return Err(unavailable(error)),
            };
            if !is_own(&tags, &last) && deleted == 0 {
                // The stream may have been created again since its secret was read.
                tags = self.read_completion_tags().await?;
            }
            if is_own(&tags, &last) {
                return Ok(Some(last));
            }
            warn!(
                subject,
                "a message that Forebay did not write is in the place of a completion, and is deleted"
            );
            let deleted = stream.delete_message(last.sequence).await;
            deleted.map_err(unavailable)?;
        }
        Err(unavailable("other messages hide a completion all the time"))
    }

    /// Returns what distinguishes completions of Forebay.
    async fn completion_tags(&self) -> Result<CompletionTags, Error> {
        let known = self.completion_tags.read().clone();
        match known {
            Some(tags) => Ok(tags),
            None => self.read_completion_tags().await,
        }
    }

    /// Reads the metadata of the stream. If the stream has lost its secret, the known one stays.
    async fn read_completion_tags(&self) -> Result<CompletionTags, Error> {
        let stream = self.context.get_stream(self.names.completions_stream());
        let stream = stream.await.map_err(unavailable)?;
        let tags = CompletionTags::of_metadata(&stream.cached_info().config.metadata);
        let mut known = self.completion_tags.write();
        match &*known {
            Some(known) if !tags.has_key() => Ok(known.clone()),
            _ => Ok(known.insert(tags).clone()),
        }
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
    let tags = queue.completion_tags().await?;
    tags.tag(&subject, &mut headers, &payload);
    match publish_stored(&queue.context, subject, headers, payload).await {
        Ok(_) => Ok(PublishOutcome::First),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
            Ok(match read(queue, &identity).await? {
                Some(existing) => PublishOutcome::Already(Box::new(existing)),
                None => PublishOutcome::Gone,
            })
        }
        Err(error) => {
            // The stream may be created again, with another secret.
            *queue.completion_tags.write() = None;
            Err(unavailable(error))
        }
    }
}

/// Publishes the completion of a rejected request on the subject beside that of its identity's completion.
pub(super) async fn publish_rejection(
    queue: &JetStreamQueue,
    completion: &Completion,
    traceparent: Option<&str>,
) -> Result<(), Error> {
    let Identity { team, batch, id } = completion.identity();
    let subject = queue.names.rejection(&team, batch.as_deref(), &id);
    let (mut headers, payload) = queue.message(completion, traceparent).await?;
    let tags = queue.completion_tags().await?;
    tags.tag(&subject, &mut headers, &payload);
    match publish_stored(&queue.context, subject, headers, payload).await {
        Ok(_) => Ok(()),
        Err(error) => {
            // The stream may be created again, with another secret.
            *queue.completion_tags.write() = None;
            Err(unavailable(error))
        }
    }
}

/// Returns the newest message that Forebay wrote on the subject of an identity's completion; `None` if there is none.
pub(super) async fn read(
    queue: &JetStreamQueue,
    identity: &Identity,
) -> Result<Option<ExistingCompletion>, Error> {
    match queue.own_completion(&subject_of(queue, identity)).await? {
        Some(message) => decode(queue, &message).await.map(Some),
        None => Ok(None),
    }
}

fn is_own(tags: &CompletionTags, message: &StreamMessage) -> bool {
    let StreamMessage {
        subject,
        headers,
        payload,
        sequence,
        ..
    } = message;
    tags.is_own(subject, Some(headers), payload, *sequence)
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
