//! [`Upstream`] over reqwest. It keeps connections, follows no redirects and retries nothing.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::proxy::matcher::Matcher;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::{Error, ReceivedReply, Upstream, roots};
use crate::fence::CallFence;
use crate::large::LARGE;
use forebay_providers::{Reply, Request};

/// The most large answers of one account in memory, until they are stored and published. Others wait at the provider.
/// This bounds the memory of a provider whose answers are very large or have no end.
const LARGE_AT_ONCE: usize = 4;
/// The least rate of a large answer, in bytes a second. After [`SLOW_ANSWER_GRACE`], a slower one is given up, so
/// that its place is free for others.
const MIN_ANSWER_RATE: u64 = 64 * 1024;
/// The time after which a slow large answer is given up. It is also the longest pause between two of its chunks.
const SLOW_ANSWER_GRACE: Duration = Duration::from_secs(30);
/// The bytes of a request that are handed to the connection last.
const LAST_PART: usize = 1;
/// The bytes of a request that are handed to the connection at once. The fence is checked before each part.
const REQUEST_PART: usize = 8 * 1024;
/// The error of a large answer that was given up.
const TOO_SLOW: &str = "a large answer came too slowly";

/// The timeouts and the size limit of calls.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The time from sending to the end of the answer. Providers give up after 600 s, so a shorter time causes
    /// attempts with an unknown outcome.
    pub timeout: Duration,
    /// The time for the connection alone.
    pub connect_timeout: Duration,
    /// The size of the largest accepted answer, in bytes.
    pub max_answer: usize,
}

/// Calls over HTTP.
#[derive(Debug)]
pub struct HttpUpstream {
    client: reqwest::Client,
    /// The proxies that the environment names, as the client uses them.
    proxies: Matcher,
    config: Config,
    /// The permits for large answers, by account.
    large: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl HttpUpstream {
    /// Builds the client. The process must have installed its TLS crypto provider before.
    ///
    /// # Errors
    /// Returns an error if TLS cannot be set up.
    pub fn new(config: Config) -> Result<Self, reqwest::Error> {
        let mut client = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")));
        if let Some(certificates) = roots::corrected() {
            client = client.tls_certs_only(certificates);
        }
        Ok(Self {
            client: client.build()?,
            proxies: Matcher::from_env(),
            config,
            large: Mutex::default(),
        })
    }

    /// Returns words about the proxy through which an address is called; none if it is called directly.
    fn proxy_of(&self, url: &str) -> String {
        let url = url.parse().ok();
        let Some(proxy) = url.and_then(|url| self.proxies.intercept(&url)) else {
            return String::new();
        };
        let host = proxy.uri().host().unwrap_or_default();
        let port = proxy.uri().port_u16();
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        format!(" (through the proxy {host}{port} of the environment)")
    }

    /// Waits for a permit to hold a large answer of an account.
    async fn room_for_answer(&self, account: &str) -> Option<AnswerRoom> {
        let permits = {
            let mut large = self.large.lock();
            let permits = large.entry(account.to_owned());
            Arc::clone(permits.or_insert_with(|| Arc::new(Semaphore::new(LARGE_AT_ONCE))))
        };
        // The semaphore is never closed.
        let permit = permits.acquire_owned().await.ok()?;
        Some(AnswerRoom {
            permit,
            since: Instant::now(),
        })
    }

    async fn attempt<S>(
        &self,
        request: Request,
        fence: Arc<CallFence>,
        sent: S,
    ) -> Result<ReceivedReply, Error>
    where
        S: FnOnce(Instant) + Send + 'static,
    {
        let left = Arc::<AtomicBool>::default();
        let body = FencedBody {
            rest: Some(request.body),
            fence,
            sent: Mutex::new(Some(Box::new(sent))),
            left: Arc::clone(&left),
        };
        let Config {
            timeout,
            max_answer,
            ..
        } = self.config;
        let has_left = || left.load(Ordering::Acquire);
        let proxy = self.proxy_of(&request.url);
        let failed = |error| match failure(error, has_left()) {
            Error::NotSent(error) => Error::NotSent(format!("{error}{proxy}")),
            other => other,
        };
        let mut deadline = Instant::now() + timeout;
        let late = |_| match has_left() {
            true => Error::TimedOut(timeout),
            false => Error::NotSent(format!("no connection within {timeout:?}{proxy}")),
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
        let mut room: Option<AnswerRoom> = None;
        loop {
            let patience = room.as_ref().map(|_| Instant::now() + SLOW_ANSWER_GRACE);
            let patience = patience.filter(|at| *at < deadline);
            let chunk = timeout_at(patience.unwrap_or(deadline), response.chunk()).await;
            let chunk = chunk.map_err(|elapsed| match patience {
                Some(_) => Error::Unanswered(TOO_SLOW.to_owned()),
                None => late(elapsed),
            });
            let Some(chunk) = chunk?.map_err(failed)? else {
                break;
            };
            if is_error && body.len() + chunk.len() > LARGE {
                // The status and the beginning of the body are enough to classify an error.
                break;
            }
            if body.len() + chunk.len() > max_answer {
                return Err(Error::TooLarge(max_answer));
            }
            body.extend_from_slice(&chunk);
            match &room {
                Some(room) if room.is_wasted(body.len()) => {
                    return Err(Error::Unanswered(TOO_SLOW.to_owned()));
                }
                None if body.len() > LARGE => {
                    let asked = Instant::now();
                    room = self.room_for_answer(&request.account).await;
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
            permit: room.map(|room| room.permit),
        })
    }
}

/// The permit to hold a large answer in memory.
struct AnswerRoom {
    permit: OwnedSemaphorePermit,
    since: Instant,
}

impl AnswerRoom {
    /// Returns true if an answer of `bytes` bytes so far arrives too slowly to keep its place.
    fn is_wasted(&self, bytes: usize) -> bool {
        let elapsed = self.since.elapsed();
        elapsed > SLOW_ANSWER_GRACE
            && ((bytes - LARGE) as u64) < MIN_ANSWER_RATE * elapsed.as_secs()
    }
}

/// Returns the error of a call that failed after or before the request left.
fn failure(error: reqwest::Error, has_left: bool) -> Error {
    if has_cause::<FenceClosed>(&error) {
        return Error::FenceClosed;
    }
    // The address may hold an account's name. The cause alone is enough.
    let error = describe(&error.without_url());
    if has_left {
        Error::Unanswered(error)
    } else {
        Error::NotSent(error)
    }
}

/// Returns true if one of the causes of an error has type `E`.
fn has_cause<E: std::error::Error + 'static>(error: &reqwest::Error) -> bool {
    let first = error as &(dyn std::error::Error + 'static);
    let mut causes = std::iter::successors(Some(first), |error| error.source());
    causes.any(|error| error.is::<E>())
}

/// Returns the causes of an error in one line, outermost first.
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
    async fn send<S>(
        &self,
        request: Request,
        fence: Arc<CallFence>,
        sent: S,
    ) -> Result<ReceivedReply, Error>
    where
        S: FnOnce(Instant) + Send + 'static,
    {
        self.attempt(request, fence, sent).await
    }
}

type OnSent = Box<dyn FnOnce(Instant) + Send>;

/// The fence was closed when the connection took a part of the request.
#[derive(Debug, thiserror::Error)]
#[error("another worker may have taken over")]
struct FenceClosed;

/// A body of known length that the connection takes in parts, each while the fence is open.
///
/// A connection of HTTP/1 takes the first part in the same step in which it writes the request's head. The first part
/// therefore also shows that the request left, and when. After an error the connection is closed, and writes nothing
/// that it has not written yet.
///
/// The last byte is a part of its own, and a request without it is never whole. So the last check comes after all work that
/// the first part causes, right before the connection writes.
struct FencedBody {
    /// The bytes that were not taken yet; `None` at the end.
    rest: Option<Bytes>,
    fence: Arc<CallFence>,
    sent: Mutex<Option<OnSent>>,
    left: Arc<AtomicBool>,
}

impl Body for FencedBody {
    type Data = Bytes;
    type Error = FenceClosed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(mut part) = self.rest.take() else {
            return Poll::Ready(None);
        };
        if !self.fence.is_open() {
            return Poll::Ready(Some(Err(FenceClosed)));
        }
        if let Some(sent) = self.sent.get_mut().take() {
            self.left.store(true, Ordering::Release);
            sent(Instant::now());
        }
        let most = part.len().saturating_sub(LAST_PART).min(REQUEST_PART);
        if most > 0 {
            self.rest = Some(part.split_off(most));
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = self.rest.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(length as u64)
    }
}
