//! Jobs that Forebay 0.1 had scheduled: its stream gives way to today's.
//!
//! The two streams cannot both have the subjects of jobs whose time has come. So the old one gives those up first, then its
//! messages are copied, each deleted once its copy is acknowledged, and then the stream is deleted. A process that ends
//! in between leaves at most one job in both; it is one identity, so it is called once.

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Config, RawMessageErrorKind, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use forebay_schemas::Names;
use forebay_schemas::subjects::OBJECT_HEADER;
use futures::TryFutureExt;

use super::{STATE, TRACEPARENT, unavailable};
use crate::queue::Error;

/// The headers of a schedule that make it one.
const SCHEDULE: [&str; 2] = ["Nats-Schedule", "Nats-Schedule-Target"];
/// The headers that tell of the job.
const OF_JOB: [&str; 3] = [STATE, TRACEPARENT, OBJECT_HEADER];

/// The stream in which 0.1 scheduled jobs.
#[derive(Debug)]
pub struct FormerSchedules {
    context: Context,
    names: Names,
    stream: Stream,
}

impl FormerSchedules {
    /// Finds the stream, if there is one, and has it give up the subjects that today's stream needs.
    ///
    /// # Errors
    /// When the server does not answer or does not do it.
    pub async fn find(context: &Context, names: &Names) -> Result<Option<Self>, Error> {
        let is_none = |error: &async_nats::jetstream::context::GetStreamError| match error.kind() {
            GetStreamErrorKind::JetStream(error) => error.error_code() == ErrorCode::STREAM_NOT_FOUND,
            _ => false,
        };
        let stream = match context.get_stream(names.format_1_scheduled_stream()).await {
            Ok(stream) => stream,
            Err(error) if is_none(&error) => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let narrowed = Config {
            subjects: vec![names.format_1_scheduled_subjects()],
            republish: None,
            ..stream.cached_info().config.clone()
        };
        context.update_stream(narrowed).await.map_err(unavailable)?;
        Ok(Some(Self { context: context.clone(), names: names.clone(), stream }))
    }

    /// Moves all jobs to today's stream and deletes the old one. Returns how many there were.
    ///
    /// # Errors
    /// When the server does not answer or does not do it; done again, it goes on where it was.
    pub async fn take_over(self) -> Result<usize, Error> {
        let (mut next, mut jobs) = (1, 0);
        loop {
            let message = match self.stream.get_first_raw_message_by_subject(">", next).await {
                Ok(message) => message,
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(unavailable(error)),
            };
            self.copy(&message).await?;
            // One that was fired meanwhile is gone already, and comes behind all others.
            let _ = self.stream.delete_message(message.sequence).await;
            next = message.sequence + 1;
            jobs += 1;
        }
        self.context.delete_stream(self.names.format_1_scheduled_stream()).await.map_err(unavailable)?;
        Ok(jobs)
    }

    async fn copy(&self, message: &StreamMessage) -> Result<(), Error> {
        let mut headers = HeaderMap::new();
        for name in SCHEDULE.into_iter().chain(OF_JOB) {
            if let Some(value) = message.headers.get(name) {
                headers.insert(name, value.clone());
            }
        }
        let is_schedule = message.headers.get(SCHEDULE[0]).is_some();
        if is_schedule {
            // One that is there was copied before.
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        }
        let subject = self.names.scheduled_since_format_1(&message.subject);
        let ack = self.context.publish_with_headers(subject, headers, message.payload.clone());
        match ack.and_then(|ack| ack.into_future()).await {
            Ok(_) => Ok(()),
            Err(error) if is_schedule && error.kind() == PublishErrorKind::WrongLastSequence => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }
}
