//! One HTTP attempt: the request, the reply, and the question if the request left at all.

pub mod http;
mod roots;

use std::future::Future;
use std::time::Duration;

use std::sync::Arc;

use forebay_providers::{Reply, Request};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::fence::CallFence;

/// A received reply.
#[derive(Debug)]
pub struct ReceivedReply {
    /// The reply.
    pub reply: Reply,
    /// The permit to hold a large reply in memory, kept as long as the reply; `None` for other replies.
    pub permit: Option<OwnedSemaphorePermit>,
}

impl From<Reply> for ReceivedReply {
    fn from(reply: Reply) -> Self {
        Self {
            reply,
            permit: None,
        }
    }
}

/// The reason why there is no whole answer. No text of an error holds a header or a body.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request did not leave, so the provider cannot have seen it.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The fence closed before the whole request had left, so the provider cannot have served it.
    #[error("not sent: another worker may have taken over by now")]
    FenceClosed,
    /// The request left, and no answer came or it broke off. The provider may have served the request.
    #[error("no whole answer: {0}")]
    Unanswered(String),
    /// No whole answer came within the timeout.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The answer is larger than the configured size, which the error names in bytes.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// The way to a provider. It makes one attempt, never retries and never follows a redirect.
pub trait Upstream: Send + Sync + 'static {
    /// Sends `request` while `fence` is open, and calls `sent` once when the request is handed to the network.
    fn send<S>(
        &self,
        request: Request,
        fence: Arc<CallFence>,
        sent: S,
    ) -> impl Future<Output = Result<ReceivedReply, Error>> + Send
    where
        S: FnOnce(Instant) + Send + 'static;
}
