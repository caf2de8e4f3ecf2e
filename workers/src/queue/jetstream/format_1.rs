//! Moves the jobs that Forebay 0.1 had scheduled to today's stream.
//!
//! Only one of the two streams can have the subjects of jobs whose time has come. Before today's stream is created, the
//! old one must give those subjects up ([`Names::format_1_scheduled_subjects`]).
//!
//! A job that waits for its time is copied under a subject of its own, so that copying it again changes nothing. A job
//! whose time has come is copied and then deleted. If the process ends in between, or a schedule fires while it is
//! copied, the job is there twice, as if it were published twice.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{DeleteStatus, RawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use forebay_schemas::Names;
use forebay_schemas::header::OBJECT_HEADER;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use tracing::{info, warn};

use super::scheduled::{self, SCHEDULE_TARGET};
use super::{STATE, TRACEPARENT, publish_stored, text_of, unavailable};
use crate::queue::Error;
use crate::tags::TagKey;

/// Limit of subjects whose jobs are moved at once.
const AT_ONCE: usize = 64;
/// The headers that make a message a schedule.
const SCHEDULE_HEADERS: [&str; 2] = ["Nats-Schedule", SCHEDULE_TARGET];
/// The headers that belong to the job.
const JOB_HEADERS: [&str; 3] = [STATE, TRACEPARENT, OBJECT_HEADER];

/// Moves all jobs that Forebay 0.1 had scheduled to today's stream, which must exist. Deletes the old stream.
///
/// # Errors
/// Fails if the server does not answer or refuses a request. The next call continues where this one ended.
pub async fn take_over_schedules(context: &Context, names: &Names) -> Result<(), Error> {
    let stream = match context.get_stream(names.format_1_scheduled_stream()).await {
        Ok(stream) => stream,
        Err(error) if is_no_stream(&error.kind()) => return Ok(()),
        Err(error) => return Err(unavailable(error)),
    };
    let jobs = stream.cached_info().state.messages;
    info!(jobs, "taking over the scheduled jobs of Forebay 0.1");
    let today = context.get_stream(names.scheduled_stream()).await;
    let today = today.map_err(unavailable)?;
    let tags = TagKey::of_metadata(&today.cached_info().config.metadata);
    let tags = tags.ok_or_else(|| unavailable("the stream of scheduled jobs has no metadata"))?;
    let mover = ScheduleMover {
        context,
        names,
        stream: &stream,
        tags,
    };
    // Schedules come first: one that fires before it is copied is then among the jobs whose time has come.
    for filter in [names.format_1_scheduled_subjects(), names.all_due()] {
        let subjects = stream.info_with_subjects(filter).await;
        let subjects = subjects.map_err(unavailable)?;
        let moved = subjects.map_err(unavailable).map(async |subject| {
            let (subject, _) = subject?;
            mover.move_all(&subject).await
        });
        moved.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    }
    let deleted = context.delete_stream(names.format_1_scheduled_stream());
    deleted.await.map_err(unavailable)?;
    info!(jobs, "the scheduled jobs of Forebay 0.1 are taken over");
    Ok(())
}

fn is_no_stream(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Moves the messages of the old stream.
struct ScheduleMover<'a> {
    context: &'a Context,
    names: &'a Names,
    stream: &'a Stream,
    /// The secret of today's stream.
    tags: TagKey,
}

impl ScheduleMover<'_> {
    /// Moves every message on `subject`, the oldest first.
    async fn move_all(&self, subject: &str) -> Result<(), Error> {
        let mut next = 1;
        loop {
            let message = self.stream.get_first_raw_message_by_subject(subject, next);
            let message = match message.await {
                Ok(message) => message,
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(()),
                Err(error) => return Err(unavailable(error)),
            };
            self.copy(&message).await?;
            self.delete(message.sequence).await?;
            next = message.sequence + 1;
        }
    }

    async fn copy(&self, message: &StreamMessage) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        for name in SCHEDULE_HEADERS.into_iter().chain(JOB_HEADERS) {
            if let Some(value) = message.headers.get(name) {
                headers.insert(name, value.clone());
            }
        }
        let payload = message.payload.clone();
        let mut subject = self.names.scheduled_since_format_1(&message.subject);
        let target = text_of(&message.headers, SCHEDULE_TARGET);
        let is_schedule = target.is_some();
        if is_schedule {
            // If the subject already holds a message, the schedule was copied before.
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
            subject = self.tags.with_code(&subject);
        } else if subject != message.subject.as_str() {
            warn!(subject, "a message that is no scheduled job is left out");
            return Ok(());
        }
        let target = target.as_ref().unwrap_or(&subject);
        scheduled::tag(&self.tags, target, &mut headers, &payload);
        match publish_stored(self.context, subject, headers, payload).await {
            Ok(_) => Ok(()),
            Err(error) if is_schedule && error.kind() == PublishErrorKind::WrongLastSequence => {
                Ok(())
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Deletes a message that is copied. Its bytes are not overwritten, which would take the server many times as long.
    /// The answer's content does not matter: a schedule that has fired is gone, and the stream is deleted in the end.
    async fn delete(&self, sequence: u64) -> Result<(), Error> {
        let subject = format!(
            "STREAM.MSG.DELETE.{}",
            self.names.format_1_scheduled_stream()
        );
        let request = json!({ "seq": sequence, "no_erase": true });
        let response = self.context.request(subject, &request);
        let _: Response<DeleteStatus> = response.await.map_err(unavailable)?;
        Ok(())
    }
}
