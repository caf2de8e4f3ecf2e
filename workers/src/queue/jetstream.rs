//! The [`Queue`] on JetStream. Its streams must exist before it is built.

mod attempts;
mod completion_tags;
mod completions;
mod consumers;
mod dead;
mod discovery;
mod foreign;
mod format_1;
mod objects;
mod scheduled;
mod source;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::connection::State;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, Context};
use async_nats::subject::ToSubject;
use bytes::Bytes;
use forebay_schemas::format::FORMAT_1_REVISION_HEADER;
use forebay_schemas::header::{OBJECT_HEADER, REPLY_TO_HEADER, REVISION_HEADER};
use forebay_schemas::{Completion, Format, Identity, Names};
use jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use crate::attempt_record::AttemptRecord;
use crate::controls::CancelledJobs;
use crate::memory_budget::MemoryBudget;
use crate::tags::TagKey;

use attempts::KnownSequences;
use consumers::RenamedConsumers;

pub use completion_tags::{CompletionTags, UNTAGGED_UNTIL};
pub use format_1::take_over_schedules;
pub use objects::{Objects, object_of};

use super::{
    ActiveReadings, CompletionPublication, Credit, DeadLetter, Delivery, DeliveryProblem,
    DeliveryReceipt, DeliverySource, Error, ExistingCompletion, PostponedJob, PostponedState,
    PublishOutcome, Queue, QueueReading,
};

/// Time after which the server delivers again what is neither acknowledged nor reported in progress.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Limit of unacknowledged deliveries of one flow. The worker's stage controls the flow, not the server, so this is
/// only an upper bound.
const MAX_ACK_PENDING: i64 = 20_000;
/// Limit of consumers that are created or deleted at once.
const CONSUMER_SLOTS: usize = 16;
/// The header that holds the context of a job's trace.
const TRACEPARENT: &str = "traceparent";
/// Longest `traceparent` that is passed on, in bytes; the standard's has 55.
const LONGEST_TRACE: usize = 512;
/// Bytes of a message that are reserved for the state of a postponed job, which travels in a header.
const STATE_ROOM: usize = 64 * 1024;
/// The header that holds the state of a postponed job.
const STATE: &str = "Forebay-State";

/// The payload that acknowledges a delivery.
const ACK: Bytes = Bytes::from_static(b"+ACK");
/// The payload that nacks a delivery.
const NACK: Bytes = Bytes::from_static(b"-NAK");
/// The payload that reports a delivery in progress.
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// A queue of jobs and completions on JetStream streams.
#[derive(Debug, Clone)]
pub struct JetStreamQueue {
    client: async_nats::Client,
    context: Context,
    names: Names,
    /// The creation times of the streams of jobs and of postponed jobs, in Unix seconds. The sequences of a stream that
    /// is created again start again.
    created: Arc<[AtomicI64; 2]>,
    /// The sequence of the last job in format 1; 0 if there is none.
    format_1_until: Arc<AtomicU64>,
    /// The secret of the stream of postponed jobs; `None` until it is read.
    schedule_tags: Arc<RwLock<Option<TagKey>>>,
    /// How completions are recognised; `None` until it is read.
    completion_tags: Arc<RwLock<Option<CompletionTags>>>,
    /// Limits the consumers that are created or deleted at once. Of thousands, each would wait for all the others.
    consumer_slots: Arc<Semaphore>,
    renamed: RenamedConsumers,
    /// The records of calls that this process knows.
    attempts: Arc<KnownSequences>,
    requests: Objects,
    answers: Objects,
}

impl JetStreamQueue {
    /// Builds a queue over the streams that `names` names.
    pub fn new(client: async_nats::Client, names: Names) -> Self {
        let context = jetstream::new(client.clone());
        let max_payload = client.max_payload();
        Self {
            requests: Objects::of_requests(&context, &names, max_payload),
            answers: Objects::of_answers(&context, &names, max_payload),
            client,
            context,
            names,
            created: Arc::default(),
            format_1_until: Arc::default(),
            schedule_tags: Arc::default(),
            completion_tags: Arc::default(),
            consumer_slots: Arc::new(Semaphore::new(CONSUMER_SLOTS)),
            renamed: Arc::default(),
            attempts: Arc::default(),
        }
    }

    /// Waits until one more consumer may be created or deleted.
    async fn consumer_slot(&self) -> Result<SemaphorePermit<'_>, Error> {
        let slot = self.consumer_slots.acquire().await;
        slot.map_err(unavailable)
    }

    async fn stream(&self, name: String) -> Result<jetstream::stream::Stream<()>, Error> {
        self.context
            .get_stream_no_info(name)
            .await
            .map_err(unavailable)
    }

    /// Returns the creation time of the stream of the postponed jobs if `due` is true, else of that of the other jobs.
    fn created_of(&self, due: bool) -> &AtomicI64 {
        let [jobs, scheduled] = &*self.created;
        if due { scheduled } else { jobs }
    }

    /// Asks the server to deliver again at once the message with this reply subject.
    async fn nack(&self, reply: impl ToSubject) {
        // If the nack is lost, the message is delivered again after the ack wait.
        let _ = self.client.publish(reply, NACK).await;
    }

    fn stream_of(&self, reading: &QueueReading) -> String {
        if reading.due {
            self.names.scheduled_stream()
        } else {
            self.names.jobs_stream()
        }
    }

    /// Returns the secret of the stream of postponed jobs.
    async fn schedule_tags(&self) -> Result<TagKey, Error> {
        if let Some(tags) = self.schedule_tags.read().clone() {
            return Ok(tags);
        }
        let name = self.names.scheduled_stream();
        let stream = self.context.get_stream(&name).await.map_err(unavailable)?;
        let tags = TagKey::of_metadata(&stream.cached_info().config.metadata);
        let tags = tags.ok_or_else(|| Error(format!("stream {name} has lost its metadata")))?;
        *self.schedule_tags.write() = Some(tags.clone());
        Ok(tags)
    }

    /// Returns true if Forebay postponed the job of this message.
    fn is_postponed(&self, message: &async_nats::Message) -> bool {
        let tags = self.schedule_tags.read();
        let headers = message.headers.as_ref();
        tags.as_ref().zip(headers).is_some_and(|(tags, headers)| {
            scheduled::is_tagged(tags, &message.subject, headers, &message.payload)
        })
    }

    /// Decodes a message of a consumer as a delivery; `None` if it is not such a message. The state of a job is read
    /// only from a message that Forebay postponed.
    fn delivery(&self, message: async_nats::Message, due: bool) -> Option<Delivery> {
        let message = jetstream::Message {
            message,
            context: self.context.clone(),
        };
        let is_foreign = due && !self.is_postponed(&message.message);
        let (published, sequence, delivered) = {
            let info = message.info().ok()?;
            let nanos = info.published.unix_timestamp_nanos();
            (
                Timestamp::from_nanosecond(nanos).ok()?,
                info.stream_sequence,
                info.delivered,
            )
        };
        let async_nats::Message {
            subject,
            reply,
            payload,
            headers,
            ..
        } = message.message;
        let created = self.created_of(due).load(Ordering::Relaxed);
        let headers = headers.unwrap_or_default();
        let header = |name: &str| text_of(&headers, name).filter(|_| !is_foreign);
        let state = header(STATE).filter(|_| due);
        let state: Option<PostponedState> =
            state.and_then(|state| serde_json::from_str(&state).ok());
        let format = match &state {
            Some(state) => state.format,
            None if sequence <= self.format_1_until.load(Ordering::Relaxed) => Format::One,
            None => Format::Two,
        };
        let revision_header = match format {
            Format::One => FORMAT_1_REVISION_HEADER,
            Format::Two => REVISION_HEADER,
        };
        let renamed = format == Format::Two && header(FORMAT_1_REVISION_HEADER).is_some();
        let problem = if is_foreign {
            Some(DeliveryProblem::Foreign)
        } else {
            let now = format!("header `{FORMAT_1_REVISION_HEADER}` is now `{REVISION_HEADER}`");
            renamed.then_some(DeliveryProblem::FormerWords(now))
        };
        Some(Delivery {
            payload,
            subject: subject.into_string(),
            message_id: header("Nats-Msg-Id"),
            reply_to: header(REPLY_TO_HEADER),
            object: header(OBJECT_HEADER),
            revision: header(revision_header).and_then(|text| text.parse().ok()),
            problem,
            traceparent: header(TRACEPARENT).filter(|trace| trace.len() <= LONGEST_TRACE),
            unique_id: if due {
                format!("l{created}-{sequence}")
            } else {
                given_id(created, sequence)
            },
            published,
            redelivered: delivered > 1 || due,
            state,
            format,
            receipt: DeliveryReceipt(reply?.into_string()),
        })
    }

    /// Ends the wait of postponed jobs, which return to their flows at once. Returns their number.
    ///
    /// # Errors
    /// Fails if the jobs cannot be read or written.
    pub async fn hasten(&self, which: &CancelledJobs, now: Timestamp) -> Result<usize, Error> {
        scheduled::hasten(self, which, now).await
    }
}

/// Returns the id of a job that has none of its own. It holds the creation time of the job's stream, in Unix seconds,
/// and the job's sequence there.
pub fn given_id(created: i64, sequence: u64) -> String {
    format!("s{created}-{sequence}")
}

/// Returns the text of a header; `None` if it is missing.
fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(value.as_str().to_owned())
}

/// Publishes a message to a stream, and waits until the stream has stored it.
async fn publish_stored(
    context: &Context,
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<PublishAck, PublishError> {
    let ack = context.publish_with_headers(subject, headers, payload);
    ack.await?.await
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error(error.to_string())
}

fn traced(traceparent: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(traceparent) = traceparent {
        headers.insert(TRACEPARENT, one_line(traceparent));
    }
    headers
}

/// Replaces line breaks, at which the value of a header would end.
fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

impl Queue for JetStreamQueue {
    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    async fn find(
        &self,
        readings: Arc<ActiveReadings>,
    ) -> Result<mpsc::UnboundedReceiver<QueueReading>, Error> {
        discovery::start(self.clone(), readings).await
    }

    async fn prepare(&self, reading: &QueueReading) -> Result<(), Error> {
        self.consumer(reading).await
    }

    fn open(
        &self,
        reading: &QueueReading,
        credit: Credit,
        memory: &Arc<MemoryBudget>,
    ) -> DeliverySource {
        source::start(self.clone(), reading.clone(), credit, Arc::clone(memory))
    }

    async fn forget(&self, reading: &QueueReading) -> Result<bool, Error> {
        self.delete_consumer(reading, |info| {
            info.num_pending == 0 && info.num_ack_pending == 0
        })
        .await
    }

    async fn leave(&self, reading: &QueueReading) -> Result<(), Error> {
        self.delete_consumer(reading, |_| true).await?;
        Ok(())
    }

    fn can_postpone(&self, size: usize) -> bool {
        size + STATE_ROOM <= self.client.max_payload()
    }

    async fn postpone(&self, job: PostponedJob) -> Result<bool, Error> {
        scheduled::postpone(self, job).await
    }

    async fn keep(&self, receipts: Vec<DeliveryReceipt>) {
        for receipt in receipts {
            // If a progress ack is lost, the next one still comes within the ack wait.
            let DeliveryReceipt(reply) = receipt;
            let _ = self.client.publish(reply, IN_PROGRESS).await;
        }
    }

    async fn give_back(&self, receipt: DeliveryReceipt) {
        let DeliveryReceipt(reply) = receipt;
        self.nack(reply).await;
    }

    async fn complete(
        &self,
        publication: CompletionPublication<'_>,
    ) -> Result<PublishOutcome, Error> {
        completions::publish(self, publication).await
    }

    async fn reject(
        &self,
        completion: &Completion,
        traceparent: Option<&str>,
    ) -> Result<(), Error> {
        completions::publish_rejection(self, completion, traceparent).await
    }

    async fn completion(&self, identity: &Identity) -> Result<Option<ExistingCompletion>, Error> {
        completions::read(self, identity).await
    }

    async fn record_attempts(
        &self,
        identity: &Identity,
        record: &AttemptRecord,
    ) -> Result<(), Error> {
        attempts::record(self, identity, record).await
    }

    async fn recorded_attempts(&self, identity: &Identity) -> Result<Option<AttemptRecord>, Error> {
        attempts::read(self, identity).await
    }

    async fn forget_attempts(&self, identity: &Identity) -> Result<(), Error> {
        attempts::forget(self, identity).await
    }

    async fn copy(
        &self,
        subjects: BTreeSet<String>,
        completion: &Completion,
        traceparent: Option<&str>,
    ) -> Result<(), Error> {
        let (headers, payload) = self.message(completion, traceparent).await?;
        for subject in subjects {
            let copy = self
                .client
                .publish_with_headers(subject, headers.clone(), payload.clone());
            copy.await.map_err(unavailable)?;
        }
        Ok(())
    }

    async fn object_size(&self, object: &str) -> Result<Option<usize>, Error> {
        self.requests.size(object).await
    }

    async fn object(&self, object: &str) -> Result<Option<Bytes>, Error> {
        self.requests.get(object).await
    }

    async fn drop_object(&self, object: &str) -> Result<(), Error> {
        self.requests.delete(object).await
    }

    async fn publish_dead_letter(&self, letter: DeadLetter) -> Result<(), Error> {
        dead::publish_dead_letter(self, letter).await
    }

    async fn ack(&self, receipt: DeliveryReceipt) -> Result<(), Error> {
        let DeliveryReceipt(reply) = receipt;
        let confirmation = self.client.request(reply, ACK);
        confirmation.await.map_err(unavailable)?;
        Ok(())
    }
}
