//! Calls of which nobody knows what became, and jobs that end the process.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use forebay::simulate::Provider;
use forebay::simulate::fault::Faults;
use forebay_workers::crash::OVER;
use serde_json::{Value, json};

use crate::program::{self, Serve, command};
use crate::support::{UNLIMITED, called, chat, head, pool, provider, quota};

/// What a dead process held is delivered again after 30 s.
const PATIENCE: Duration = Duration::from_secs(100);

async fn configured(faults: &str) -> (tempfile::TempDir, Provider) {
    let provider = provider(&["name=one,key=sk-one"], faults).await;
    let dir = tempfile::tempdir().expect("a directory");
    let text = [
        head(dir.path()),
        quota(dir.path(), "one", &provider.base_url(), &["sk-one"], UNLIMITED),
        pool("chat", "gpt-4o-mini", &["one"]),
    ];
    std::fs::write(dir.path().join("forebay.toml"), text.concat()).expect("written");
    (dir, provider)
}

async fn publish(dir: &Path, jobs: &[Value]) {
    let lines: Vec<_> = jobs.iter().map(Value::to_string).collect();
    std::fs::write(dir.join("jobs.jsonl"), lines.join("\n")).expect("written");
    let published = program::run(dir, &["publish", "jobs.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
}

async fn result(dir: &Path, id: &str) -> Value {
    let got = tokio::time::timeout(PATIENCE, async {
        loop {
            let got = program::run(dir, &["results", "get", id]).await;
            if got.code == Some(0) {
                return serde_json::from_str(&got.stdout).expect("JSON");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    got.await.unwrap_or_else(|_| panic!("no result of {id}"))
}

fn outcomes(result: &Value) -> Vec<&str> {
    let attempts = result["attempts"].as_array().expect("attempts");
    attempts.iter().map(|attempt| attempt["outcome"].as_str().expect("an outcome")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_process_did_not_outlive_is_made_again_or_not_as_the_job_says() {
    let (dir, provider) = configured("hang=1").await;
    let dir = dir.path();
    let serve = Serve::start(dir).await;
    let mut once = chat("once", "hello");
    once["on_ambiguous"] = json!("fail");
    publish(dir, &[chat("again", "hello"), once]).await;
    called(&provider, 2).await;
    serve.kill().await;
    provider.fail(Faults::default());
    let serve = Serve::start(dir).await;
    let again = result(dir, "again").await;
    assert_eq!(
        (&again["status"], outcomes(&again)),
        (&json!("succeeded"), vec!["net_after_send", "succeeded"])
    );
    let once = result(dir, "once").await;
    assert_eq!((&once["status"], outcomes(&once)), (&json!("failed"), vec!["net_after_send"]));
    assert_eq!(once["error"]["code"], "interrupted");
    assert_eq!(provider.calls().len(), 3);
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_the_process_twice_is_set_aside_and_its_neighbours_are_answered() {
    let (dir, provider) = configured("").await;
    let dir = dir.path();
    let serve = Serve::start(dir).await;
    // While no call is made, so that the run that meets it is one that it ends.
    let paused = program::run(dir, &["pause", "pool", "chat"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    let mut jobs = vec![chat("good-1", "hello"), chat("poison", "ends the process")];
    jobs.push(chat("good-2", "hello"));
    publish(dir, &jobs).await;
    serve.terminate().await;
    for _ in 0..2 {
        let mut child = command(dir, &["serve"]);
        let mut child = child.env(OVER, "calling:ends the process").spawn().expect("it starts");
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                program::run(dir, &["resume", "pool", "chat"]).await;
                if let Some(status) = child.try_wait().expect("a child") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        assert_eq!(ended.await.expect("it ends").signal(), Some(6));
    }
    let serve = Serve::start(dir).await;
    program::run(dir, &["resume", "pool", "chat"]).await;
    let poison = result(dir, "poison").await;
    assert_eq!((&poison["status"], &poison["error"]["code"]), (&json!("failed"), &json!("killed_worker")));
    for id in ["good-1", "good-2"] {
        assert_eq!(result(dir, id).await["status"], "succeeded");
    }
    let calls = provider.calls().len();
    assert!((2..=4).contains(&calls), "the neighbours' alone: {calls}");
    let listed = program::run(dir, &["dead", "list"]).await.stdout;
    assert!(listed.contains("killed_worker"), "{listed}");
    serve.terminate().await;
}
