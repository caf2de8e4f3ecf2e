//! Refusals that do not say whether the account or the job is at fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use forebay::control::messages::{AccountsReport, SwitchRequest};
use forebay_schemas::Status;
use serde_json::{Value, json};

use crate::program;
use crate::support::shared_server::accounts;
use crate::support::{Account, Forebay, chat, control, provider, until};

/// A provider that refuses each call, or serves those whose prompt is not `bad`.
#[derive(Default)]
struct Provider {
    serves: AtomicBool,
    calls: AtomicUsize,
}

async fn answer(State(provider): State<Arc<Provider>>, request: String) -> Response {
    provider.calls.fetch_add(1, Ordering::Relaxed);
    if !provider.serves.load(Ordering::Relaxed) || request.contains("\"bad\"") {
        let refusal = json!({ "error": { "message": "No, thank you.", "type": "refused" } });
        return (StatusCode::BAD_REQUEST, refusal.to_string()).into_response();
    }
    let message = json!({ "role": "assistant", "content": "yes" });
    let choice = json!({ "index": 0, "finish_reason": "stop", "message": message });
    json!({ "object": "chat.completion", "choices": [choice] })
        .to_string()
        .into_response()
}

async fn start_provider() -> (Arc<Provider>, String) {
    let provider = Arc::<Provider>::default();
    let path = "/v1/chat/completions";
    let router = Router::new().route(path, post(answer));
    let redirects = async || {
        (
            StatusCode::FOUND,
            [(header::LOCATION, "https://right.example/v1")],
        )
    };
    let router = router.route("/old/chat/completions", post(redirects));
    let router = router.with_state(Arc::clone(&provider));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
    let listener = listener.await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    (provider, format!("http://{address}"))
}

async fn start_forebay(address: &str) -> Forebay {
    Forebay::builder()
        .account(Account::at_url("one", &format!("{address}/v1")).limits("{ concurrent = 2 }"))
        .pool("chat", "gpt-4o-mini", &["one"])
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_refuses_every_job_cools_and_its_jobs_wait_until_it_serves() {
    let (provider, address) = start_provider().await;
    let forebay = start_forebay(&address).await;
    for job in 0..30 {
        let job = chat(&job.to_string(), "hello");
        forebay.publish("ai.jobs.chat", &job).await;
    }
    until("it cools", async || {
        let AccountsReport { accounts, .. } = accounts(&forebay).await;
        let models = &accounts[0].models;
        models.iter().any(|model| model.state == "cooling")
    })
    .await;
    let calls = provider.calls.load(Ordering::Relaxed);
    assert!(calls <= 8, "{calls}");
    provider.serves.store(true, Ordering::Relaxed);
    let enable = SwitchRequest {
        account: "one".to_owned(),
        key: None,
    };
    let _: Value = control(&forebay, "accounts.enable", &enable)
        .await
        .expect("enabled");
    for job in 0..30 {
        let ended = forebay.completion("default", None, &job.to_string()).await;
        assert_eq!(ended.status, Status::Succeeded, "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_refused_while_others_are_served_or_alone_fails() {
    let (provider, address) = start_provider().await;
    provider.serves.store(true, Ordering::Relaxed);
    let forebay = start_forebay(&address).await;
    for (id, text) in [("a", "bad"), ("b", "good"), ("c", "bad"), ("d", "good")] {
        forebay.publish("ai.jobs.chat", &chat(id, text)).await;
    }
    for id in ["a", "c"] {
        let ended = forebay.completion("default", None, id).await;
        assert_eq!((ended.status, ended.attempts.len()), (Status::Failed, 2));
        assert_eq!(ended.error.expect("a reason").message, "No, thank you.");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_at_an_address_that_redirects_ends_with_the_place_and_fails_no_line() {
    let (_provider, address) = start_provider().await;
    let account = Account::at_url("one", &format!("{address}/old"));
    let dir = Forebay::builder()
        .account(account.limits("{ concurrent = 1 }"))
        .pool("m", "m", &["one"])
        .write();
    let line = |id| json!({ "custom_id": format!("{id}"), "body": { "model": "m", "messages": [{ "role": "user", "content": "hi" }] } });
    let lines: Vec<_> = (0..30).map(|id| line(id).to_string()).collect();
    std::fs::write(dir.path().join("in.jsonl"), lines.join("\n")).expect("written");
    let output = program::run(dir.path(), &["run", "in.jsonl", "--output", "out.jsonl"]).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(
        output
            .stderr
            .contains("redirects to https://right.example/v1"),
        "{output:?}"
    );
    assert!(!dir.path().join("out.errors.jsonl").exists(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_allowed_fails_its_lines_and_holds_up_no_others() {
    const LINES: usize = 30;
    const FORBIDDEN: &str = "fail-model_not_allowed";
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::limited(&provider, "{ concurrent = 2 }")
        .pool(FORBIDDEN, FORBIDDEN, &["one"])
        .write();
    let line = |(id, model): (usize, &str)| {
        let body = json!({ "model": model, "messages": [{ "role": "user", "content": "hello" }] });
        json!({ "custom_id": id.to_string(), "body": body }).to_string()
    };
    let models = ["chat", FORBIDDEN].into_iter().cycle().take(2 * LINES);
    let lines: Vec<_> = models.enumerate().map(line).collect();
    std::fs::write(dir.path().join("in.jsonl"), lines.join("\n")).expect("written");
    let output = program::run(dir.path(), &["run", "in.jsonl", "--output", "out.jsonl"]).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stdout.contains("30 of 60 lines succeeded"),
        "{output:?}"
    );
    for words in [
        "× model_not_found",
        "× model_not_allowed",
        "accounts enable one",
    ] {
        assert!(output.stdout.contains(words), "{words}: {output:?}");
    }
    let calls = provider.calls().len();
    assert!(calls < 2 * LINES, "{calls} calls");
}
