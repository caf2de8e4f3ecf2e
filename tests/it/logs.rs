//! What the log tells at `RUST_LOG=forebay=debug`: one job's way in order; and what it never tells.

use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::program::{self, Serve, command};
use crate::support::{Account, Forebay, provider};

/// Is in every text that no log may hold.
const PRIVATE: &str = "private";

/// Starts `serve` with this `RUST_LOG`.
async fn serve(dir: &Path, log: &str) -> Serve {
    let mut serve = Serve::of(command(dir, &["serve"]).env("RUST_LOG", log));
    serve.wait_for("ready:").await;
    serve
}

/// Publishes jobs to the pool `chat` and waits until each is acknowledged.
async fn publish(dir: &Path, serve: &mut Serve, jobs: &[Value]) {
    let lines: Vec<_> = jobs.iter().map(Value::to_string).collect();
    std::fs::write(dir.join("jobs.jsonl"), lines.join("\n")).expect("written");
    let published = program::run(dir, &["publish", "jobs.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    for _ in jobs {
        serve.wait_for("delivery acknowledged").await;
    }
}

/// The spans and the text of each line at debug level that is of the job.
fn way_of<'a>(log: &'a str, id: &str) -> Vec<(&'a str, &'a str)> {
    let id = format!("id=\"{id}\"");
    log.lines()
        .filter(|line| line.contains("DEBUG job{") && line.contains(&id))
        .filter_map(|line| line.split_once(" DEBUG ")?.1.rsplit_once("}: "))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_debug_log_tells_the_way_of_each_job_in_order() {
    let provider = provider(&["name=one,key=sk-good"], "").await;
    let account = Account::at("one", &provider).keys(&["sk-bad", "sk-good"]);
    let dir = Forebay::builder()
        .account(account)
        .pool("chat", "gpt-4o-mini", &["one"])
        .write();
    let mut serve = serve(dir.path(), "forebay=debug").await;
    let job = json!({ "id": "a", "body": { "messages": [{ "role": "user", "content": "hi" }] } });
    publish(dir.path(), &mut serve, &[job]).await;
    let (_, log) = serve.terminate().await;
    let way = way_of(&log, "a");
    let texts: Vec<_> = way.iter().map(|(_, text)| *text).collect();
    let attempt = [
        "permit granted",
        "attempt journalled",
        "request sent",
        "answer received",
        "answer classified",
        "verdict reached",
    ];
    let mut expected = vec!["admitted"];
    expected.extend(attempt);
    expected.push("settled verdict=Retry { counted: false, backoff: 0ns }");
    expected.extend(attempt);
    expected.extend([
        "settled verdict=Finish",
        "result written",
        "result synced",
        "completion fits its message",
        "completion published",
        "copies sent",
        "delivery acknowledged",
    ]);
    assert_eq!(texts, expected, "{log}");
    let job = "job{team=\"default\" pool=\"chat\" lane=\"normal\" id=\"a\"";
    assert!(way.iter().all(|(spans, _)| spans.starts_with(job)), "{log}");
    let outcomes: Vec<_> = way
        .iter()
        .filter(|(_, text)| *text == "answer classified")
        .map(|(spans, _)| spans.rsplit_once(":attempt{").expect("in an attempt").1)
        .collect();
    assert_eq!(
        outcomes,
        [
            "account=\"one\" key=\"key-1\" model=\"gpt-4o-mini\" outcome=\"bad_key\"",
            "account=\"one\" key=\"key-2\" model=\"gpt-4o-mini\" outcome=\"succeeded\"",
        ]
    );
}

/// A text that no log may hold.
fn private() -> impl Strategy<Value = String> {
    "[a-z]{0,8} private [a-z\"\\\\\n]{0,12}"
}

/// The body of a chat, or of what is none, full of private texts.
fn body() -> impl Strategy<Value = Value> {
    let content = prop_oneof![
        private().prop_map(Value::from),
        private().prop_map(|text| json!([{ "type": "text", "text": text }])),
        private().prop_map(|text| {
            json!([{ "type": "image_url", "image_url": { "url": format!("https://host/{text}") } }])
        }),
    ];
    let messages = prop::collection::vec(content, 1..4).prop_map(|contents| {
        let message = |content| json!({ "role": "user", "content": content });
        Value::from(contents.into_iter().map(message).collect::<Vec<_>>())
    });
    let extra = prop_oneof![
        Just(json!({})),
        private().prop_map(|text| json!({ "stop": text })),
        private().prop_map(|text| json!({ "user": text })),
        private().prop_map(|text| json!({ "max_tokens": text })),
        private().prop_map(|text| json!({ "temperature": { "a": text } })),
        private().prop_map(|text| json!({ text: 1 })),
        private().prop_map(|text| {
            let function = json!({ "name": "look", "description": text, "parameters": {} });
            json!({ "tools": [{ "type": "function", "function": function }] })
        }),
    ];
    let messages = prop_oneof![9 => messages, 1 => private().prop_map(Value::from)];
    (messages, extra).prop_map(|(messages, mut body)| {
        body["messages"] = messages;
        body
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_holds_a_prompt_a_body_or_a_key() {
    const JOBS: usize = 60;
    let faults = "error=0.05,malformed=0.05,truncated=0.05,reset=0.05,overloaded=0.05,\
        bad_request=0.05,context_too_long=0.05,content_filtered-prompt=0.05,rate_limited=0.05";
    let provider = provider(&["name=one,key=sk-private-one"], faults).await;
    let account = Account::at("one", &provider).keys(&["sk-private-bad", "sk-private-one"]);
    let dir = Forebay::builder()
        .account(account)
        .pool("chat", "gpt-4o-mini", &["one"])
        .write();
    let mut serve = serve(dir.path(), "trace").await;
    let mut runner = TestRunner::default();
    let jobs: Vec<_> = (0..JOBS)
        .map(|id| {
            let body = body().new_tree(&mut runner).expect("a body").current();
            json!({ "id": format!("job-{id}"), "body": body })
        })
        .collect();
    publish(dir.path(), &mut serve, &jobs).await;
    let (_, log) = serve.terminate().await;
    for id in 0..JOBS {
        let way = way_of(&log, &format!("job-{id}"));
        assert!(!way.is_empty(), "job-{id} is followed");
    }
    let told: Vec<_> = log.lines().filter(|line| line.contains(PRIVATE)).collect();
    assert!(told.is_empty(), "{told:#?}\n{jobs:#?}");
}
