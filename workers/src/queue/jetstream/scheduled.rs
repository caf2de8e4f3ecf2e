//! Postponed jobs. Each is a message schedule, which the server fires back to the job's flow.
//!
//! A message on the subject of a schedule stops it. Its subject therefore ends with a code that only Forebay can compute.
//! The message carries a tag, which distinguishes a fired schedule from any other message on the subject of due jobs.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use forebay_schemas::Identity;
use forebay_schemas::header::{OBJECT_HEADER, TAG_HEADER};
use futures::TryStreamExt;
use jiff::Timestamp;
use tracing::warn;

use super::{
    JetStreamQueue, STATE, TRACEPARENT, one_line, publish_stored, text_of, traced, unavailable,
};
use crate::controls::CancelledJobs;
use crate::queue::{Error, PostponedJob, PostponedState};
use crate::tags::TagKey;

/// The header that names the subject on which a schedule fires.
pub(super) const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";
/// Largest total size of the subjects that get a copy of a postponed job's completion, in bytes.
const MOST_REPLIES: usize = 24 * 1024;
/// Limit of jobs whose wait is ended at once.
const AT_ONCE: usize = 64;

/// Publishes the schedule of a job. There is one per subject. After a crash between this and the ack of the job's
/// delivery, the next schedule replaces it, and the job fires once. Returns false if another request waits there.
pub(super) async fn postpone(queue: &JetStreamQueue, mut job: PostponedJob) -> Result<bool, Error> {
    let Identity { team, batch, id } = &job.identity;
    let tags = queue.schedule_tags().await?;
    let subject = tags.with_code(&queue.names.scheduled(team, batch.as_deref(), id));
    let (last, before) = scheduled(queue, &subject).await?;
    let state = &mut job.state;
    if let Some(before) = before {
        if before.fingerprint != state.fingerprint {
            return Ok(false);
        }
        merge(state, before);
    }
    shorten(&mut state.replies, &subject);
    // The headers of the job's message are not copied: with its message id the server would drop the schedule.
    let mut headers = traced(job.traceparent.as_deref());
    // A schedule that came since it was read would be replaced unseen. The server refuses that, and the caller retries.
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
    headers.insert("Nats-Schedule", format!("@at {}", job.at));
    let target = queue.names.due(&job.flow);
    headers.insert(SCHEDULE_TARGET, target.as_str());
    if let Some(object) = &job.object {
        headers.insert(OBJECT_HEADER, one_line(object));
    }
    let state = serde_json::to_string(&job.state).map_err(unavailable)?;
    headers.insert(STATE, state);
    tag(&tags, &target, &mut headers, &job.payload);
    let ack = publish_stored(&queue.context, subject, headers, job.payload);
    let ack = ack.await.map_err(unavailable)?;
    if ack.duplicate {
        return Err(unavailable(
            "the server took the schedule for one that it had",
        ));
    }
    Ok(true)
}

/// Adds the tag of a postponed job to its headers. `target` is the subject on which the job comes back.
pub(super) fn tag(tags: &TagKey, target: &str, headers: &mut HeaderMap, payload: &[u8]) {
    let tag = with_parts(target, headers, payload, |parts| tags.tag(parts));
    headers.insert(TAG_HEADER, tag);
}

/// Returns true if a message on the subject of due jobs is one that Forebay postponed.
pub(super) fn is_tagged(tags: &TagKey, target: &str, headers: &HeaderMap, payload: &[u8]) -> bool {
    with_parts(target, headers, payload, |parts| {
        tags.is_tagged(headers, parts)
    })
}

/// Calls `f` with the parts of a postponed job that its tag covers.
fn with_parts<T>(
    target: &str,
    headers: &HeaderMap,
    payload: &[u8],
    f: impl FnOnce(&[&[u8]]) -> T,
) -> T {
    let object = text_of(headers, OBJECT_HEADER).unwrap_or_default();
    let state = text_of(headers, STATE).unwrap_or_default();
    f(&[
        target.as_bytes(),
        object.as_bytes(),
        state.as_bytes(),
        payload,
    ])
}

/// Merges the state of a job that is postponed again with its state from `before`.
fn merge(state: &mut PostponedState, before: PostponedState) {
    let PostponedState {
        replies,
        attempts,
        counted,
        published,
        ..
    } = before;
    state.replies.extend(replies);
    if attempts.len() > state.attempts.len() {
        state.attempts = attempts;
    }
    state.counted = state.counted.max(counted);
    state.published = state.published.min(published);
}

/// Sorts the subjects and drops those beyond [`MOST_REPLIES`]. A publisher can publish an identity very often, each
/// time with another `reply_to`; the job must still fit in a message.
fn shorten(replies: &mut Vec<String>, subject: &str) {
    replies.sort();
    replies.dedup();
    let mut size = 0;
    let fit = replies.iter().take_while(|reply| {
        size += reply.len();
        size <= MOST_REPLIES
    });
    let fit = fit.count();
    if fit < replies.len() {
        warn!(
            subject,
            left_out = replies.len() - fit,
            "a scheduled job has too many subjects to reply to"
        );
        replies.truncate(fit);
    }
}

/// Returns the last sequence on `subject`, 0 if there is none, and the state of the job that waits there.
async fn scheduled(
    queue: &JetStreamQueue,
    subject: &str,
) -> Result<(u64, Option<PostponedState>), Error> {
    let name = queue.names.scheduled_stream();
    let stream = queue.stream(name).await?;
    match stream.direct_get_last_for_subject(subject).await {
        Ok(message) => {
            let state = text_of(&message.headers, STATE);
            let state = state.and_then(|state| serde_json::from_str(&state).ok());
            Ok((message.sequence, state))
        }
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok((0, None)),
        Err(error) => Err(unavailable(error)),
    }
}

/// Ends the wait of jobs: the schedule of each is replaced by the same one for `now`. A job that has just come back is
/// left alone. Returns the number of jobs.
pub(super) async fn hasten(
    queue: &JetStreamQueue,
    which: &CancelledJobs,
    now: Timestamp,
) -> Result<usize, Error> {
    let CancelledJobs { team, batch, id } = which;
    let filter = match id {
        Some(id) => queue.names.scheduled_of_job(team, batch.as_deref(), id),
        None => queue.names.scheduled_of(team, batch.as_deref()),
    };
    let tags = queue.schedule_tags().await?;
    let name = queue.names.scheduled_stream();
    let stream = queue.stream(name).await?;
    let subjects = stream.info_with_subjects(filter).await;
    let subjects = subjects.map_err(unavailable)?.map_err(unavailable);
    // Other messages can have come on subjects of this form.
    let subjects = subjects.try_filter(|(subject, _)| std::future::ready(tags.has_code(subject)));
    let hastened = subjects.map_ok(|(subject, _)| hasten_one(queue, &stream, subject, now));
    hastened
        .try_buffer_unordered(AT_ONCE)
        .try_fold(0, |sum, one| async move { Ok(sum + usize::from(one)) })
        .await
}

/// Ends the wait of one job. Returns false if it has just come back.
async fn hasten_one(
    queue: &JetStreamQueue,
    stream: &Stream<()>,
    subject: String,
    now: Timestamp,
) -> Result<bool, Error> {
    let message = match stream.direct_get_last_for_subject(subject.as_str()).await {
        Ok(message) => message,
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(unavailable(error)),
    };
    let mut headers = HeaderMap::new();
    for name in [
        SCHEDULE_TARGET,
        STATE,
        TAG_HEADER,
        TRACEPARENT,
        OBJECT_HEADER,
    ] {
        if let Some(value) = message.headers.get(name) {
            headers.insert(name, value.clone());
        }
    }
    headers.insert("Nats-Schedule", format!("@at {now}"));
    headers.insert(
        NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
        message.sequence.to_string(),
    );
    match publish_stored(&queue.context, subject, headers, message.payload).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
        Err(error) => Err(unavailable(error)),
    }
}
