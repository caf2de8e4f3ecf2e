//! A provider that does not exist: it speaks OpenAI's API, enforces limits strictly, and can fail.
//!
//! It shares no pacing code with the workers, so that the two cannot be wrong together. Answers are
//! made from the request alone, so that two runs can be compared byte by byte.

pub mod account;
mod answer;
pub mod fault;
pub mod record;
mod window;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use axum::routing::any;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal};
use tokio::net::TcpListener;

use account::{Account, Admission, Refused};
use answer::Answer;
use fault::{Fault, Faults};
use record::{Entry, Record};

/// The largest request that is read, in bytes.
const LARGEST_REQUEST: usize = 64 * 1024 * 1024;
/// A piece of an answer without an end, in bytes.
const ENDLESS_PIECE: usize = 64 * 1024;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// The accounts, each with its keys and limits.
    pub accounts: Vec<account::Config>,
    /// How long an answer takes: log-normal around the geometric mean of the two, and never beyond them.
    pub latency: (Duration, Duration),
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// For the choice of latencies and faults.
    pub seed: u64,
    /// A file for the record, a JSON line per call.
    pub record: Option<std::path::PathBuf>,
}

/// A running simulated provider. It ends when this is dropped.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    accounts: Vec<Account>,
    latency: (Duration, Duration),
    faults: Mutex<Faults>,
    rng: Mutex<SmallRng>,
    record: Record,
}

impl Provider {
    /// Starts to serve on `listener`.
    ///
    /// # Errors
    /// When the record's file cannot be opened or the listener has no address.
    pub fn start(config: Config, listener: TcpListener) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            accounts: config.accounts.into_iter().map(Account::new).collect(),
            latency: config.latency,
            faults: Mutex::new(config.faults),
            rng: Mutex::new(SmallRng::seed_from_u64(config.seed)),
            record: Record::new(config.record.as_deref())?,
        });
        let router = Router::new().fallback(any(handle)).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // Serving ends with the listener; there is nobody to tell.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shared, server })
    }

    /// Its address, as a `base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it was asked so far.
    pub fn calls(&self) -> Vec<Entry> {
        self.shared.record.entries()
    }

    /// From now on this goes wrong.
    pub fn fail(&self, faults: Faults) {
        *self.shared.faults() = faults;
    }

    /// The accounts that it has.
    pub fn accounts(&self) -> Vec<account::Config> {
        self.shared.accounts.iter().map(|account| account.config().clone()).collect()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "the provider's clock is its own, not the workers'")]
async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    // The moment of admission: before the body is read, as at a gateway, where only calls are counted.
    let mut arrived = (Instant::now(), SystemTime::now());
    let (parts, mut body) = request.into_parts();
    let path = route(&parts.method, &parts.uri);
    let key = bearer(&parts.headers)
        .and_then(|key| shared.accounts.iter().find_map(|account| Some((account, account.key_name(key)?))));
    let Some((account, key)) = key else {
        let answer = match bearer(&parts.headers) {
            Some(key) => Answer::wrong_key(key),
            None => Answer::no_key(),
        };
        return answer.response(HeaderMap::new());
    };
    if path == Some("/models") {
        return Answer::models().response(HeaderMap::new());
    }
    let mut tokens = 0;
    if !account.config().tokens.is_empty() {
        let Ok(bytes) = axum::body::to_bytes(body, LARGEST_REQUEST).await else {
            return Answer::bad_request("the body cannot be read").response(HeaderMap::new());
        };
        tokens = answer::admission_tokens(&bytes);
        body = Body::from(bytes);
        arrived = (Instant::now(), SystemTime::now());
    }
    let admission = account.admit(tokens, arrived.0);
    let note = |status: u16, fault: Option<Fault>| {
        let at = arrived.1.duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry =
            Entry { at, account: account.config().name.clone(), key: key.clone(), status, fault, tokens };
        shared.record.note(entry);
    };
    let headers = limit_headers(&admission, account.config().headers);
    if let Some(refused) = admission.refused {
        note(429, None);
        return Answer::refused(account.config(), &admission, refused, tokens).response(headers);
    }
    let (fault, latency) = shared.choose();
    if fault == Some(Fault::Hang) {
        note(0, fault);
        std::future::pending::<()>().await;
    }
    let answer = match (path, axum::body::to_bytes(body, LARGEST_REQUEST).await) {
        (None, _) => Answer::unknown_path(parts.uri.path()),
        (Some(_), Err(_)) => Answer::bad_request("the body cannot be read"),
        (Some(path), Ok(body)) => answer::to(path, &body),
    };
    // Noted before the wait: a client that goes away meanwhile has made its call all the same.
    note(fault.map_or(answer.status.as_u16(), Fault::status), fault);
    tokio::time::sleep(latency).await;
    drop(admission);
    match fault {
        Some(fault) => fault.response(answer, headers),
        None => answer.response(headers),
    }
}

fn route(method: &Method, uri: &Uri) -> Option<&'static str> {
    match (method, uri.path()) {
        (&Method::POST, "/v1/chat/completions") => Some("/chat/completions"),
        (&Method::POST, "/v1/embeddings") => Some("/embeddings"),
        (&Method::GET, "/v1/models") => Some("/models"),
        _ => None,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

/// OpenAI's headers: the limit on calls, what is left of it, and when it is whole again.
fn limit_headers(admission: &Admission<'_>, told: account::Headers) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let names = [
        (
            admission.calls,
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        ),
        (
            admission.tokens,
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        ),
    ];
    for (rest, [limit, remaining, reset]) in names {
        if let Some(rest) = rest.filter(|_| told == account::Headers::Limits) {
            set(limit, rest.limit.to_string());
            set(remaining, rest.remaining.to_string());
            set(reset, format!("{}ms", rest.whole_in.as_millis()));
        }
    }
    let wait = match admission.refused {
        Some(Refused::Calls(wait) | Refused::Tokens(wait)) => Some(wait),
        Some(Refused::TooLarge) | None => None,
    };
    if let Some(wait) = wait.filter(|_| told != account::Headers::None) {
        set("retry-after", wait.as_secs_f64().ceil().to_string());
        set("retry-after-ms", (wait.as_micros().div_ceil(1_000)).to_string());
    }
    headers
}

impl Shared {
    fn choose(&self) -> (Option<Fault>, Duration) {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let latency = draw(self.latency, &mut *rng);
        (self.faults().choose(rng.random()), latency)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time that is log-normal, as those of real calls are: two standard deviations reach to either end.
fn draw((least, most): (Duration, Duration), rng: &mut impl Rng) -> Duration {
    let (low, high) = (least.as_secs_f64().max(1e-6).ln(), most.as_secs_f64().max(1e-6).ln());
    match LogNormal::new(f64::midpoint(low, high), (high - low) / 4.0) {
        Ok(times) if least < most => Duration::from_secs_f64(times.sample(rng)).clamp(least, most),
        _ => least,
    }
}

impl Answer {
    fn response(self, mut headers: HeaderMap) -> Response<Body> {
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            headers.insert("x-request-id", id);
        }
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

impl Fault {
    /// The status that goes into the record; 0 where no whole answer is sent.
    fn status(self) -> u16 {
        match self {
            Fault::Error => 500,
            Fault::Overloaded => 503,
            Fault::Malformed => 200,
            Fault::Reset | Fault::Truncated | Fault::Hang | Fault::Endless => 0,
        }
    }

    fn response(self, answer: Answer, headers: HeaderMap) -> Response<Body> {
        let broken = || std::io::Error::other("a fault that was asked for");
        let stream = |pieces: Vec<Result<bytes::Bytes, std::io::Error>>| {
            let mut response = Response::new(Body::from_stream(futures::stream::iter(pieces)));
            *response.status_mut() = StatusCode::OK;
            response
        };
        match self {
            Fault::Error => Answer::server_error().response(headers),
            Fault::Overloaded => Answer::overloaded().response(headers),
            Fault::Malformed => {
                Answer { body: b"<html>not the answer</html>".to_vec(), ..answer }.response(headers)
            }
            Fault::Reset | Fault::Hang => stream(vec![Err(broken())]),
            Fault::Endless => {
                let piece = bytes::Bytes::from_static(&[b' '; ENDLESS_PIECE]);
                let pieces = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
                Response::new(Body::from_stream(pieces))
            }
            Fault::Truncated => {
                let half = answer.body[..answer.body.len() / 2].to_vec();
                stream(vec![Ok(half.into()), Err(broken())])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_log_normal_and_within_their_bounds() {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(9));
        let mut rng = SmallRng::seed_from_u64(1);
        let mut times: Vec<_> = (0..10_000).map(|_| draw((least, most), &mut rng)).collect();
        times.sort();
        assert!(times[0] >= least && times[9_999] <= most);
        let (median, high) = (times[5_000].as_secs_f64(), times[8_413].as_secs_f64());
        assert!((median - 3.0).abs() < 0.1, "{median}");
        // A standard deviation above: the square root of three times as long.
        assert!((high / median - 3f64.sqrt()).abs() < 0.1, "{high}");
        assert_eq!(draw((least, least), &mut rng), least);
    }
}
