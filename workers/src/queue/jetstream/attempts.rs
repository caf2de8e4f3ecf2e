//! The calls for jobs that must not be called again after an unknown outcome, in a stream of their own: a worker that takes
//! over with another data directory has no journal of them.
//!
//! Each identity has one message. Its subject ends with a code that only Forebay can compute, so that no other program can
//! replace it.

use async_nats::HeaderMap;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use forebay_schemas::Identity;
use forebay_schemas::header::TAG_HEADER;
use tracing::warn;

use super::{JetStreamQueue, publish_stored, unavailable};
use crate::attempt_record::AttemptRecord;
use crate::queue::Error;

/// Returns the subject of an identity's calls, without its code.
fn subject_of(queue: &JetStreamQueue, identity: &Identity) -> String {
    let Identity { team, batch, id } = identity;
    queue.names.attempts(team, batch.as_deref(), id)
}

/// Publishes the calls for a job, and waits until they are stored.
pub(super) async fn record(
    queue: &JetStreamQueue,
    identity: &Identity,
    record: &AttemptRecord,
) -> Result<(), Error> {
    let tags = queue.schedule_tags().await?;
    let subject = tags.with_code(&subject_of(queue, identity));
    let payload = serde_json::to_vec(record).map_err(unavailable)?;
    let mut headers = HeaderMap::new();
    let tag = tags.tag(&[subject.as_bytes(), &payload]);
    headers.insert(TAG_HEADER, tag);
    let stored = publish_stored(&queue.context, subject, headers, payload.into());
    stored.await.map_err(unavailable)?;
    Ok(())
}

/// Returns the calls for a job. The leader of the stream is asked: another server may not have the last message yet.
pub(super) async fn read(
    queue: &JetStreamQueue,
    identity: &Identity,
) -> Result<Option<AttemptRecord>, Error> {
    let tags = queue.schedule_tags().await?;
    let subject = tags.with_code(&subject_of(queue, identity));
    let stream = queue.stream(queue.names.attempts_stream()).await?;
    let message = match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => message,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
        Err(error) => return Err(unavailable(error)),
    };
    if !tags.is_tagged(&message.headers, &[subject.as_bytes(), &message.payload]) {
        warn!(%identity, "a record of calls that Forebay did not write is left out");
        return Ok(None);
    }
    let record = serde_json::from_slice(&message.payload);
    record.map(Some).map_err(unavailable)
}

/// Deletes the calls for a job.
pub(super) async fn forget(queue: &JetStreamQueue, identity: &Identity) -> Result<(), Error> {
    let stream = queue.stream(queue.names.attempts_stream()).await?;
    let subjects = format!("{}.*", subject_of(queue, identity));
    let purged = stream.purge().filter(subjects).await;
    purged.map_err(unavailable)?;
    Ok(())
}
