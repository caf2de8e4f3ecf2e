//! `forebay publish`: what it takes, what it refuses, and what it says of both.

use std::fs;
use std::path::Path;

use forebay::simulate::Provider;

use crate::program::{Output, Serve, run};
use crate::support::{provider, simple};

const BODY: &str = r#""body":{"messages":[{"role":"user","content":"hello"}]}"#;

async fn configured() -> (tempfile::TempDir, Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("forebay.toml"), simple(dir.path(), &provider)).expect("written");
    (dir, provider)
}

/// Publishes these lines.
async fn publish(dir: &Path, lines: &[String], args: &[&str]) -> Output {
    fs::write(dir.join("jobs.jsonl"), lines.join("\n")).expect("written");
    run(dir, &[&["publish", "jobs.jsonl"], args].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_no_provider_has_is_refused_with_its_line() {
    let (dir, _provider) = configured().await;
    let serve = Serve::start(dir.path()).await;
    let lines = [format!(r#"{{"id":"a",{BODY}}}"#), format!(r#"{{"id":"b","url":"/v1/nonsense",{BODY}}}"#)];
    let output = publish(dir.path(), &lines, &["--pool", "chat"]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    for words in ["line 2", "no provider has `/v1/nonsense`", "/v1/chat/completions", "/v1/embeddings"] {
        assert!(output.stderr.contains(words), "{words} not in {}", output.stderr);
    }
    assert_eq!(output.stdout.trim(), "1 a ai.jobs.chat.default.normal");
    serve.terminate().await;
}
