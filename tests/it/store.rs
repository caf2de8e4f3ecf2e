//! The data directory: damaged, lost, copied, and of an earlier version.

use std::path::{Path, PathBuf};
use std::process::Command;

use forebay_simulator::Provider;
use serde_json::{Value, json};

use crate::program::{self, Serve};
use crate::support::{Forebay, chat, provider, until};

/// A directory whose configuration has its data in `data`, and keeps it for long.
async fn configured() -> (tempfile::TempDir, Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = tempfile::tempdir().expect("a directory");
    (configure(dir, &provider), provider)
}

fn configure(dir: tempfile::TempDir, provider: &Provider) -> tempfile::TempDir {
    Forebay::calling(provider)
        .in_dir(dir)
        // What a fixture holds counts however old it is.
        .config("[data]\nkeep_days = 10000\ndedupe_days = 9000\n")
        .config("[streams]\ncompletions_max_age = \"10000d\"\n")
        .write()
}

/// Runs a batch of one job; returns its answer.
async fn answer(dir: &Path, id: &str) -> Value {
    let line = json!({ "custom_id": id, "body": chat(id, &format!("I am {id}"))["body"] });
    std::fs::write(dir.join("in.jsonl"), line.to_string()).expect("written");
    let args = [
        "run",
        "in.jsonl",
        "--output",
        "out.jsonl",
        "--force",
        "--pool",
        "chat",
        "--batch",
    ];
    let ran = program::run(dir, &[&args[..], &[id]].concat()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&std::fs::read_to_string(dir.join("out.jsonl")).expect("there"))
        .expect("JSON")
}

/// Asks as somebody who does not look at what is answered first.
async fn publish_again(dir: &Path, id: &str) {
    let job = json!({ "id": id, "batch": id, "body": chat(id, &format!("I am {id}"))["body"] });
    std::fs::write(dir.join("jobs.jsonl"), job.to_string()).expect("written");
    let published = program::run(dir, &["publish", "jobs.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    until("an empty stream", async || {
        let told = program::run(dir, &["queues", "--json"]).await.stdout;
        told.contains("\"queues\":[]")
    })
    .await;
}

async fn result(dir: &Path, id: &str) -> String {
    let got = program::run(dir, &["results", "get", id, "--batch", id]).await;
    assert_eq!(got.code, Some(0), "{got:?}");
    got.stdout
}

/// Databases of results.
fn databases(dir: &Path) -> Vec<PathBuf> {
    let days = std::fs::read_dir(dir.join("data/results"))
        .expect("results")
        .flatten();
    days.map(|day| day.path().join("db"))
        .filter(|db| db.exists())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_lost_store_is_told_stops_nothing_and_costs_no_call() {
    for damage in [
        (|dir: &Path| {
            databases(dir)
                .iter()
                .for_each(|db| std::fs::write(db, [0xAB; 4_096]).expect("written"))
        }) as fn(&Path),
        |dir| std::fs::remove_dir_all(dir.join("data/results")).expect("removed"),
    ] {
        let (dir, provider) = configured().await;
        let dir = dir.path();
        let before = answer(dir, "before").await;
        damage(dir);
        let mut serve = Serve::spawn(dir);
        serve
            .wait_for("answers are missing from the store of results")
            .await;
        serve.wait_for("ready:").await;
        publish_again(dir, "before").await;
        assert_eq!(provider.calls().len(), 1, "it was answered from the stream");
        assert!(
            result(dir, "before").await.contains("I am before"),
            "and is stored again"
        );
        assert_eq!(answer(dir, "before").await, before);
        answer(dir, "after").await;
        assert_eq!(provider.calls().len(), 2);
        let (status, log) = serve.terminate().await;
        assert!(status.success(), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_data_directory_is_reported() {
    let (dir, _provider) = configured().await;
    std::fs::create_dir(dir.path().join("data")).expect("made");
    std::fs::write(dir.path().join("data/results"), "a file").expect("written");
    let serve = program::run(dir.path(), &["serve"]).await;
    assert_eq!(serve.code, Some(2), "{serve:?}");
    assert!(
        serve.stderr.contains("store of results in") && serve.stderr.contains("results"),
        "{serve:?}"
    );
    std::fs::remove_file(dir.path().join("data/results")).expect("removed");
    std::fs::write(dir.path().join("data/format"), "999").expect("written");
    let serve = program::run(dir.path(), &["serve"]).await;
    assert_eq!(serve.code, Some(2), "{serve:?}");
    assert!(
        serve.stderr.contains("format 999") && serve.stderr.contains("newer"),
        "{serve:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_data_directory_goes_on_where_the_first_one_stopped() {
    let (dir, provider) = configured().await;
    let dir = dir.path();
    let serve = Serve::start(dir).await;
    answer(dir, "answered").await;
    let paused = program::run(dir, &["pause", "pool", "chat"]).await;
    assert_eq!(paused.code, Some(0), "{paused:?}");
    std::fs::write(dir.join("jobs.jsonl"), chat("waits", "hello").to_string()).expect("written");
    let published = program::run(dir, &["publish", "jobs.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    assert!(serve.terminate().await.0.success());

    let other = tempfile::tempdir().expect("a directory");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(dir.join("data"))
        .arg(other.path())
        .status();
    assert!(copied.expect("it runs").success());
    std::fs::remove_dir_all(dir.join("data")).expect("removed");
    let other = configure(other, &provider);
    let dir = other.path();
    let serve = Serve::start(dir).await;
    assert!(result(dir, "answered").await.contains("I am answered"));
    let queues = program::run(dir, &["queues", "--json"]).await.stdout;
    assert!(
        queues.contains("\"paused\":[{\"kind\":\"pool\",\"name\":\"chat\"}]"),
        "{queues}"
    );
    let resumed = program::run(dir, &["resume", "pool", "chat"]).await;
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    publish_again(dir, "answered").await;
    assert_eq!(
        provider.calls().len(),
        2,
        "the one that waited was called, the other was not again"
    );
    assert!(serve.terminate().await.0.success());
}

/// The data directory of Forebay 0.1, as format 1 began, without its credentials: a job is answered, another waits, the
/// pool `chat` is paused, and the keys of the account are disabled.
const FORMAT_1: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/fixtures/data-format-1.tar.gz"
);

#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_of_an_earlier_version_is_read() {
    let (dir, provider) = configured().await;
    let dir = dir.path();
    let unpacked = Command::new("tar")
        .args(["-xzf", FORMAT_1])
        .current_dir(dir)
        .status();
    assert!(unpacked.expect("it runs").success());
    let looked_at = result(dir, "answered").await;
    let format = || std::fs::read_to_string(dir.join("data/format")).expect("the format");
    assert_eq!(format(), "1", "whoever only looks changes nothing");
    let serve = Serve::start(dir).await;
    assert_eq!(format(), "2");
    assert!(result(dir, "answered").await.contains("I am answered"));
    assert!(
        looked_at.contains("\"revision\":1") && looked_at.contains("\"duration_ms\""),
        "{looked_at}"
    );
    let keys = program::run(dir, &["accounts", "--json"]).await.stdout;
    assert!(keys.contains("\"disabled\""), "{keys}");
    for args in [
        ["accounts", "enable", "one"].as_slice(),
        &["resume", "pool", "chat"],
    ] {
        let done = program::run(dir, args).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    publish_again(dir, "answered").await;
    assert_eq!(provider.calls().len(), 1, "the one that waited");
    let (status, log) = serve.terminate().await;
    assert!(
        status.success() && !log.contains("answers are missing"),
        "{log}"
    );
}
