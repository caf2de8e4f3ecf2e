//! Objects that come to harm, and what is too long for a message in other ways.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::HeaderMap;
use forebay::control::dead_letters::DeadLetterEntry;
use forebay_schemas::header::OBJECT_HEADER;
use forebay_schemas::{Identity, Status};
use forebay_workers::CancelledJobs;
use forebay_workers::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::program;
use crate::support::{
    Forebay, SMALLEST_STREAMS, answer_text, chat, control, eventually, eventually_within,
    nats_server, next_copy, provider, wait_for_calls,
};

/// More than the 8 MiB that the managed server takes of a message.
const LARGE: usize = 9 << 20;
/// One job waits for so long while others are published.
const ONE_AT_A_TIME: &str = "{ concurrent = 1 }, { requests = 1, per = \"2s\" }";
/// An object whose chunks do not come is waited for twice 15 s.
const OBJECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Publishes a job as the command line does, large or not: as an object.
async fn publish_enclosed(forebay: &Forebay, id: &str, job: &Value) {
    let identity = Identity {
        team: "default".to_owned(),
        batch: None,
        id: id.to_owned(),
    };
    let mut headers = HeaderMap::new();
    let message = forebay
        .connection
        .enclose(&identity, job.to_string().into(), &mut headers)
        .await;
    forebay
        .publish_bytes("ai.jobs.chat", message.expect("kept").to_vec(), headers)
        .await;
}

async fn publish_named(forebay: &Forebay, subject: &str, object: &str, id: &str) {
    let mut headers = HeaderMap::new();
    headers.insert(OBJECT_HEADER, object);
    forebay
        .publish_with(subject, &json!({ "id": id }), headers)
        .await;
}

/// A job that no message can hold.
fn large(id: &str, text: &str) -> Value {
    let mut job = chat(id, text);
    job["body"]["pad"] = json!("x".repeat(LARGE));
    job
}

/// A Forebay that calls one job at a time, with some to do.
async fn busy() -> (Forebay, forebay_simulator::Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, ONE_AT_A_TIME).start().await;
    for index in 0..3 {
        forebay
            .publish("ai.jobs.chat", &chat(&format!("before-{index}"), "hello"))
            .await;
    }
    (forebay, provider)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_job_that_is_cancelled_and_published_again_is_called() {
    let (forebay, provider) = busy().await;
    publish_enclosed(&forebay, "again", &large("again", "first")).await;
    let which = CancelledJobs {
        team: "default".to_owned(),
        batch: None,
        id: Some("again".to_owned()),
    };
    let _: Value = control(&forebay, "cancel", &which)
        .await
        .expect("cancelled");
    let inbox = forebay.connection.client.new_inbox();
    let mut copies = forebay
        .connection
        .client
        .subscribe(inbox.clone())
        .await
        .expect("subscribed");
    let mut job = large("again", "first");
    job["reply_to"] = json!(inbox);
    publish_enclosed(&forebay, "again", &job).await;
    let copy = next_copy(&mut copies).await;
    assert_eq!(
        (copy.status, answer_text(&copy).as_str()),
        (Status::Succeeded, "You said: first")
    );
    assert_eq!(provider.calls().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_large_jobs_under_one_identity_conflict_and_neither_is_lost() {
    let (forebay, provider) = busy().await;
    for text in ["first", "second"] {
        publish_enclosed(&forebay, "twice", &large("twice", text)).await;
    }
    assert_eq!(
        answer_text(&forebay.completion("default", None, "twice").await),
        "You said: first"
    );
    forebay.drained().await;
    let letters: Vec<DeadLetterEntry> = control(&forebay, "dead.list", &json!({}))
        .await
        .expect("letters");
    assert_eq!(
        (letters.len(), letters[0].letter.code.as_str()),
        (1, "id_conflict")
    );
    let object = letters[0].object.clone().expect("its object");
    let kept = forebay
        .connection
        .requests()
        .get(&object)
        .await
        .expect("an answer")
        .expect("there");
    assert!(String::from_utf8_lossy(&kept).contains("\"second\""));
    assert_eq!(provider.calls().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_cannot_show_or_drop_another_teams_object() {
    let (forebay, provider) = Forebay::simple().await;
    let mut job = chat("victim", "hello");
    let later = SystemClock
        .now()
        .checked_add(Duration::from_secs(15))
        .expect("soon");
    job["not_before"] = json!(later.to_string());
    let job = job.to_string().into();
    forebay
        .connection
        .requests()
        .put("acme/x", &job)
        .await
        .expect("put");
    publish_named(&forebay, "ai.jobs.chat.acme", "acme/x", "victim").await;
    forebay.scheduled("ai.scheduled.acme._.victim").await;
    publish_named(&forebay, "ai.jobs.chat.evil", "acme/x", "garbage").await;
    assert_eq!(
        forebay
            .completion("evil", None, "garbage")
            .await
            .error
            .expect("an error")
            .code,
        "invalid_object"
    );
    let letters = eventually("a letter", async || {
        let letters: Vec<DeadLetterEntry> = control(&forebay, "dead.list", &json!({}))
            .await
            .expect("letters");
        (!letters.is_empty()).then_some(letters)
    })
    .await;
    assert_eq!(letters[0].object, None);
    let _: Value = control(
        &forebay,
        "dead.drop",
        &json!({ "sequence": letters[0].sequence }),
    )
    .await
    .expect("dropped");
    assert_eq!(
        answer_text(&forebay.completion("acme", None, "victim").await),
        "You said: hello"
    );
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_object_lost_its_chunks_fails() {
    let (forebay, provider) = Forebay::simple().await;
    let job = chat("damaged", "hello").to_string().into();
    forebay
        .connection
        .requests()
        .put("default/damaged", &job)
        .await
        .expect("put");
    let stream = forebay
        .connection
        .context
        .get_stream("OBJ_AI_REQUESTS")
        .await
        .expect("the stream");
    stream
        .purge()
        .filter("$O.AI_REQUESTS.C.>")
        .await
        .expect("purged");
    publish_named(&forebay, "ai.jobs.chat", "default/damaged", "damaged").await;
    let letter = async || (forebay.count("AI_DEAD".to_owned()).await > 0).then_some(());
    eventually_within(OBJECT_TIMEOUT, "a letter", letter).await;
    let error = forebay
        .completion("default", None, "damaged")
        .await
        .error
        .expect("an error");
    assert_eq!(error.code, "object_gone");
    assert_eq!(provider.calls(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_an_incomplete_object_are_swept() {
    let (forebay, _provider) = Forebay::simple().await;
    let requests = forebay.connection.requests();
    let whole = "whole".to_owned().into();
    requests.put("default/whole", &whole).await.expect("put");
    let chunk = forebay
        .connection
        .context
        .publish("$O.AI_REQUESTS.C.left", "half".into())
        .await;
    chunk.expect("sent").await.expect("kept");
    let now = SystemClock.now();
    assert_eq!(
        requests
            .sweep(now.checked_sub(OBJECT_TIMEOUT).expect("earlier"))
            .await
            .expect("an answer"),
        0
    );
    assert_eq!(
        requests
            .sweep(now.checked_add(OBJECT_TIMEOUT).expect("later"))
            .await
            .expect("an answer"),
        1
    );
    assert_eq!(
        requests.get("default/whole").await.expect("an answer"),
        Some(whole)
    );
    // Its one chunk and its description.
    assert_eq!(forebay.count("OBJ_AI_REQUESTS".to_owned()).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_object_is_gone_comes_from_the_store() {
    let (forebay, provider) = Forebay::simple().await;
    let dir = forebay.dir();
    let body = json!({ "messages": [{ "role": "user", "content": "x".repeat(LARGE) }] });
    let line = json!({ "custom_id": "r", "body": body });
    std::fs::write(dir.join("in.jsonl"), line.to_string()).expect("written");
    let run = async || {
        let args = [
            "run",
            "in.jsonl",
            "--output",
            "out.jsonl",
            "--force",
            "--pool",
            "chat",
            "--batch",
            "b",
        ];
        let ran = program::run(dir, &args).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        std::fs::read(dir.join("out.jsonl")).expect("there")
    };
    let first = run().await;
    let stream = forebay
        .connection
        .context
        .get_stream("OBJ_AI_ANSWERS")
        .await
        .expect("the stream");
    stream.purge().await.expect("purged");
    assert!(run().await == first, "the same bytes");
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_any_length_stop_nothing() {
    const JOBS: usize = 70;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let server_dir = tempfile::tempdir().expect("a directory");
    let store = server_dir.path().join("store");
    let config = format!("max_payload: 131072\njetstream {{ store_dir: {store:?} }}\n");
    let (_server, address) = nats_server(server_dir.path(), &config, &[]).await;
    let forebay = Forebay::calling(&provider).nats(&address).start().await;
    let connects = || {
        forebay
            .connection
            .client
            .statistics()
            .connects
            .load(Ordering::Relaxed)
    };
    let before = connects();
    for index in 0..JOBS {
        // Each quote is two bytes where it is quoted.
        let job =
            json!({ "id": format!("quotes-{index}"), "body": {}, "metadata": "\"".repeat(50_000) });
        forebay.publish("ai.jobs.chat", &job).await;
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", "x".repeat(60_000).as_str());
        let mut job = chat(&format!("trace-{index}"), "hello");
        job["metadata"] = json!({ "m": "m".repeat(60_000) });
        forebay.publish_with("ai.jobs.chat", &job, headers).await;
    }
    publish_named(
        &forebay,
        "ai.jobs.chat",
        &format!("default/{}", "x".repeat(4_000)),
        "long",
    )
    .await;
    assert_eq!(
        forebay
            .completion("default", None, "long")
            .await
            .error
            .expect("an error")
            .code,
        "invalid_object"
    );
    forebay
        .publish("ai.jobs.chat.acme", &chat("after", "hello"))
        .await;
    assert_eq!(
        answer_text(&forebay.completion("acme", None, "after").await),
        "You said: hello"
    );
    wait_for_calls(&provider, JOBS + 1).await;
    forebay.drained().await;
    assert_eq!(
        forebay.count("AI_COMPLETIONS".to_owned()).await,
        2 * JOBS as u64 + 2
    );
    assert_eq!(connects(), before, "no message broke the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_larger_than_the_object_stores_flows_through_them() {
    const LINES: usize = 40;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let server_dir = tempfile::tempdir().expect("a directory");
    let store = server_dir.path().join("store");
    let config = format!("jetstream {{ store_dir: {store:?}, max_file_store: 80MB }}\n");
    let (_server, address) = nats_server(server_dir.path(), &config, &[]).await;
    let forebay = Forebay::limited(&provider, "{ requests = 10, per = \"1s\" }")
        .nats(&address)
        .config(SMALLEST_STREAMS)
        .start()
        .await;
    let dir = forebay.dir();
    // Twice the server's max_payload, and all of them more than twice what both stores hold.
    let line = |index: usize| {
        let text = format!("{index} {}", "x".repeat(2 << 20));
        json!({ "custom_id": index.to_string(), "body": chat("", &text)["body"] }).to_string()
    };
    std::fs::write(
        dir.join("in.jsonl"),
        (0..LINES).map(line).collect::<Vec<_>>().join("\n"),
    )
    .expect("written");
    let args = [
        "run",
        "in.jsonl",
        "--output",
        "out.jsonl",
        "--pool",
        "chat",
        "--batch",
        "b",
    ];
    let ran = tokio::time::timeout(OBJECT_TIMEOUT, program::command(dir, &args).output()).await;
    let ran = ran.expect("it ends").expect("it runs");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let output = std::fs::read_to_string(dir.join("out.jsonl")).expect("there");
    for (index, line) in output.lines().enumerate() {
        assert!(
            line.contains(&format!("You said: {index} xxx")),
            "line {index}"
        );
    }
    assert_eq!(
        (output.lines().count(), provider.calls().len()),
        (LINES, LINES)
    );
}
