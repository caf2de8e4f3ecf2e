//! One HTTP attempt: what is sent, what comes back, and whether it left at all.

pub mod http;

use std::future::Future;
use std::time::Duration;

use forebay_providers::{Reply, Request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// An answer that has come.
#[derive(Debug)]
pub struct ReceivedReply {
    /// The answer.
    pub reply: Reply,
    /// The right of a large answer to be here; held until it is not any more.
    pub place: Option<OwnedSemaphorePermit>,
}

impl From<Reply> for ReceivedReply {
    fn from(reply: Reply) -> Self {
        Self { reply, place: None }
    }
}

/// Why there is no whole answer. None of the texts holds a header or a body.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request did not leave: the provider cannot have seen it.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request left, and the answer did not come or broke off: the provider may have served it.
    #[error("no whole answer: {0}")]
    Unanswered(String),
    /// No whole answer within the timeout.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer is larger than is taken.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// Makes one attempt. It never retries and never follows a redirect.
pub trait Upstream: Send + Sync + 'static {
    /// Sends `request` and calls `sent` once, when the request is handed to the network.
    fn send<S>(
        &self,
        request: Request,
        sent: S,
    ) -> impl Future<Output = Result<ReceivedReply, Error>> + Send
    where
        S: FnOnce(Instant) + Send + 'static;
}
