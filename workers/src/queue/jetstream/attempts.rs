//! The calls for jobs that must not be called again after an unknown outcome, in a stream of their own: a worker that takes
//! over with another data directory has no journal of them.
//!
//! Each identity has one message. Its subject ends with a code that only Forebay can compute, so that no other program can
//! replace it. A worker replaces the message that it has read or written itself, and no other: one that was stopped for long
//! cannot undo what its successor recorded.

use std::collections::HashMap;

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use forebay_schemas::Identity;
use forebay_schemas::header::TAG_HEADER;
use parking_lot::Mutex;
use tracing::warn;

use super::{JetStreamQueue, publish_stored, unavailable};
use crate::attempt_record::AttemptRecord;
use crate::queue::Error;

/// Returns the subject of an identity's calls, without its code.
fn subject_of(queue: &JetStreamQueue, identity: &Identity) -> String {
    let Identity { team, batch, id } = identity;
    queue.names.attempts(team, batch.as_deref(), id)
}

/// The sequence of each identity's message, as this process last read or wrote it.
#[derive(Debug, Default)]
pub(super) struct KnownSequences(Mutex<HashMap<Identity, u64>>);

impl KnownSequences {
    fn of(&self, identity: &Identity) -> u64 {
        self.0.lock().get(identity).copied().unwrap_or(0)
    }

    /// Notes the sequence; 0 if there is no message.
    fn set(&self, identity: &Identity, sequence: u64) {
        let mut known = self.0.lock();
        if sequence == 0 {
            known.remove(identity);
        } else {
            known.insert(identity.clone(), sequence);
        }
    }
}

/// Publishes the calls for a job, and waits until they are stored.
///
/// # Errors
/// Returns an error if they are not stored, and if another worker recorded calls since this one read them.
pub(super) async fn record(
    queue: &JetStreamQueue,
    identity: &Identity,
    record: &AttemptRecord,
) -> Result<(), Error> {
    let tags = queue.schedule_tags().await?;
    let subject = tags.with_code(&subject_of(queue, identity));
    let payload = Bytes::from(serde_json::to_vec(record).map_err(unavailable)?);
    let mut headers = HeaderMap::new();
    let tag = tags.tag(&[subject.as_bytes(), &payload]);
    headers.insert(TAG_HEADER, tag);
    headers.insert(
        NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
        queue.attempts.of(identity).to_string(),
    );
    match publish_stored(&queue.context, subject.clone(), headers, payload.clone()).await {
        Ok(ack) => {
            queue.attempts.set(identity, ack.sequence);
            Ok(())
        }
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
            let stored = last(queue, &subject).await?;
            let sequence = stored.as_ref().map_or(0, |message| message.sequence);
            // The acknowledgement of an earlier try may have been lost.
            if stored.is_some_and(|message| message.payload == payload) {
                queue.attempts.set(identity, sequence);
                return Ok(());
            }
            if sequence == 0 {
                queue.attempts.set(identity, 0);
            }
            Err(Error(format!(
                "the record of the calls of {identity} is not the one that this worker knows"
            )))
        }
        Err(error) => Err(unavailable(error)),
    }
}

/// Returns the calls for a job. The leader of the stream is asked: another server may not have the last message yet.
pub(super) async fn read(
    queue: &JetStreamQueue,
    identity: &Identity,
) -> Result<Option<AttemptRecord>, Error> {
    let tags = queue.schedule_tags().await?;
    let subject = tags.with_code(&subject_of(queue, identity));
    let Some(message) = last(queue, &subject).await? else {
        queue.attempts.set(identity, 0);
        return Ok(None);
    };
    queue.attempts.set(identity, message.sequence);
    if !tags.is_tagged(&message.headers, &[subject.as_bytes(), &message.payload]) {
        warn!(%identity, "a record of calls that Forebay did not write is left out");
        return Ok(None);
    }
    let record = serde_json::from_slice(&message.payload);
    record.map(Some).map_err(unavailable)
}

async fn last(queue: &JetStreamQueue, subject: &str) -> Result<Option<StreamMessage>, Error> {
    let stream = queue.stream(queue.names.attempts_stream()).await?;
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

/// Deletes the calls for a job.
pub(super) async fn forget(queue: &JetStreamQueue, identity: &Identity) -> Result<(), Error> {
    let stream = queue.stream(queue.names.attempts_stream()).await?;
    let subjects = format!("{}.*", subject_of(queue, identity));
    let purged = stream.purge().filter(subjects).await;
    purged.map_err(unavailable)?;
    queue.attempts.set(identity, 0);
    Ok(())
}
