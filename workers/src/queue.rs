//! Where jobs come from and completions go: fetch, complete, ack.

pub mod jetstream;

use std::future::Future;

use bytes::Bytes;
use forebay_schemas::{Attempt, Completion, Flow, Identity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// The right to acknowledge one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

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
    /// A name for the message that no other message of the stream has or had.
    pub unique_id: String,
    /// When it was published.
    pub published: Timestamp,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// What was known of the job when it was postponed, if it was.
    pub state: Option<State>,
    /// For its acknowledgement.
    pub receipt: Receipt,
}

/// A flow that is being read: ask for deliveries with credit, take them from the other end.
#[derive(Debug)]
pub struct Source {
    /// How many more deliveries are wanted.
    pub credit: mpsc::UnboundedSender<usize>,
    /// The deliveries, as they come; closed when the queue is gone for good.
    pub deliveries: mpsc::UnboundedReceiver<Delivery>,
    /// Whoever feeds it.
    pub feed: tokio::task::JoinHandle<()>,
}

impl Source {
    /// Ends reading: no more is fetched when this returns, and what was fetched and not taken is
    /// returned, to be given back.
    pub async fn close(mut self) -> Vec<Delivery> {
        self.deliveries.close();
        // Its end is all that is waited for; how it ended does not matter any more.
        let _ = self.feed.await;
        let mut rest = Vec::new();
        while let Some(delivery) = self.deliveries.recv().await {
            rest.push(delivery);
        }
        rest
    }
}

/// What is known of a job beside its message, and travels with it while it waits for its time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Its id: the message of a job that names none does not tell.
    pub id: String,
    /// When it was published first.
    pub published: Timestamp,
    /// The calls that were made for it.
    pub attempts: Vec<Attempt>,
    /// How many of them count.
    pub counted: u32,
    /// Who wants a copy of its completion.
    pub replies: Vec<String>,
}

/// A job that is to wait for its time outside of its flow.
#[derive(Debug, Clone)]
pub struct Postponed {
    /// The flow that it comes back to.
    pub flow: Flow,
    /// Whose wait it is: postponed again, it comes back once.
    pub identity: Identity,
    /// When it comes back.
    pub at: Timestamp,
    /// What is known of it.
    pub state: State,
    /// Its message.
    pub payload: Bytes,
    /// The message's `traceparent`.
    pub traceparent: Option<String>,
}

/// A completion to be published.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// The completion.
    pub completion: &'a Completion,
    /// Which request it answers.
    pub fingerprint: &'a str,
    /// The job's `traceparent`.
    pub traceparent: Option<&'a str>,
    /// The sequence of the message that it replaces; 0 where there must be none.
    pub replaces: u64,
}

/// What came of publishing a completion.
#[derive(Debug)]
pub enum Published {
    /// It is the answer.
    First,
    /// Another message was there first, and stands.
    Already(Box<Standing>),
}

/// The message that stands on a completion's subject.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The completion; `None` if the message cannot be read as one.
    pub completion: Option<Completion>,
    /// Which request it answers, if it says so.
    pub fingerprint: Option<String>,
    /// When it was published.
    pub published: Timestamp,
    /// Its sequence.
    pub sequence: u64,
}

/// A message that is given up, for operators.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The pool that its subject names.
    pub pool: String,
    /// The team that its subject names.
    pub team: String,
    /// Why it is given up.
    pub reason: String,
    /// How many calls were made for it.
    pub attempts: usize,
    /// The delivery as it came.
    pub delivery: Delivery,
}

/// Why the queue did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may be tried again.
    #[error("{0}")]
    Unavailable(String),
    /// The message is larger than the server takes.
    #[error("{size} bytes are more than the NATS server takes (max_payload {max})")]
    TooLarge {
        /// The message's size, in bytes.
        size: usize,
        /// The server's limit, in bytes.
        max: usize,
    },
}

/// Where jobs come from and completions go.
pub trait Queue: Send + Sync + 'static {
    /// Flows as they are found, each once: those that hold jobs now and those that get some later.
    fn flows(&self) -> impl Future<Output = Result<mpsc::UnboundedReceiver<Flow>, Error>> + Send;

    /// Starts to read a flow.
    fn open(&self, flow: &Flow) -> impl Future<Output = Result<Source, Error>> + Send;

    /// Starts to read a flow's jobs whose time has come.
    fn open_due(&self, flow: &Flow) -> impl Future<Output = Result<Source, Error>> + Send;

    /// Whether a job of so many bytes can be kept with what is known of it.
    fn can_postpone(&self, size: usize) -> bool;

    /// Keeps a job until its time comes. Doing it again for an identity replaces the first; who wanted a
    /// copy then still gets one.
    fn postpone(&self, job: Postponed) -> impl Future<Output = Result<(), Error>> + Send;

    /// Says that these deliveries are still being worked on.
    fn keep(&self, receipts: Vec<Receipt>) -> impl Future<Output = ()> + Send;

    /// Gives a delivery back, to be delivered again at once.
    fn give_back(&self, receipt: Receipt) -> impl Future<Output = ()> + Send;

    /// Publishes a completion, unless its identity has another than the one that it replaces.
    fn complete(&self, publication: Publication<'_>)
    -> impl Future<Output = Result<Published, Error>> + Send;

    /// What stands on the subject of an identity's completion.
    fn completion(&self, identity: &Identity)
    -> impl Future<Output = Result<Option<Standing>, Error>> + Send;

    /// Sends a copy of a completion to `subject`, to whoever listens now.
    fn copy(
        &self,
        subject: String,
        completion: Bytes,
        traceparent: Option<&str>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Keeps a message that is given up.
    fn bury(&self, letter: DeadLetter) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends a delivery for good; returns when that is confirmed.
    fn ack(&self, receipt: Receipt) -> impl Future<Output = Result<(), Error>> + Send;
}
