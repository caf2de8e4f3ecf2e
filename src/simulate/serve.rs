//! One call from its arrival to its answer.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response, StatusCode};

use super::Shared;
use super::admission::Account;
use super::answer::Answer;
use super::call::{Call, Wrong};
use super::cost::{self, Cost};
use super::dialect;
use super::failure::{self, Told};
use super::fault::Fault;
use super::limits;
use super::record::Entry;
use super::refusal;
use super::route::{self, Task};
use super::vendor::Vendor;

/// The largest request that is read, in bytes.
const LARGEST_REQUEST: usize = 64 * 1024 * 1024;
/// A piece of an answer without an end, in bytes.
const ENDLESS_PIECE: usize = 64 * 1024;

#[expect(clippy::disallowed_methods, reason = "the provider's clock is its own, not the workers'")]
fn moment() -> (Instant, SystemTime) {
    (Instant::now(), SystemTime::now())
}

pub(super) async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    // The moment of admission: before the body is read, as at a gateway, where only calls are counted.
    let mut arrived = moment();
    let (parts, mut body) = request.into_parts();
    let Some((account, key)) = shared.account(&parts.headers, parts.uri.path()) else {
        return shared.stranger(&parts.headers, parts.uri.path()).response(HeaderMap::new());
    };
    let vendor = account.config().provider;
    let route = route::find(vendor, &parts.method, &parts.uri);
    if route.as_ref().is_some_and(|route| route.task == Task::Models) {
        return dialect::models(vendor).response(HeaderMap::new());
    }
    let told = Told { key, account: &account.config().name, ..Told::default() };
    let unread = || dialect::refused(vendor, &Wrong::Request("the body cannot be read".to_owned()), &told);
    let mut cost = Cost::default();
    if account.config().counts_tokens() {
        let Ok(bytes) = axum::body::to_bytes(body, LARGEST_REQUEST).await else {
            return unread().response(HeaderMap::new());
        };
        cost = cost::at_admission(vendor, &bytes);
        body = Body::from(bytes);
        arrived = moment();
    }
    let admission = account.admit(cost, arrived.0);
    let note = |status: u16, fault: Option<Fault>| {
        let at = arrived.1.duration_since(UNIX_EPOCH).unwrap_or_default();
        let key = account.key_name(key).unwrap_or_else(|| "none".to_owned());
        let account = account.config().name.clone();
        shared.record.note(Entry { at, account, key, status, fault, tokens: cost.tokens });
    };
    let headers = limits::headers(account.config(), &admission, cost, arrived.1);
    let model = route.as_ref().and_then(|route| route.model.as_deref());
    if let Some(refused) = admission.refused {
        let answer = refusal::answer(account.config(), &admission, refused, cost, model, arrived.1);
        note(answer.status.as_u16(), None);
        return answer.response(headers);
    }
    let (fault, latency) = shared.choose();
    if fault == Some(Fault::Hang) {
        note(0, fault);
        std::future::pending::<()>().await;
    }
    let answer = match (&route, axum::body::to_bytes(body, LARGEST_REQUEST).await) {
        (None, _) => dialect::refused(vendor, &Wrong::Address(parts.uri.path().to_owned()), &told),
        (Some(_), Err(_)) => unread(),
        (Some(route), Ok(body)) => dialect::answer(&Call {
            vendor,
            task: route.task,
            model,
            headers: &parts.headers,
            body: &body,
            account: account.config(),
            key,
        }),
    };
    let answer = fault.and_then(|fault| fault.instead(vendor, &told)).unwrap_or(answer);
    // Noted before the wait: a client that goes away meanwhile has made its call all the same.
    let whole = fault.is_none_or(Fault::sends_a_whole_answer);
    note(if whole { answer.status.as_u16() } else { 0 }, fault);
    tokio::time::sleep(latency).await;
    let settled = answer.spent.and_then(|spent| cost::at_the_end(vendor, model.unwrap_or_default(), spent));
    if let Some(settled) = settled {
        admission.settle(settled, moment().0);
    }
    drop(admission);
    match fault {
        Some(fault) => fault.response(answer, headers),
        None => answer.response(headers),
    }
}

impl Shared {
    /// The account that a request's key opens, and the key.
    fn account<'a>(&'a self, headers: &'a HeaderMap, path: &str) -> Option<(&'a Account, &'a str)> {
        let by_key = self.accounts.iter().find_map(|account| {
            let key = account.config().provider.key(headers)?;
            account.config().keys.iter().any(|known| known == key).then_some((account, key))
        });
        let keyless = || {
            let open = |account: &&Account| account.config().keys.is_empty();
            let account = self.accounts.iter().find(open)?;
            (Vendor::of_path(path) == Vendor::Ollama).then_some((account, ""))
        };
        by_key.or_else(keyless)
    }

    /// The answer to whoever has no key or a wrong one, in the dialect that the path belongs to.
    fn stranger(&self, headers: &HeaderMap, path: &str) -> Answer {
        let mut vendors = self.accounts.iter().map(|account| account.config().provider);
        // Many vendors share OpenAI's paths: one that is simulated is meant before OpenAI is.
        let vendor = match Vendor::of_path(path) {
            Vendor::OpenAi | Vendor::OpenRouter | Vendor::Azure => {
                let serves = |vendor: &Vendor| vendor.serves(path);
                vendors.find(serves).unwrap_or_else(|| Vendor::of_path(path))
            }
            vendor => vendor,
        };
        let key = vendor.key(headers);
        let told = Told { key: key.unwrap_or_default(), ..Told::default() };
        let case = if key.is_some() { "bad_key" } else { "bad_key-missing" };
        dialect::refused(vendor, &Wrong::Case(case), &told)
    }
}

impl Fault {
    /// Whether a whole answer is sent, so that its status counts.
    fn sends_a_whole_answer(self) -> bool {
        !matches!(self, Fault::Reset | Fault::Truncated | Fault::Hang | Fault::Endless)
    }

    /// What is answered instead, in the dialect of `vendor`.
    fn instead(self, vendor: Vendor, told: &Told<'_>) -> Option<Answer> {
        let case = match self {
            Fault::Error => "server_error",
            Fault::Overloaded => "overloaded",
            Fault::Case(case) => case,
            _ => return None,
        };
        failure::answer(vendor, case, told)
    }

    fn response(self, answer: Answer, headers: HeaderMap) -> Response<Body> {
        let broken = || std::io::Error::other("a fault that was asked for");
        let stream = |pieces: Vec<Result<bytes::Bytes, std::io::Error>>| {
            let mut response = Response::new(Body::from_stream(futures::stream::iter(pieces)));
            *response.status_mut() = StatusCode::OK;
            response
        };
        match self {
            Fault::Error | Fault::Overloaded | Fault::Case(_) => answer.response(headers),
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
