//! Dead letters, with the command line.

use forebay_schemas::Status;
use forebay_simulator::fault::FaultPlan;
use serde_json::{Value, json};

use crate::program::{self, Output, Serve};
use crate::support::{Forebay, answer_text, chat, control, eventually, provider};

/// A configuration with pools `chat` and `other`.
async fn configured() -> (tempfile::TempDir, forebay_simulator::Provider) {
    let provider = provider(&["name=one,key=sk-one"], "error=1").await;
    let dir = Forebay::calling(&provider)
        .pool("other", "gpt-4o", &["one"])
        .config("[call]\nattempts = 2\npatience = { normal = \"1ms\" }\n")
        .write();
    (dir, provider)
}

async fn dead(dir: &std::path::Path, args: &[&str]) -> Output {
    program::run(dir, &[&["dead"], args].concat()).await
}

/// All letters, once there are so many.
async fn letters(dir: &std::path::Path, count: usize) -> Vec<Value> {
    eventually("dead letters", async || {
        let listed = dead(dir, &["list", "--json"]).await;
        let letters: Vec<Value> = serde_json::from_str(&listed.stdout).expect("JSON");
        (letters.len() >= count).then_some(letters)
    })
    .await
}

async fn result(dir: &std::path::Path, id: &str) -> Value {
    let got = program::run(dir, &["results", "get", id]).await;
    assert_eq!(got.code, Some(0), "{got:?}");
    serde_json::from_str(&got.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_listed_shown_replayed_to_another_pool_and_dropped() {
    let (dir, provider) = configured().await;
    let dir = dir.path();
    let serve = Serve::start(dir).await;
    for (index, id) in (1..).zip(["tried", "dropped"]) {
        std::fs::write(dir.join("jobs.jsonl"), chat(id, "hello").to_string()).expect("written");
        let published = program::run(dir, &["publish", "jobs.jsonl", "--pool", "chat"]).await;
        assert_eq!(published.code, Some(0), "{published:?}");
        letters(dir, index).await;
    }
    let listed = letters(dir, 2).await;
    let number = |id: &str| {
        let letter = listed
            .iter()
            .find(|letter| letter["id"] == id)
            .expect("listed");
        letter["sequence"].to_string()
    };
    let shown = dead(dir, &["show", &number("tried")]).await;
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(
        shown["message"],
        chat("tried", "hello"),
        "the message as it came"
    );
    assert_eq!(
        shown["attempts"].as_array().map(Vec::len),
        Some(2),
        "{shown}"
    );
    assert_eq!(
        (&shown["attempts"][1]["outcome"], &shown["pool"]),
        (&json!("server_error"), &json!("chat"))
    );
    let table = dead(dir, &["list", "--pool", "chat"]).await.stdout;
    assert!(
        table.contains("tried") && table.contains("server_error"),
        "{table}"
    );
    assert_eq!(
        dead(dir, &["list", "--pool", "other", "--json"])
            .await
            .stdout
            .trim(),
        "[]"
    );

    provider.fail(FaultPlan::default());
    let wrong = dead(dir, &["replay", &number("tried"), "--to", "none"]).await;
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("there is no pool `none`"),
        "{wrong:?}"
    );
    let replayed = dead(dir, &["replay", &number("tried"), "--to", "other"]).await;
    assert_eq!(
        (replayed.code, replayed.stdout.trim()),
        (Some(0), "1 replayed"),
        "{replayed:?}"
    );
    let result = eventually("the next revision", async || {
        let result = result(dir, "tried").await;
        (result["revision"] == 2).then_some(result)
    })
    .await;
    assert_eq!(
        (&result["status"], &result["pool"]),
        (&json!("succeeded"), &json!("other"))
    );
    assert_eq!(
        result["attempts"].as_array().map(Vec::len),
        Some(1),
        "its own"
    );

    let again = dead(dir, &["replay", &number("tried")]).await;
    assert_eq!(again.code, Some(1));
    assert!(
        again.stderr.contains("there is no dead letter"),
        "it went with its replay: {again:?}"
    );
    let dropped = dead(dir, &["drop", "--all"]).await;
    assert_eq!(
        (dropped.code, dropped.stdout.trim()),
        (Some(0), "1 dropped")
    );
    assert_eq!(dead(dir, &["list", "--json"]).await.stdout.trim(), "[]");
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_cannot_be_replayed_says_why_and_stays() {
    let (forebay, _provider) = Forebay::simple().await;
    forebay
        .publish_bytes("ai.jobs.chat", b"no job".to_vec(), Default::default())
        .await;
    forebay.publish("ai.jobs.chat", &chat("one", "hello")).await;
    assert_eq!(
        answer_text(&forebay.completion("default", None, "one").await),
        "You said: hello"
    );
    forebay
        .publish("ai.jobs.chat", &chat("one", "something else"))
        .await;
    forebay.drained().await;
    let letters: Vec<Value> = control(&forebay, "dead.list", &json!({}))
        .await
        .expect("letters");
    assert_eq!(letters.len(), 2);
    for letter in letters {
        let replay: Result<Value, _> = control(
            &forebay,
            "dead.replay",
            &json!({ "sequence": letter["sequence"] }),
        )
        .await;
        let expected = match letter["code"].as_str() {
            Some("id_conflict") => "its id is that of another request",
            _ => "it is not a job",
        };
        assert!(
            replay.as_ref().is_err_and(|error| error.contains(expected)),
            "{replay:?}"
        );
    }
    assert_eq!(forebay.count("AI_DEAD".to_owned()).await, 2);
    let first = forebay.completion("default", None, "one").await;
    assert_eq!((first.revision, first.status), (1, Status::Succeeded));
}
