//! [`Upstream`] over reqwest: connections are kept, redirects are not followed, nothing is retried.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::{Error, ReceivedReply, Upstream};
use crate::large::LARGE;
use forebay_providers::{Reply, Request};

/// Large answers of one account that are here at once, until they are stored and published; others wait at the
/// provider, so that a provider whose answers are very large, or have no end, takes so much of the memory and no
/// more.
const LARGE_AT_ONCE: usize = 4;
/// A large answer that comes at fewer bytes a second, after this time, gives up its place to others.
const MIN_ANSWER_RATE: u64 = 64 * 1024;
const SLOW_ANSWER_GRACE: Duration = Duration::from_secs(30);
const TOO_SLOW: &str = "a large answer came too slowly";

/// How calls are made.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// From sending to the end of the answer. Providers give up after 600 s; a shorter time makes
    /// attempts whose fate is unknown.
    pub timeout: Duration,
    /// For the connection alone.
    pub connect_timeout: Duration,
    /// The largest answer that is taken, in bytes.
    pub max_answer: usize,
}

/// Calls over HTTP.
#[derive(Debug)]
pub struct HttpUpstream {
    client: reqwest::Client,
    config: Config,
    /// The places of large answers, by account.
    large: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl HttpUpstream {
    /// Builds the client. The process's TLS crypto provider must be installed before.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: Config) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            client,
            config,
            large: Mutex::default(),
        })
    }

    /// A place for a large answer of an account.
    async fn place(&self, account: &str) -> Option<AnswerRoom> {
        let places = {
            let mut large = self.large.lock();
            let places = large.entry(account.to_owned());
            Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(LARGE_AT_ONCE))))
        };
        // It is never closed.
        let permit = places.acquire_owned().await.ok()?;
        Some(AnswerRoom {
            permit,
            since: Instant::now(),
        })
    }

    async fn attempt<S>(
        &self,
        request: Request,
        left: Arc<AtomicBool>,
        sent: S,
    ) -> Result<ReceivedReply, Error>
    where
        S: FnOnce(Instant) + Send + 'static,
    {
        let body = StampedBody {
            bytes: Some(request.body),
            sent: Mutex::new(Some(Box::new(sent))),
            left: Arc::clone(&left),
        };
        let failed = |error: reqwest::Error| {
            // The address may hold an account's name; the cause alone is enough.
            let error = describe(&error.without_url());
            if left.load(Ordering::Acquire) {
                Error::Unanswered(error)
            } else {
                Error::NotSent(error)
            }
        };
        let mut deadline = Instant::now() + self.config.timeout;
        let late = |_| match left.load(Ordering::Acquire) {
            true => Error::TimedOut(self.config.timeout),
            false => Error::NotSent(format!("no connection within {:?}", self.config.timeout)),
        };
        let call = self
            .client
            .request(request.method, request.url)
            .headers(request.headers);
        let call = call.body(reqwest::Body::wrap(body)).send();
        let mut response = timeout_at(deadline, call)
            .await
            .map_err(late)?
            .map_err(failed)?;
        let status = response.status();
        let is_error = status.is_client_error() || status.is_server_error();
        let mut body = BytesMut::new();
        let mut place: Option<AnswerRoom> = None;
        loop {
            let patience = place
                .as_ref()
                .map(|_| Instant::now() + SLOW_ANSWER_GRACE)
                .filter(|at| *at < deadline);
            let chunk = timeout_at(patience.unwrap_or(deadline), response.chunk()).await;
            let chunk = chunk.map_err(|elapsed| match patience {
                Some(_) => Error::Unanswered(TOO_SLOW.to_owned()),
                None => late(elapsed),
            });
            let Some(chunk) = chunk?.map_err(failed)? else {
                break;
            };
            if is_error && body.len() + chunk.len() > LARGE {
                // What it is about is told by its status and its beginning.
                break;
            }
            if body.len() + chunk.len() > self.config.max_answer {
                return Err(Error::TooLarge(self.config.max_answer));
            }
            body.extend_from_slice(&chunk);
            match &place {
                Some(place) if place.is_wasted(body.len()) => {
                    return Err(Error::Unanswered(TOO_SLOW.to_owned()));
                }
                None if body.len() > LARGE => {
                    let asked = Instant::now();
                    place = self.place(&request.account).await;
                    deadline += asked.elapsed();
                }
                _ => {}
            }
        }
        Ok(ReceivedReply {
            reply: Reply {
                status: status.as_u16(),
                headers: std::mem::take(response.headers_mut()),
                body: body.freeze(),
            },
            place: place.map(|place| place.permit),
        })
    }
}

/// The right of a large answer to be here.
struct AnswerRoom {
    permit: OwnedSemaphorePermit,
    since: Instant,
}

impl AnswerRoom {
    /// Whether others wait for an answer of so many bytes that hardly comes.
    fn is_wasted(&self, bytes: usize) -> bool {
        let elapsed = self.since.elapsed();
        elapsed > SLOW_ANSWER_GRACE
            && ((bytes - LARGE) as u64) < MIN_ANSWER_RATE * elapsed.as_secs()
    }
}

/// The causes of an error in one line, outermost first.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl Upstream for HttpUpstream {
    async fn send<S>(&self, request: Request, sent: S) -> Result<ReceivedReply, Error>
    where
        S: FnOnce(Instant) + Send + 'static,
    {
        self.attempt(request, Arc::default(), sent).await
    }
}

type OnSent = Box<dyn FnOnce(Instant) + Send>;

/// A body of known length that notes when the connection takes it. That is after the connection was
/// made, so the note tells a request that left from one that did not, and when it left.
struct StampedBody {
    bytes: Option<Bytes>,
    sent: Mutex<Option<OnSent>>,
    left: Arc<AtomicBool>,
}

impl Body for StampedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(sent) = self.sent.get_mut().take() {
            self.left.store(true, Ordering::Release);
            sent(Instant::now());
        }
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
