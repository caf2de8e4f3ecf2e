//! Where jobs come from and completions go: fetch, complete, ack.

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

pub use readings::ActiveReadings;

/// The right to acknowledge one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryReceipt(pub String);

/// One delivery of one published message.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The message.
    pub payload: Bytes,
    /// The subject it was published on.
    pub subject: String,
    /// Its `Nats-Msg-Id`.
    pub message_id: Option<String>,
    /// Its `Nats-Reply-To`.
    pub reply_to: Option<String>,
    /// Its `traceparent`.
    pub traceparent: Option<String>,
    /// Its `Forebay-Object`: the object that holds the job, if the message does not.
    pub object: Option<String>,
    /// Its `Forebay-Revision`: which answer of its identity is asked for, where the one before failed.
    pub revision: Option<u32>,
    /// What is wrong with its headers, for its publisher.
    pub problem: Option<String>,
    /// A name for the message that no other message of the stream has or had.
    pub unique_id: String,
    /// When it was published.
    pub published: Timestamp,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// What was known of the job when it was postponed, if it was.
    pub state: Option<PostponedState>,
    /// The format in which it was published.
    pub format: Format,
    /// For its acknowledgement.
    pub receipt: DeliveryReceipt,
}

/// What is read by itself: a flow's jobs, or those of them whose time has come.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueReading {
    /// The flow.
    pub flow: Flow,
    /// Whether those whose time has come are meant.
    pub due: bool,
}

/// A flow that is being read for as many deliveries as there is credit.
#[derive(Debug)]
pub struct DeliverySource {
    /// The deliveries, as they come; closed when the queue is gone for good.
    pub deliveries: mpsc::UnboundedReceiver<Delivery>,
    /// Whoever feeds it; ends with the credit that is left.
    pub feed: tokio::task::JoinHandle<Credit>,
}

impl DeliverySource {
    /// Ends reading: no more is fetched when this returns. What was fetched and not taken is returned,
    /// to be given back, and the credit that is left, if the feed has ended well.
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

/// How many more deliveries are wanted. It goes from one source of a flow to the next.
#[derive(Debug)]
pub struct Credit {
    /// Wanted now.
    pub open: usize,
    more: mpsc::UnboundedReceiver<usize>,
}

impl Credit {
    /// Credit for `open` deliveries, and what adds to it.
    pub fn new(open: usize) -> (mpsc::UnboundedSender<usize>, Self) {
        let (sender, more) = mpsc::unbounded_channel();
        (sender, Self { open, more })
    }

    /// Waits until there is more; false when there will be none any more.
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

/// What is known of a job beside its message, and travels with it while it waits for its time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PostponedState {
    /// Its id: the message of a job that names none does not tell.
    pub id: String,
    /// Which request it is.
    #[serde(default)]
    pub fingerprint: String,
    /// Which answer of its identity it will have.
    #[serde(default = "first_revision", alias = "generation")]
    pub revision: u32,
    /// When it was published first.
    pub published: Timestamp,
    /// The calls that were made for it.
    pub attempts: Vec<Attempt>,
    /// How many of them count.
    pub counted: u32,
    /// Who wants a copy of its completion.
    pub replies: Vec<String>,
    /// The format of its message.
    #[serde(default = "Format::unsaid")]
    pub format: Format,
}

fn first_revision() -> u32 {
    1
}

/// A job that is to wait for its time outside of its flow.
#[derive(Debug, Clone)]
pub struct PostponedJob {
    /// The flow that it comes back to.
    pub flow: Flow,
    /// Whose wait it is: postponed again, it comes back once.
    pub identity: Identity,
    /// When it comes back.
    pub at: Timestamp,
    /// What is known of it.
    pub state: PostponedState,
    /// Its message.
    pub payload: Bytes,
    /// The object that holds the job, if the message does not.
    pub object: Option<String>,
    /// The message's `traceparent`.
    pub traceparent: Option<String>,
}

/// A completion to be published.
#[derive(Debug, Clone, Copy)]
pub struct CompletionPublication<'a> {
    /// The completion.
    pub completion: &'a Completion,
    /// Which request it answers.
    pub fingerprint: &'a str,
    /// Which message it answers, as [`Delivery::unique_id`] names it.
    pub message: Option<&'a str>,
    /// The job's `traceparent`.
    pub traceparent: Option<&'a str>,
    /// The sequence of the message that it replaces; 0 where there must be none.
    pub replaces: u64,
}

/// What came of publishing a completion.
#[derive(Debug)]
pub enum PublishOutcome {
    /// It is the answer.
    First,
    /// Another message was there first, and stands.
    Already(Box<ExistingCompletion>),
    /// The message that it was to replace has gone; there is none.
    Gone,
}

/// The message that stands on a completion's subject.
#[derive(Debug, Clone)]
pub struct ExistingCompletion {
    /// The completion; `None` if the message cannot be read as one.
    pub completion: Option<Completion>,
    /// Which request it answers, if it says so.
    pub fingerprint: Option<String>,
    /// Which message it answers, if it says so.
    pub message: Option<String>,
    /// When it was published.
    pub published: Timestamp,
    /// Its sequence.
    pub sequence: u64,
}

/// A message that is given up, for operators.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// What is known of it.
    pub letter: DeadLetterMeta,
    /// The delivery as it came.
    pub delivery: Delivery,
}

/// What is known of a message that is given up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetterMeta {
    /// The pool that its subject names, a name or not.
    pub pool: String,
    /// The team that its subject names, a name or not.
    pub team: String,
    /// Its batch, if it is of one.
    pub batch: Option<String>,
    /// Its id.
    pub id: String,
    /// Which answer of its identity it had.
    #[serde(alias = "generation")]
    pub revision: u32,
    /// A short name of the cause.
    #[serde(deserialize_with = "class_name")]
    pub code: String,
    /// What happened, for a person.
    pub message: String,
    /// The calls that were made for it.
    pub attempts: Vec<Attempt>,
    /// The format of the message; told where it is an earlier one.
    #[serde(default, skip_serializing_if = "Format::is_newest")]
    pub format: Format,
}

impl DeadLetterMeta {
    /// The cause and what happened, in a line.
    pub fn reason(&self) -> String {
        format!("{}: {}", self.code, self.message)
    }
}

/// Why the queue did not do something.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Where jobs come from and completions go.
pub trait Queue: Send + Sync + 'static {
    /// What there is to read, as it is found: what holds jobs now and what gets some later. Nothing that
    /// is open in `readings` is told again.
    fn find(
        &self,
        readings: Arc<ActiveReadings>,
    ) -> impl Future<Output = Result<mpsc::UnboundedReceiver<QueueReading>, Error>> + Send;

    /// Makes what is needed to read.
    fn prepare(&self, reading: &QueueReading) -> impl Future<Output = Result<(), Error>> + Send;

    /// Starts to read what was prepared.
    fn open(&self, reading: &QueueReading, credit: Credit) -> DeliverySource;

    /// Deletes what was made to read, if nothing waits there and nothing of it is unacknowledged; returns
    /// whether that is so.
    fn forget(&self, reading: &QueueReading) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Deletes what was made to read although more waits there. Whoever asks holds nothing of it any more;
    /// what is delivered after that does not say that it was delivered before.
    fn leave(&self, reading: &QueueReading) -> impl Future<Output = Result<(), Error>> + Send;

    /// Whether a job of so many bytes can be kept with what is known of it.
    fn can_postpone(&self, size: usize) -> bool;

    /// Keeps a job until its time comes. Doing it again for an identity replaces the first; who wanted a
    /// copy then still gets one. False if another request waits there under the same identity.
    fn postpone(&self, job: PostponedJob) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Says that these deliveries are still being worked on.
    fn keep(&self, receipts: Vec<DeliveryReceipt>) -> impl Future<Output = ()> + Send;

    /// Gives a delivery back, to be delivered again at once.
    fn give_back(&self, receipt: DeliveryReceipt) -> impl Future<Output = ()> + Send;

    /// Publishes a completion, unless its identity has another than the one that it replaces.
    fn complete(
        &self,
        publication: CompletionPublication<'_>,
    ) -> impl Future<Output = Result<PublishOutcome, Error>> + Send;

    /// What stands on the subject of an identity's completion.
    fn completion(
        &self,
        identity: &Identity,
    ) -> impl Future<Output = Result<Option<ExistingCompletion>, Error>> + Send;

    /// Sends copies of a completion to `subjects`, to whoever listens now.
    fn copy(
        &self,
        subjects: BTreeSet<String>,
        completion: &Completion,
        traceparent: Option<&str>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// How many bytes the object of a job has; `None` if there is no such object.
    fn object_size(
        &self,
        object: &str,
    ) -> impl Future<Output = Result<Option<usize>, Error>> + Send;

    /// The object of a job; `None` if there is none any more.
    fn object(&self, object: &str) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;

    /// Deletes the object of a job.
    fn drop_object(&self, object: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Keeps a message that is given up.
    fn bury(&self, letter: DeadLetter) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends a delivery for good; returns when that is confirmed.
    fn ack(&self, receipt: DeliveryReceipt) -> impl Future<Output = Result<(), Error>> + Send;
}
