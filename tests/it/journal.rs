//! Calls of which nobody knows what became, and jobs that end the process.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use forebay_simulator::Provider;
use forebay_simulator::fault::FaultPlan;
use forebay_workers::crash::OVER;
use forebay_workers::queue::jetstream::ACK_WAIT;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::program::{self, Serve, command};
use crate::support::{Forebay, chat, eventually_within, provider, wait_for_calls};

/// What a dead process held is delivered again after 30 s.
const REDELIVERY_TIMEOUT: Duration = Duration::from_secs(100);

async fn configured(faults: &str) -> (tempfile::TempDir, Provider) {
    let provider = provider(&["name=one,key=sk-one"], faults).await;
    let dir = Forebay::calling(&provider)
        .config("[call]\ntimeout = \"50s\"\n")
        .write();
    (dir, provider)
}

async fn publish(dir: &Path, jobs: &[Value]) {
    let lines: Vec<_> = jobs.iter().map(Value::to_string).collect();
    std::fs::write(dir.join("jobs.jsonl"), lines.join("\n")).expect("written");
    let published = program::run(dir, &["publish", "jobs.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
}

async fn result(dir: &Path, id: &str) -> Value {
    let what = format!("the result of {id}");
    eventually_within(REDELIVERY_TIMEOUT, &what, async || {
        let got = program::run(dir, &["results", "get", id]).await;
        (got.code == Some(0)).then(|| serde_json::from_str(&got.stdout).expect("JSON"))
    })
    .await
}

fn outcomes(result: &Value) -> Vec<&str> {
    let attempts = result["attempts"].as_array().expect("attempts");
    attempts
        .iter()
        .map(|attempt| attempt["outcome"].as_str().expect("an outcome"))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_process_did_not_outlive_is_made_again_or_not_as_the_job_says() {
    let (dir, provider) = configured("hang=1").await;
    let dir = dir.path();
    let serve = Serve::start(dir).await;
    let mut once = chat("once", "hello");
    once["on_ambiguous"] = json!("fail");
    publish(dir, &[chat("again", "hello"), once]).await;
    wait_for_calls(&provider, 2).await;
    serve.kill().await;
    provider.fail(FaultPlan::default());
    let serve = Serve::start(dir).await;
    let again = result(dir, "again").await;
    assert_eq!(
        (&again["status"], outcomes(&again)),
        (&json!("succeeded"), vec!["net_after_send", "succeeded"])
    );
    let once = result(dir, "once").await;
    assert_eq!(
        (&once["status"], outcomes(&once)),
        (&json!("failed"), vec!["net_after_send"])
    );
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
        let mut child = child
            .env(OVER, "calling:ends the process")
            .spawn()
            .expect("it starts");
        let ended = eventually_within(REDELIVERY_TIMEOUT, "the end of it", async || {
            program::run(dir, &["resume", "pool", "chat"]).await;
            child.try_wait().expect("a child")
        });
        assert_eq!(ended.await.signal(), Some(6));
    }
    let serve = Serve::start(dir).await;
    program::run(dir, &["resume", "pool", "chat"]).await;
    let poison = result(dir, "poison").await;
    assert_eq!(
        (&poison["status"], &poison["error"]["code"]),
        (&json!("failed"), &json!("killed_worker"))
    );
    for id in ["good-1", "good-2"] {
        assert_eq!(result(dir, id).await["status"], "succeeded");
    }
    let calls = provider.calls().len();
    assert!((2..=4).contains(&calls), "the neighbours' alone: {calls}");
    let listed = program::run(dir, &["dead", "list"]).await.stdout;
    assert!(listed.contains("killed_worker"), "{listed}");
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_for_longer_than_a_delivery_is_waited_for_joins_what_comes_again()
 {
    let (dir, provider) = configured("").await;
    let dir = dir.path();
    let serve = Serve::start(dir).await;
    provider.fail("hang=1".parse().expect("faults"));
    publish(dir, &[chat("slow", "hello")]).await;
    wait_for_calls(&provider, 1).await;
    let pid = i32::try_from(serve.pid())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process");
    kill_process(pid, Signal::STOP).expect("stopped");
    // The ack wait that passes is what is tested: the server delivers again when this process is continued.
    tokio::time::sleep(ACK_WAIT + Duration::from_secs(2)).await;
    provider.fail(FaultPlan::default());
    kill_process(pid, Signal::CONT).expect("continued");
    // What was delivered again waits for the call that is under way; that one is given up after its time.
    publish(dir, &[chat("quick", "hello")]).await;
    assert_eq!(result(dir, "quick").await["status"], "succeeded");
    let slow = result(dir, "slow").await;
    assert_eq!(
        (&slow["status"], outcomes(&slow)),
        (&json!("succeeded"), vec!["net_after_send", "succeeded"])
    );
    assert_eq!(
        provider.calls().len(),
        3,
        "no call beside the one under way"
    );
    let (status, _) = serve.terminate().await;
    assert!(status.success());
}
