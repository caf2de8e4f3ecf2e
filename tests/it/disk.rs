//! A disk that is full, and is not any more.

use std::process::Stdio;
use std::time::Duration;

use forebay::nats::server::NatsServer;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::program;
use crate::support::{Forebay, eventually, install_crypto, provider, soon};

const JOBS: usize = 300;
/// Calls at once.
const AT_ONCE: usize = 4;
/// The most that a file may have, as on a full disk: not all results fit, but the first ones do.
const FULL: u64 = 6 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_no_call_is_made_and_work_resumes_without_a_restart() {
    install_crypto();
    let server_dir = tempfile::tempdir().expect("a directory");
    let listen = "127.0.0.1:0".parse().expect("an address");
    let server = NatsServer::start(server_dir.path(), listen, Duration::from_millis(100))
        .await
        .expect("it starts");
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::limited(&provider, &format!("{{ concurrent = {AT_ONCE} }}"))
        .nats(server.url())
        .write();
    let text = "x".repeat(60_000);
    let line = |index: usize| {
        json!({ "id": format!("r-{index}"), "body": { "messages": [{ "role": "user", "content": text }] } })
            .to_string()
    };
    let lines: Vec<_> = (0..JOBS).map(line).collect();
    std::fs::write(dir.path().join("jobs.jsonl"), lines.join("\n")).expect("written");

    // A write beyond the limit must be an error, not the end of the process.
    let mut serve = Command::new("sh");
    serve.args([
        "-c",
        "trap '' XFSZ; exec \"$0\" serve",
        env!("CARGO_BIN_EXE_forebay"),
    ]);
    serve
        .current_dir(dir.path())
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut serve = serve.spawn().expect("it starts");
    let mut log = BufReader::new(serve.stderr.take().expect("piped")).lines();
    let mut until = async |words: &str| {
        while let Some(line) = soon(words, log.next_line()).await.expect("stderr") {
            if line.contains(words) {
                return;
            }
        }
        panic!("it ended without `{words}`");
    };
    until("ready:").await;
    let pid = i32::try_from(serve.id().expect("it runs"))
        .ok()
        .and_then(Pid::from_raw);
    let limit = |current| {
        prlimit(
            pid,
            Resource::Fsize,
            Rlimit {
                current,
                maximum: None,
            },
        )
        .expect("limited");
    };
    limit(Some(FULL));
    let published = program::run(dir.path(), &["publish", "jobs.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    until("no call is made until it can be").await;
    // Whatever was under way ends, and nothing more is called.
    until("storing a result failed, trying again in 400ms").await;
    let calls = provider.calls().len();
    until("storing a result failed, trying again in 1.6s").await;
    assert!(calls < JOBS - AT_ONCE, "{calls}");
    assert!(
        provider.calls().len() <= calls + AT_ONCE,
        "those that were under way alone"
    );
    limit(None);
    let drained = drained(dir.path()).await;
    assert_eq!(drained["ended"][0], json!(["succeeded", JOBS]), "{drained}");
    assert_eq!(provider.calls().len(), JOBS, "no call was lost");
    for index in [0, JOBS / 2, JOBS - 1] {
        let got = program::run(dir.path(), &["results", "get", &format!("r-{index}")]).await;
        assert_eq!(got.code, Some(0), "{got:?}");
    }
    serve.kill().await.expect("killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_waits_for_room() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::calling(&provider).write();
    // The shell gives the limit to the process that it becomes.
    let limited = "trap '' XFSZ; ulimit -S -f 0; exec \"$0\" serve";
    let program = env!("CARGO_BIN_EXE_forebay");
    let mut shell = Command::new("sh");
    shell.args(["-c", limited, program]);
    shell.current_dir(dir.path()).env_remove("RUST_LOG");
    shell.stderr(Stdio::piped()).kill_on_drop(true);
    let mut serve = program::Serve::of(&mut shell);
    serve.wait_for("is full").await;
    let pid = i32::try_from(serve.pid()).ok().and_then(Pid::from_raw);
    let limit = Rlimit {
        current: None,
        maximum: None,
    };
    prlimit(pid, Resource::Fsize, limit).expect("lifted");
    serve.wait_for("ready:").await;
    let (status, log) = serve.terminate().await;
    assert!(status.success(), "{log}");
}

/// What `forebay queues` tells once no job waits, nor is on its way.
async fn drained(dir: &std::path::Path) -> serde_json::Value {
    eventually("the end of all jobs", async || {
        let told = program::run(dir, &["queues", "--json"]).await.stdout;
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        (told["queues"] == json!([]) && told["in_flight"] == 0).then_some(told)
    })
    .await
}
