//! Where jobs come from and completions go: fetch, complete, ack.

pub mod jetstream;

use std::future::Future;

use bytes::Bytes;
use forebay_schemas::{Completion, Flow, Identity};
use jiff::Timestamp;
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
