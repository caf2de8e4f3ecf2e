//! `forebay publish`: what it takes, what it refuses, what it says of both; and `forebay results get` of what it took.

use std::fs;
use std::path::Path;

use forebay_simulator::Provider;
use serde_json::Value;

use crate::program::{Output, Serve, run};
use crate::support::{Forebay, nats_server, provider, until};

const BODY: &str = r#""body":{"messages":[{"role":"user","content":"hello"}]}"#;

async fn configured() -> (tempfile::TempDir, Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    (Forebay::calling(&provider).write(), provider)
}

/// Publishes these lines.
async fn publish(dir: &Path, lines: &[String], args: &[&str]) -> Output {
    fs::write(dir.join("jobs.jsonl"), lines.join("\n")).expect("written");
    run(dir, &[&["publish", "jobs.jsonl"], args].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_url_is_refused_with_its_line_number() {
    let (dir, _provider) = configured().await;
    let serve = Serve::start(dir.path()).await;
    let lines = [
        format!(r#"{{"id":"a",{BODY}}}"#),
        format!(r#"{{"id":"b","url":"/v1/nonsense",{BODY}}}"#),
    ];
    let output = publish(dir.path(), &lines, &["--pool", "chat"]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    for words in [
        "line 2",
        "no provider has `/v1/nonsense`",
        "/v1/chat/completions",
        "/v1/embeddings",
    ] {
        assert!(
            output.stderr.contains(words),
            "{words} not in {}",
            output.stderr
        );
    }
    assert_eq!(output.stdout.trim(), "1 a ai.jobs.chat.default.normal");
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_pool_is_refused_and_the_known_ones_are_listed() {
    let (dir, _provider) = configured().await;
    let serve = Serve::start(dir.path()).await;
    let output = publish(dir.path(), &[format!("{{{BODY}}}")], &["--pool", "nopool"]).await;
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (Some(2), ""),
        "{output:?}"
    );
    assert!(
        output
            .stderr
            .contains("there is no pool `nopool`; known pools: chat"),
        "{output:?}"
    );
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_an_id_is_found_by_its_printed_id() {
    let (dir, _provider) = configured().await;
    let serve = Serve::start(dir.path()).await;
    let output = publish(dir.path(), &[format!("{{{BODY}}}")], &["--pool", "chat"]).await;
    assert_eq!(output.stderr, "", "{output:?}");
    let id = output.stdout.split(' ').nth(1).expect("an id").to_owned();
    let json = publish(
        dir.path(),
        &[format!("{{{BODY}}}")],
        &["--pool", "chat", "--json"],
    )
    .await;
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    for id in [&id, json["id"].as_str().expect("an id")] {
        until("its result", async || {
            run(dir.path(), &["results", "get", id]).await.code == Some(0)
        })
        .await;
    }
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_published_without_a_worker_and_publish_says_so() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let server_dir = tempfile::tempdir().expect("a directory");
    let store = server_dir.path().join("store");
    let store = format!("jetstream {{ store_dir: {store:?} }}\n");
    let (_server, address) = nats_server(server_dir.path(), &store, &[]).await;
    let dir = Forebay::calling(&provider).nats(&address).write();
    let lines = [format!(r#"{{"id":"early",{BODY}}}"#)];
    let none = publish(dir.path(), &lines, &["--pool", "chat"]).await;
    assert_eq!(none.code, Some(3), "{none:?}");
    assert!(
        none.stderr
            .contains("no stream takes ai.jobs.chat.default.normal: `forebay serve` makes it")
    );
    // The worker that made the streams is gone.
    Serve::start(dir.path()).await.terminate().await;
    let output = publish(dir.path(), &lines, &["--pool", "chat"]).await;
    assert_eq!(
        (output.code, output.stdout.trim()),
        (Some(0), "1 early ai.jobs.chat.default.normal")
    );
    assert!(
        output
            .stderr
            .contains("no worker answers, so it is not checked"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_result_is_told_apart_from_a_pending_one() {
    let (dir, _provider) = configured().await;
    let dir = dir.path();
    let missing = run(dir, &["results", "get", "never"]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    let data = dir.join("data").display().to_string();
    assert!(
        missing
            .stderr
            .contains(&format!("there is no data directory {data}")),
        "{missing:?}"
    );

    let serve = Serve::start(dir).await;
    let paused = run(dir, &["pause", "team", "slow"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    publish(
        dir,
        &[format!(r#"{{"id":"waits",{BODY}}}"#)],
        &["--pool", "chat", "--team", "slow"],
    )
    .await;
    let lines = [
        format!(r#"{{"id":"of-none",{BODY}}}"#),
        format!(r#"{{"id":"of-a-batch","batch":"nightly",{BODY}}}"#),
        format!(r#"{{"id":"later","not_before":"2100-01-01T00:00:00Z",{BODY}}}"#),
    ];
    let published = publish(dir, &lines, &["--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    // What becomes of a job is told as soon as it is so.
    for (args, words) in [
        (&["of-none"][..], ""),
        (&["of-a-batch", "--batch", "nightly"], ""),
        (
            &["waits", "--team", "slow"],
            "it waits for its call, or is being called",
        ),
        (&["later"], "it waits for its time"),
        (
            &["of-a-batch"],
            "batch nightly has a job of this id: say --batch nightly",
        ),
        (
            &["of-none", "--batch", "nightly"],
            "a job of this id is of no batch: leave --batch out",
        ),
        (
            &["never"],
            "it is not answered yet, or was never published; a job of a batch needs --batch",
        ),
    ] {
        let code = if words.is_empty() { 0 } else { 1 };
        until(&format!("{args:?}: {words}"), async || {
            let got = run(dir, &[&["results", "get"], args].concat()).await;
            got.code == Some(code) && got.stderr.contains(words)
        })
        .await;
    }
    serve.terminate().await;
    let stopped = run(dir, &["results", "get", "never"]).await;
    assert!(
        stopped.stderr.contains("needs --batch; no worker runs"),
        "{stopped:?}"
    );
}
