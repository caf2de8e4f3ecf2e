//! The [`Queue`] trait, which delivers jobs and takes completions, and the types that it exchanges.

pub mod jetstream;
mod readings;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use forebay_schemas::format::class_name;
use forebay_schemas::{Attempt, Completion, Flow, Format, Identity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::attempt_record::AttemptRecord;
use crate::memory_budget::MemoryBudget;

pub use readings::ActiveReadings;

/// A token that acknowledges one delivery. On JetStream it is the delivery's reply subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryReceipt(pub String);

/// One delivery of one published message.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message's payload.
    pub payload: Bytes,
    /// The subject on which the message was published.
    pub subject: String,
    /// The header `Nats-Msg-Id`.
    pub message_id: Option<String>,
    /// The header `Nats-Reply-To`.
    pub reply_to: Option<String>,
    /// The header `traceparent`.
    pub traceparent: Option<String>,
    /// The header `Forebay-Object`: the name of the object that holds the job, if the payload does not.
    pub object: Option<String>,
    /// The header `Forebay-Revision`: the revision that the publisher requests where the one before failed.
    pub revision: Option<u32>,
    /// The error in the message's origin or headers; `None` if there is none.
    pub problem: Option<DeliveryProblem>,
    /// A name for the message that no other message of the stream has or had.
    pub unique_id: String,
    /// The time at which the message was published.
    pub published: Timestamp,
    /// True if the job was delivered before. This is so for every job that was postponed.
    pub redelivered: bool,
    /// The state with which the job was postponed; `None` if it was not, or if the state cannot be decoded.
    pub state: Option<PostponedState>,
    /// The format in which the job was published.
    pub format: Format,
    /// The token that acknowledges the delivery.
    pub receipt: DeliveryReceipt,
}

/// The reason why a message is no job, whatever its payload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryProblem {
    /// It came on the subject of postponed jobs, and Forebay did not postpone it. None of its headers is read.
    Foreign,
    /// It has words of an earlier format. The text is worded for its publisher.
    FormerWords(String),
}

/// One thing that is read by itself: a flow's jobs, or the flow's postponed jobs whose time has come.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueReading {
    /// The flow.
    pub flow: Flow,
    /// True for the postponed jobs whose time has come, false for the other jobs.
    pub due: bool,
}

/// A flow that is being read. Each delivery uses one unit of credit.
#[derive(Debug)]
pub struct DeliverySource {
    /// The deliveries in the order of their arrival. The channel closes when the feed ends: the queue is gone for good,
    /// or no credit can be added any more.
    pub deliveries: mpsc::UnboundedReceiver<Delivery>,
    /// The task that fetches the deliveries. It returns the credit that is left.
    pub feed: tokio::task::JoinHandle<Credit>,
}

impl DeliverySource {
    /// Stops reading: nothing is fetched after this returns. Returns the deliveries that were fetched and not taken,
    /// which the caller must give back, and the credit that is left. The credit is `None` if the feed's task failed.
    pub async fn close(mut self) -> (Vec<Delivery>, Option<Credit>) {
        self.deliveries.close();
        let mut credit = self.feed.await.ok();
        let mut rest = Vec::new();
        while let Some(delivery) = self.deliveries.recv().await {
            rest.push(delivery);
        }
        if let Some(credit) = &mut credit {
            credit.open += rest.len();
        }
        (rest, credit)
    }
}

/// The number of further deliveries that are wanted. It passes from one source of a flow to the next.
#[derive(Debug)]
pub struct Credit {
    /// The number that is wanted now.
    pub open: usize,
    more: mpsc::UnboundedReceiver<usize>,
}

impl Credit {
    /// Returns credit for `open` deliveries, and the sender whose numbers are added to it.
    pub fn new(open: usize) -> (mpsc::UnboundedSender<usize>, Self) {
        let (sender, more) = mpsc::unbounded_channel();
        (sender, Self { open, more })
    }

    /// Waits until credit is added. Returns false if none can be added any more.
    pub async fn grows(&mut self) -> bool {
        let Some(more) = self.more.recv().await else {
            return false;
        };
        self.open += more;
        while let Ok(more) = self.more.try_recv() {
            self.open += more;
        }
        true
    }
}

/// The state of a job beside its message. It travels with the job while the job waits for its time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PostponedState {
    /// The job's id. The message does not hold it if its publisher gave the job none.
    pub id: String,
    /// The fingerprint of the job's request.
    #[serde(default)]
    pub fingerprint: String,
    /// The revision that the job's answer will have.
    #[serde(default = "first_revision", alias = "generation")]
    pub revision: u32,
    /// The time at which the job was first published.
    pub published: Timestamp,
    /// The calls that were made for the job.
    pub attempts: Vec<Attempt>,
    /// The number of `attempts` that count against the job's limit of attempts.
    pub counted: u32,
    /// The subjects that get a copy of the job's completion.
    pub replies: Vec<String>,
    /// The format of the job's message.
    #[serde(default = "Format::of_unmarked_data")]
    pub format: Format,
}

fn first_revision() -> u32 {
    1
}

/// A job that waits for its time outside of its flow.
#[derive(Debug, Clone)]
pub struct PostponedJob {
    /// The flow to which it returns.
    pub flow: Flow,
    /// The identity under which it waits. A job that is postponed again under its identity returns once.
    pub identity: Identity,
    /// The time at which it returns.
    pub at: Timestamp,
    /// The state that travels with it.
    pub state: PostponedState,
    /// The payload of its message.
    pub payload: Bytes,
    /// The name of the object that holds the job, if the payload does not.
    pub object: Option<String>,
    /// The header `traceparent` of its message.
    pub traceparent: Option<String>,
}

/// A completion to be published.
#[derive(Debug, Clone, Copy)]
pub struct CompletionPublication<'a> {
    /// The completion.
    pub completion: &'a Completion,
    /// The fingerprint of the request that it answers.
    pub fingerprint: &'a str,
    /// The [`Delivery::unique_id`] of the message that it answers; `None` if that is not known.
    pub message: Option<&'a str>,
    /// The job's `traceparent`.
    pub traceparent: Option<&'a str>,
    /// The stream sequence of the message that it replaces; 0 if its subject must be empty.
    pub replaces: u64,
}

/// The outcome of publishing a completion.
#[derive(Debug)]
pub enum PublishOutcome {
    /// The completion is stored on its subject.
    First,
    /// The subject already holds another message, so the completion is not stored.
    Already(Box<ExistingCompletion>),
    /// The completion is not stored: its subject is empty, and the message to replace is gone.
    Gone,
}

/// The message that is stored on a completion's subject.
#[derive(Debug, Clone)]
pub struct ExistingCompletion {
    /// The completion; `None` if the message cannot be decoded, or the object that holds the completion is gone.
    pub completion: Option<Completion>,
    /// The fingerprint of the request that it answers; `None` if the message does not state it.
    pub fingerprint: Option<String>,
    /// The [`Delivery::unique_id`] of the message that it answers; `None` if the message does not state it.
    pub message: Option<String>,
    /// The time at which it was published.
    pub published: Timestamp,
    /// Its sequence in the stream.
    pub sequence: u64,
}

/// A message that is given up and kept for operators.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The facts about the message.
    pub letter: DeadLetterMeta,
    /// The delivery as it came.
    pub delivery: Delivery,
}

/// The facts about a message that is given up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetterMeta {
    /// The pool part of its subject, which need not be a valid name.
    pub pool: String,
    /// The team part of its subject, which need not be a valid name.
    pub team: String,
    /// The job's batch; `None` if it has none.
    pub batch: Option<String>,
    /// The job's id.
    pub id: String,
    /// The revision of the job's answer.
    #[serde(alias = "generation")]
    pub revision: u32,
    /// The cause, as a short name.
    #[serde(deserialize_with = "class_name")]
    pub code: String,
    /// A description of the cause, for a person.
    pub message: String,
    /// The calls that were made for the job.
    pub attempts: Vec<Attempt>,
    /// The format of the message; encoded only if it is not the newest one.
    #[serde(default, skip_serializing_if = "Format::is_newest")]
    pub format: Format,
}

impl DeadLetterMeta {
    /// Returns the cause and its description, separated by a colon.
    pub fn reason(&self) -> String {
        format!("{}: {}", self.code, self.message)
    }
}

/// A failure of the queue, with its reason.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// A queue that delivers jobs and takes their completions.
pub trait Queue: Send + Sync + 'static {
    /// Returns true if the server is connected, as far as is known.
    fn is_connected(&self) -> bool;

    /// Returns a channel of the readings that hold jobs now, and of those that get jobs later. A reading that is
    /// open in `readings` is not sent again.
    fn find(
        &self,
        readings: Arc<ActiveReadings>,
    ) -> impl Future<Output = Result<mpsc::UnboundedReceiver<QueueReading>, Error>> + Send;

    /// Creates the server's side of `reading`; on JetStream, a durable consumer.
    fn prepare(&self, reading: &QueueReading) -> impl Future<Output = Result<(), Error>> + Send;

    /// Starts to read what [`Queue::prepare`] prepared. Large messages are read when `memory` has room for them.
    fn open(
        &self,
        reading: &QueueReading,
        credit: Credit,
        memory: &Arc<MemoryBudget>,
    ) -> DeliverySource;

    /// Deletes what [`Queue::prepare`] created, if no job waits there and no delivery is unacknowledged. Returns true
    /// if it is deleted, or did not exist.
    fn forget(&self, reading: &QueueReading) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Deletes what [`Queue::prepare`] created although jobs wait there. The caller must hold no delivery of the
    /// reading. Later deliveries of the same messages are not marked as redelivered.
    fn leave(&self, reading: &QueueReading) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns true if a job of `size` bytes can be postponed together with its state.
    fn can_postpone(&self, size: usize) -> bool;

    /// Keeps a job until its time comes. Postponing an identity again replaces its first job, and keeps the subjects
    /// that get a copy of the completion. Returns false if another request waits under the same identity.
    fn postpone(&self, job: PostponedJob) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Reports that these deliveries are still in progress, so that they are not delivered again.
    fn keep(&self, receipts: Vec<DeliveryReceipt>) -> impl Future<Output = ()> + Send;

    /// Nacks a delivery, which is then delivered again at once.
    fn give_back(&self, receipt: DeliveryReceipt) -> impl Future<Output = ()> + Send;

    /// Publishes a completion, unless its subject holds another message than the one that it replaces.
    fn complete(
        &self,
        publication: CompletionPublication<'_>,
    ) -> impl Future<Output = Result<PublishOutcome, Error>> + Send;

    /// Publishes the completion of a request that was rejected, since its identity is another's.
    fn reject(
        &self,
        completion: &Completion,
        traceparent: Option<&str>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the message on the subject of an identity's completion; `None` if there is none.
    fn completion(
        &self,
        identity: &Identity,
    ) -> impl Future<Output = Result<Option<ExistingCompletion>, Error>> + Send;

    /// Records the calls for a job that must not be called again after an unknown outcome. Returns when the record is
    /// stored for every worker that may take over. It replaces the one before.
    fn record_attempts(
        &self,
        identity: &Identity,
        record: &AttemptRecord,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the last record of a job's calls; `None` if there is none.
    fn recorded_attempts(
        &self,
        identity: &Identity,
    ) -> impl Future<Output = Result<Option<AttemptRecord>, Error>> + Send;

    /// Deletes the record of a job's calls.
    fn forget_attempts(
        &self,
        identity: &Identity,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Sends copies of a completion to `subjects`. Only subscribers of this moment receive them.
    fn copy(
        &self,
        subjects: BTreeSet<String>,
        completion: &Completion,
        traceparent: Option<&str>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns the size of a job's object in bytes; `None` if there is no such object.
    fn object_size(
        &self,
        object: &str,
    ) -> impl Future<Output = Result<Option<usize>, Error>> + Send;

    /// Returns the object of a job; `None` if it is gone or damaged.
    fn object(&self, object: &str) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;

    /// Deletes the object of a job.
    fn drop_object(&self, object: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Keeps a dead letter.
    fn publish_dead_letter(
        &self,
        letter: DeadLetter,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Acknowledges a delivery for good. Returns when the server has confirmed it.
    fn ack(&self, receipt: DeliveryReceipt) -> impl Future<Output = Result<(), Error>> + Send;
}
