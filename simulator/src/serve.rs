//! Serving one call, from its arrival to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::account::Config;
use super::admission::{Admission, LimitedAccount};
use super::answer::VendorAnswer;
use super::call::{RequestProblem, VendorCall};
use super::cost::{self, TokenCount};
use super::dialect;
use super::failure::FailureContext;
use super::fault::InjectedFault;
use super::limits;
use super::record::RecordEntry;
use super::refusal;
use super::route::{self, ApiRoute, ApiTask};
use super::state::SharedState;
use super::vendor::Vendor;

/// The largest request body that is read, in bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
/// The number of empty lines that keep a connection alive until the answer is sent, after a first one.
const EMPTY_LINES: u32 = 10;
/// The size of a chunk of an endless answer, in bytes.
const ENDLESS_CHUNK_BYTES: usize = 64 * 1024;

/// The moment of an admission, in both clocks.
#[derive(Clone, Copy)]
struct ArrivalTime {
    instant: Instant,
    wall: SystemTime,
}

impl ArrivalTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "the provider's clock is its own, not the workers'"
    )]
    fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

pub(super) async fn handle(
    State(shared): State<Arc<SharedState>>,
    request: Request<Body>,
) -> Response<Body> {
    // Where only calls are counted, a call is admitted before its body is read, as at a gateway.
    let mut arrived = ArrivalTime::now();
    let (parts, mut body) = request.into_parts();
    let call = match authorize(&shared, &parts) {
        Ok(call) => call,
        Err(answer) => return answer.response(HeaderMap::new()),
    };
    let (config, vendor, model) = (call.config(), call.vendor(), call.model());
    let mut cost = TokenCount::default();
    if config.counts_tokens() {
        let Ok(bytes) = to_bytes(body, MAX_REQUEST_BYTES).await else {
            return call.unreadable().response(HeaderMap::new());
        };
        cost = cost::at_admission(vendor, &bytes);
        body = Body::from(bytes);
        arrived = ArrivalTime::now();
    }
    let admission = call.account.admit(cost, arrived.instant);
    let record = |status: u16, fault: Option<InjectedFault>| {
        let entry = call.record_entry(arrived.wall, cost);
        shared.record.add(RecordEntry {
            status,
            fault,
            ..entry
        });
    };
    let headers = limits::headers(config, &admission, cost, arrived.wall);
    if let Some(refused) = admission.refused {
        let answer = refusal::answer(config, &admission, refused, cost, model, arrived.wall);
        record(answer.status.as_u16(), None);
        return answer.response(headers);
    }
    let (fault, latency) = shared.choose();
    if fault == Some(InjectedFault::Hang) {
        record(0, fault);
        std::future::pending::<()>().await;
    }
    let answer = match (&call.route, to_bytes(body, MAX_REQUEST_BYTES).await) {
        (None, _) => {
            let path = parts.uri.path().to_owned();
            call.refused(&RequestProblem::Address(path))
        }
        (Some(_), Err(_)) => call.unreadable(),
        (Some(route), Ok(body)) => {
            let call = VendorCall {
                vendor,
                task: route.task,
                model,
                headers: &parts.headers,
                body: &body,
                request: None,
                account: config,
                key: call.key,
            };
            dialect::answer(&call, fault.and_then(InjectedFault::case))
        }
    };
    // The call is recorded before the wait, because a client that disconnects meanwhile has made its call too.
    let whole = fault.is_none_or(InjectedFault::sends_a_whole_answer);
    record(if whole { answer.status.as_u16() } else { 0 }, fault);
    if vendor == Vendor::DeepSeek && fault.is_none() && answer.status == StatusCode::OK {
        return keep_alive_response(answer, headers, latency, admission);
    }
    tokio::time::sleep(latency).await;
    settle(&admission, vendor, model, &answer);
    drop(admission);
    match fault {
        Some(fault) => fault.response(answer, headers),
        None => answer.response(headers),
    }
}

/// A call with a known key, which counts against the limits of its account.
struct AuthorizedCall<'a> {
    account: &'a Arc<LimitedAccount>,
    key: &'a str,
    /// The route of the call; `None` if the vendor does not serve the address.
    route: Option<ApiRoute>,
}

impl AuthorizedCall<'_> {
    fn config(&self) -> &Config {
        self.account.config()
    }

    fn vendor(&self) -> Vendor {
        self.config().provider
    }

    /// Returns the model, if the address names it.
    fn model(&self) -> Option<&str> {
        let route = self.route.as_ref()?;
        route.model.as_deref()
    }

    /// Returns the vendor's answer to a problem of the call.
    fn refused(&self, problem: &RequestProblem) -> VendorAnswer {
        let context = FailureContext {
            key: self.key,
            account: &self.config().name,
            ..FailureContext::default()
        };
        dialect::refused(self.vendor(), problem, &context)
    }

    /// Returns the answer to a call whose body cannot be read.
    fn unreadable(&self) -> VendorAnswer {
        let problem = RequestProblem::Request("the body cannot be read".to_owned());
        self.refused(&problem)
    }

    /// Returns the entry of the record, without status and fault.
    fn record_entry(&self, arrived: SystemTime, cost: TokenCount) -> RecordEntry {
        let key = self.account.key_name(self.key);
        RecordEntry {
            at: arrived.duration_since(UNIX_EPOCH).unwrap_or_default(),
            account: self.config().name.clone(),
            key: key.unwrap_or_else(|| "none".to_owned()),
            status: 0,
            fault: None,
            tokens: cost.tokens,
        }
    }
}

/// Finds the account, the key and the route of a call. Returns an answer instead if the call has no known key, or if
/// no limit counts it.
fn authorize<'a>(
    shared: &'a SharedState,
    parts: &'a Parts,
) -> Result<AuthorizedCall<'a>, Box<VendorAnswer>> {
    let path = parts.uri.path();
    if route::is_public(&parts.method, path) {
        return Err(Box::new(dialect::models(Vendor::OpenRouter)));
    }
    let account = shared.account(&parts.headers, path);
    let (account, key) =
        account.ok_or_else(|| Box::new(shared.unauthorized(&parts.headers, path)))?;
    let config = account.config();
    let route = route::find(config.provider, &parts.method, &parts.uri);
    let task = route.as_ref().map(|route| route.task);
    match task.and_then(|task| unlimited(task, config)) {
        Some(answer) => Err(Box::new(answer)),
        None => Ok(AuthorizedCall {
            account,
            key,
            route,
        }),
    }
}

/// Returns the answer to a request that no limit counts: the list of models, or the state of a key.
fn unlimited(task: ApiTask, account: &Config) -> Option<VendorAnswer> {
    match task {
        ApiTask::Models => Some(dialect::models(account.provider)),
        ApiTask::Key => Some(dialect::key(&account.name)),
        _ => None,
    }
}

/// Counts the real cost of an answer, at vendors that count it again.
fn settle(admission: &Admission, vendor: Vendor, model: Option<&str>, answer: &VendorAnswer) {
    let settled = answer
        .spent
        .and_then(|spent| cost::at_completion(vendor, model.unwrap_or_default(), spent));
    if let Some(settled) = settled {
        admission.settle(settled, ArrivalTime::now().instant);
    }
}

/// Returns a response that begins at once and sends empty lines until the latency is over.
fn keep_alive_response(
    mut answer: VendorAnswer,
    headers: HeaderMap,
    latency: Duration,
    admission: Admission,
) -> Response<Body> {
    let newline = Bytes::from_static(b"\n");
    let start = stream::iter([newline.clone()]);
    let lines = stream::repeat(newline).take(EMPTY_LINES as usize);
    let lines = lines.then(move |line| async move {
        tokio::time::sleep(latency / EMPTY_LINES).await;
        line
    });
    let body = std::mem::take(&mut answer.body);
    let end = stream::once(async move {
        drop(admission);
        Bytes::from(body)
    });
    let pieces = start.chain(lines).chain(end).map(Ok::<_, std::io::Error>);
    answer.response(headers).map(|_| Body::from_stream(pieces))
}

impl SharedState {
    /// Returns the account that the request's key belongs to, and the key.
    fn account<'a>(
        &'a self,
        headers: &'a HeaderMap,
        path: &str,
    ) -> Option<(&'a Arc<LimitedAccount>, &'a str)> {
        let with_key = |account: &'a Arc<LimitedAccount>| {
            let config = account.config();
            let key = config.provider.key(headers)?;
            let known = config.keys.iter().any(|known| known == key);
            known.then_some((account, key))
        };
        let by_key = self.accounts.iter().find_map(with_key);
        let keyless = || {
            let mut accounts = self.accounts.iter();
            let is_keyless = |config: &Config| config.keys.is_empty();
            let open = accounts.find(|account| is_keyless(account.config()))?;
            (Vendor::of_path(path) == Vendor::Ollama).then_some((open, ""))
        };
        by_key.or_else(keyless)
    }

    /// Returns the answer to a request without a known key, in the dialect that the path belongs to.
    fn unauthorized(&self, headers: &HeaderMap, path: &str) -> VendorAnswer {
        let likely = Vendor::of_path(path);
        let vendor = match likely {
            // Many vendors share OpenAI's paths. A vendor that is simulated takes precedence over OpenAI.
            Vendor::OpenAi | Vendor::OpenRouter | Vendor::Azure => {
                let accounts = self.accounts.iter();
                let mut vendors = accounts.map(|account| account.config().provider);
                let simulated = vendors.find(|vendor| route::serves(*vendor, path));
                simulated.unwrap_or(likely)
            }
            vendor => vendor,
        };
        let key = vendor.key(headers);
        let context = FailureContext {
            key: key.unwrap_or_default(),
            ..FailureContext::default()
        };
        let case = if key.is_some() {
            "bad_key"
        } else {
            "bad_key-missing"
        };
        dialect::refused(vendor, &RequestProblem::Case(case), &context)
    }
}

impl InjectedFault {
    /// Returns true if a whole answer is sent, so that the record holds its status.
    fn sends_a_whole_answer(self) -> bool {
        !matches!(
            self,
            InjectedFault::Reset
                | InjectedFault::Truncated
                | InjectedFault::Hang
                | InjectedFault::Endless
        )
    }

    /// Returns the case of the failure that replaces the answer.
    fn case(self) -> Option<&'static str> {
        match self {
            InjectedFault::Error => Some("server_error"),
            InjectedFault::Overloaded => Some("overloaded"),
            InjectedFault::Case(case) => Some(case),
            _ => None,
        }
    }

    fn response(self, answer: VendorAnswer, headers: HeaderMap) -> Response<Body> {
        let broken = || std::io::Error::other("a fault that was asked for");
        match self {
            InjectedFault::Error | InjectedFault::Overloaded | InjectedFault::Case(_) => {
                answer.response(headers)
            }
            InjectedFault::Malformed => {
                let body = b"<html>not the answer</html>".to_vec();
                VendorAnswer { body, ..answer }.response(headers)
            }
            InjectedFault::Reset | InjectedFault::Hang => {
                let pieces = stream::iter([Err::<Bytes, _>(broken())]);
                Response::new(Body::from_stream(pieces))
            }
            InjectedFault::Endless => {
                let chunk = Bytes::from_static(&[b' '; ENDLESS_CHUNK_BYTES]);
                let pieces = stream::repeat(chunk).map(Ok::<_, std::io::Error>);
                Response::new(Body::from_stream(pieces))
            }
            InjectedFault::Truncated => {
                let mut half = answer.body;
                half.truncate(half.len() / 2);
                let pieces = stream::iter([Ok(Bytes::from(half)), Err(broken())]);
                Response::new(Body::from_stream(pieces))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;

    use super::*;
    use crate::Config;

    const HELLO: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#;

    fn shared(accounts: &[&str], faults: &str) -> Arc<SharedState> {
        let account = |text: &&str| text.parse().expect("a config");
        let mut config = Config::new(accounts.iter().map(account).collect());
        config.latency = Default::default();
        if !faults.is_empty() {
            config.faults = faults.parse().expect("faults");
        }
        Arc::new(SharedState::new(config).expect("a record"))
    }

    async fn call(
        shared: &Arc<SharedState>,
        path: &str,
        header: (&str, &str),
        body: &str,
    ) -> (u16, String) {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header.0, header.1)
            .header("anthropic-version", "2023-06-01")
            .body(Body::from(body.to_owned()))
            .expect("a request");
        let response = handle(State(Arc::clone(shared)), request).await;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .expect("a body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn a_key_is_looked_for_where_its_vendor_sends_it() {
        let all = shared(
            &[
                "name=o,key=k-o",
                "name=a,key=k-a,provider=anthropic",
                "name=z,key=k-z,provider=azure",
                "name=g,key=k-g,provider=gemini",
                "name=l,provider=ollama",
            ],
            "",
        );
        let gemini = r#"{"contents":[{"parts":[{"text":"hello"}]}]}"#;
        let anthropic =
            r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hello"}]}"#;
        for (path, header, body, expected) in [
            (
                "/v1/chat/completions",
                ("authorization", "Bearer k-o"),
                HELLO,
                200,
            ),
            ("/v1/chat/completions", ("x-api-key", "k-o"), HELLO, 401),
            ("/v1/messages", ("x-api-key", "k-a"), anthropic, 200),
            (
                "/v1/messages",
                ("authorization", "Bearer k-a"),
                anthropic,
                200,
            ),
            (
                "/v1/messages",
                ("authorization", "Bearer k-o"),
                anthropic,
                404,
            ),
            (
                "/openai/v1/chat/completions",
                ("api-key", "k-z"),
                HELLO,
                200,
            ),
            (
                "/v1beta/models/m:generateContent",
                ("x-goog-api-key", "k-g"),
                gemini,
                200,
            ),
            (
                "/v1beta/models/m:generateContent",
                ("authorization", "Bearer k-g"),
                gemini,
                403,
            ),
            (
                "/v1beta/models/m:generateContent",
                ("x-goog-api-key", "k-x"),
                gemini,
                400,
            ),
            ("/api/chat", ("accept", "*/*"), HELLO, 200),
            ("/v1/embeddings", ("accept", "*/*"), HELLO, 401),
        ] {
            let (status, answer) = call(&all, path, header, body).await;
            assert_eq!(status, expected, "{path} {header:?}: {answer}");
        }
        assert_eq!(
            all.record.entries().len(),
            7,
            "who is not known is not counted"
        );
    }

    #[tokio::test]
    async fn an_unknown_key_is_refused_in_the_dialect_of_the_path() {
        let mistral = shared(&["name=m,key=k,provider=mistral"], "");
        let wrong = ("authorization", "Bearer sk-wrong");
        let expected = (401, r#"{"detail":"Unauthorized"}"#.to_owned());
        assert_eq!(
            call(&mistral, "/v1/chat/completions", wrong, HELLO).await,
            expected
        );
        let deepseek = shared(&["name=d,key=k,provider=deepseek"], "");
        let expected = (401, "Authentication Fails (governor)".to_owned());
        assert_eq!(
            call(&deepseek, "/chat/completions", ("accept", "*/*"), HELLO).await,
            expected
        );
        assert!(
            call(&deepseek, "/v1/messages", wrong, HELLO)
                .await
                .1
                .contains("authentication_error")
        );
    }

    #[tokio::test]
    async fn what_openai_answers_stays_as_it_is() {
        let one = shared(&["name=o,key=k"], "");
        let (_, answer) = call(
            &one,
            "/v1/chat/completions",
            ("authorization", "Bearer k"),
            HELLO,
        )
        .await;
        let expected = r#"{"id":"chatcmpl-aeab1e87972b520af3eeea1d","object":"chat.completion","created":1767225600,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"You said: hello","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":15,"completion_tokens":3,"total_tokens":18}}"#;
        assert_eq!(answer, expected);
    }

    #[tokio::test]
    async fn a_fault_is_reported_in_the_dialect_of_the_account() {
        let key = ("x-api-key", "k");
        for (fault, status, expected) in [
            ("error=1", 500, "api_error"),
            ("overloaded=1", 529, "overloaded_error"),
            ("quota_exhausted=1", 429, "enforced_spend_limit_reached"),
            // A case that only other vendors have means the vendor's own failure of that class.
            ("rate_limited-array=1", 429, "rate_limit_error"),
        ] {
            let one = shared(&["name=a,key=k,provider=anthropic"], fault);
            let (got, answer) = call(&one, "/v1/messages", key, HELLO).await;
            assert_eq!(got, status, "{fault}");
            assert!(answer.contains(expected), "{fault}: {answer}");
            assert_eq!(one.record.entries()[0].status, status);
        }
    }

    #[tokio::test]
    async fn a_fault_repeats_what_the_failure_of_that_name_does() {
        let one = shared(&["name=r,key=k,provider=openrouter"], "content_filtered=1");
        let (status, answer) = call(
            &one,
            "/api/v1/chat/completions",
            ("authorization", "Bearer k"),
            HELLO,
        )
        .await;
        assert_eq!(status, 403);
        assert!(
            answer.contains(r#""flagged_input":"hello""#) && answer.contains(r#""model_slug":"m""#),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn deepseek_keeps_a_call_alive_with_empty_lines() {
        let one = shared(&["name=d,key=k,provider=deepseek,concurrent=1"], "");
        for _ in 0..2 {
            let (status, answer) = call(
                &one,
                "/chat/completions",
                ("authorization", "Bearer k"),
                HELLO,
            )
            .await;
            assert_eq!(status, 200, "the call before has ended: {answer}");
            assert!(
                answer.starts_with("\n\n") && answer.trim_start().starts_with('{'),
                "{answer}"
            );
        }
    }

    #[tokio::test]
    async fn what_bedrock_reserves_is_settled_with_the_burndown() {
        let one = shared(&["name=b,key=k,provider=bedrock,tokens=390/1h"], "");
        let body = r#"{"messages":[{"role":"user","content":[{"text":"hello"}]}],"inferenceConfig":{"maxTokens":300}}"#;
        let key = ("authorization", "Bearer k");
        for expected in [200, 200, 429] {
            let path = "/model/anthropic.claude-sonnet-4-5-v1%3A0/converse";
            assert_eq!(call(&one, path, key, body).await.0, expected);
        }
    }
}
