//! Jobs and answers that no message can hold, and answers without an end.

use std::path::Path;

use async_nats::HeaderMap;
use async_nats::jetstream::object_store::ObjectStore;
use forebay::control::messages::ResultsRequest;
use forebay_schemas::completion::OutputLine;
use forebay_schemas::header::{OBJECT_HEADER, REPLY_TO_HEADER};
use forebay_schemas::{Completion, Status};
use forebay_workers::clock::{Clock, SystemClock};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};

use crate::program::{self, Serve};
use crate::support::{
    Account, Forebay, answer_text, chat, eventually, provider, soon, until, wait_for_calls,
};

/// More than the 8 MiB that the managed server takes of a message.
const LARGE: usize = 9 << 20;
/// More than a dead letter holds itself.
const HALF_LARGE: usize = 2 << 20;
/// The largest answer that is taken where answers have no end.
const MAX_ANSWER_MIB: usize = 16;

async fn bucket(forebay: &Forebay, name: &str) -> ObjectStore {
    forebay
        .connection
        .context
        .get_object_store(name)
        .await
        .expect("the bucket")
}

/// The names of a bucket's objects.
async fn objects(bucket: &ObjectStore) -> Vec<String> {
    let list = bucket
        .list()
        .await
        .expect("a list")
        .map_ok(|object| object.name);
    list.try_collect().await.expect("objects")
}

/// Publishes a job as other programs do: the object first, then a message that names it.
async fn publish_object(
    forebay: &Forebay,
    subject: &str,
    object: &str,
    job: &Value,
    message: &Value,
) {
    let job = job.to_string();
    bucket(forebay, "AI_REQUESTS")
        .await
        .put(object, &mut job.as_bytes())
        .await
        .expect("put");
    publish_name(forebay, subject, object, message).await;
}

async fn publish_name(forebay: &Forebay, subject: &str, object: &str, message: &Value) {
    let mut headers = HeaderMap::new();
    headers.insert(OBJECT_HEADER, object);
    forebay.publish_with(subject, message, headers).await;
}

/// The whole completion of a message.
async fn whole_completion(
    forebay: &Forebay,
    payload: &[u8],
    headers: Option<&HeaderMap>,
) -> Completion {
    forebay
        .connection
        .open_completion(payload, headers)
        .await
        .expect("a completion")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_large_lines_runs_like_any_other() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::calling(&provider).write();
    let serve = Serve::start(dir.path()).await;
    let text = |index: usize| {
        if index == 1 {
            "x".repeat(LARGE)
        } else {
            format!("text {index}")
        }
    };
    let line = |index: usize| {
        let body = json!({ "messages": [{ "role": "user", "content": text(index) }] });
        json!({ "custom_id": format!("r-{index}"), "body": body }).to_string()
    };
    std::fs::write(
        dir.path().join("in.jsonl"),
        (0..3).map(line).collect::<Vec<_>>().join("\n"),
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
    for again in [false, true] {
        let ended = program::run(dir.path(), &args).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let output = std::fs::read_to_string(dir.path().join("out.jsonl")).expect("there");
        for (index, line) in output.lines().enumerate() {
            let answer: OutputLine = serde_json::from_str(line).expect("a line");
            let body: Value =
                serde_json::from_str(answer.response.expect("an answer").body.get()).expect("JSON");
            let said = body["choices"][0]["message"]["content"]
                .as_str()
                .expect("text");
            assert!(
                said == format!("You said: {}", text(index)),
                "line {index}, again: {again}"
            );
        }
        assert_eq!(provider.calls().len(), 3, "again: {again}");
        std::fs::remove_file(dir.path().join("out.jsonl")).expect("removed");
    }
    let holds_answer = |text: &str| text.contains(&format!("You said: {}", "x".repeat(100)));
    let got = program::run(dir.path(), &["results", "get", "r-1", "--batch", "b"]).await;
    assert!(
        got.code == Some(0) && holds_answer(&got.stdout),
        "the stored answer is whole"
    );
    let (status, _) = serve.terminate().await;
    assert!(status.success());
    let got = program::run(dir.path(), &["results", "get", "r-1", "--batch", "b"]).await;
    assert!(
        got.code == Some(0) && holds_answer(&got.stdout),
        "without a worker too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn any_client_publishes_large_jobs_and_gets_large_answers_as_objects() {
    let (forebay, provider) = Forebay::simple().await;
    let inbox = forebay.connection.client.new_inbox();
    let mut copies = forebay
        .connection
        .client
        .subscribe(inbox.clone())
        .await
        .expect("subscribed");
    let text = "x".repeat(LARGE);
    let mut job = chat("large", &text);
    job["reply_to"] = json!(inbox);
    publish_object(
        &forebay,
        "ai.jobs.chat",
        "default/anything",
        &job,
        &json!({ "id": "large" }),
    )
    .await;

    let message = forebay
        .message(
            "AI_COMPLETIONS".to_owned(),
            "ai.completions.default._.large",
        )
        .await;
    let rest: Completion = serde_json::from_slice(&message.payload).expect("a completion");
    assert_eq!(
        (rest.status, rest.response.expect("a response").body.get()),
        (Status::Succeeded, "null")
    );
    let headers = message.headers.as_ref().expect("headers");
    assert!(
        headers
            .get(OBJECT_HEADER)
            .expect("an object")
            .as_str()
            .starts_with("default/_/large/")
    );
    let whole = whole_completion(&forebay, &message.payload, message.headers.as_ref()).await;
    assert!(answer_text(&whole) == format!("You said: {text}"));
    let copy = soon("a copy", copies.next()).await.expect("open");
    assert!(
        answer_text(&whole_completion(&forebay, &copy.payload, copy.headers.as_ref()).await)
            == answer_text(&whole)
    );
    // The object was this job's, and goes with it.
    let requests = bucket(&forebay, "AI_REQUESTS").await;
    until("an empty bucket", async || {
        objects(&requests).await.is_empty()
    })
    .await;

    // Published again, it is answered although its object is gone; and so is whoever asks.
    let mut headers = HeaderMap::new();
    headers.insert(OBJECT_HEADER, "default/anything");
    headers.insert(REPLY_TO_HEADER, inbox.as_str());
    forebay
        .publish_with("ai.jobs.chat", &json!({ "id": "large" }), headers)
        .await;
    let copy = soon("a copy", copies.next()).await.expect("open");
    assert!(
        answer_text(&whole_completion(&forebay, &copy.payload, copy.headers.as_ref()).await)
            == answer_text(&whole)
    );
    let request = ResultsRequest {
        team: "default".to_owned(),
        batch: None,
        id: "large".to_owned(),
    };
    let request = serde_json::to_vec(&request).expect("JSON");
    let reply = forebay
        .connection
        .client
        .request("ai.ctl.results", request.into())
        .await
        .expect("an answer");
    assert!(
        answer_text(&whole_completion(&forebay, &reply.payload, reply.headers.as_ref()).await)
            == answer_text(&whole)
    );
    let mut headers = HeaderMap::new();
    headers.insert(OBJECT_HEADER, "default/asked");
    requests
        .put(
            "default/asked",
            &mut chat("asked", &text).to_string().as_bytes(),
        )
        .await
        .expect("put");
    let asked =
        forebay
            .connection
            .client
            .request_with_headers("ai.ask.chat.default", headers, "{}".into());
    let reply = soon("an answer", asked).await.expect("an answer");
    assert!(
        answer_text(&whole_completion(&forebay, &reply.payload, reply.headers.as_ref()).await)
            == answer_text(&whole)
    );
    assert_eq!(provider.calls().len(), 2);
    assert_eq!(forebay.count("AI_DEAD".to_owned()).await, 0);
}

/// Puts an object whose description cannot be read.
async fn put_damaged(forebay: &Forebay, requests: &ObjectStore, name: &str) {
    let subjects = async || {
        let stream = forebay
            .connection
            .context
            .get_stream("OBJ_AI_REQUESTS")
            .await;
        let stream = stream.expect("the stream");
        let found = stream
            .info_with_subjects("$O.AI_REQUESTS.M.>")
            .await
            .expect("subjects");
        let names = found.map_ok(|(subject, _)| subject);
        names.try_collect::<Vec<_>>().await.expect("subjects")
    };
    let before = subjects().await;
    requests.put(name, &mut "{}".as_bytes()).await.expect("put");
    let after = subjects().await;
    let of_object = after.into_iter().find(|subject| !before.contains(subject));
    let mut headers = HeaderMap::new();
    // It replaces the description, as an object store does.
    headers.insert("Nats-Rollup", "sub");
    let sent = forebay
        .connection
        .context
        .publish_with_headers(of_object.expect("a new one"), headers, "{}".into())
        .await;
    sent.expect("sent").await.expect("kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_foreign_and_oversized_objects_are_refused_and_small_ones_work() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .config("[call]\nmax_request = \"1KiB\"\n")
        .start()
        .await;
    publish_name(
        &forebay,
        "ai.jobs.chat",
        "default/none",
        &json!({ "id": "missing" }),
    )
    .await;
    let job = chat("others", "hello");
    publish_object(
        &forebay,
        "ai.jobs.chat",
        "acme/x",
        &job,
        &json!({ "id": "others" }),
    )
    .await;
    let job = chat("larger", &"x".repeat(2_000));
    publish_object(
        &forebay,
        "ai.jobs.chat",
        "default/larger",
        &job,
        &json!({ "id": "larger" }),
    )
    .await;
    let requests = bucket(&forebay, "AI_REQUESTS").await;
    let others = requests.get("acme/x").await.expect("there");
    requests
        .add_link("default/link", &others)
        .await
        .expect("a link");
    publish_name(
        &forebay,
        "ai.jobs.chat",
        "default/link",
        &json!({ "id": "linked" }),
    )
    .await;
    put_damaged(&forebay, &requests, "default/spoilt").await;
    publish_name(
        &forebay,
        "ai.jobs.chat",
        "default/spoilt",
        &json!({ "id": "spoilt" }),
    )
    .await;
    for (id, code, words) in [
        ("spoilt", "object_gone", "default/spoilt"),
        ("missing", "object_gone", "default/none"),
        ("others", "invalid_object", "begin with `default/`"),
        ("larger", "request_too_large", "max_request of 1024"),
        ("linked", "object_gone", "default/link"),
    ] {
        let error = forebay
            .completion("default", None, id)
            .await
            .error
            .expect("an error");
        assert!(
            error.code == code && error.message.contains(words),
            "{id}: {error:?}"
        );
    }
    assert_eq!(provider.calls(), []);
    // What was refused may be mended. The job's own words count, not those of its message; it may wait, too.
    let soon_after = SystemClock
        .now()
        .checked_add(jiff::Span::new().seconds(12))
        .expect("soon");
    let mut job = chat("missing", "hello");
    job["not_before"] = json!(soon_after.to_string());
    job["batch"] = json!("b");
    publish_object(
        &forebay,
        "ai.jobs.chat",
        "default/none",
        &job,
        &json!({ "id": "other" }),
    )
    .await;
    forebay.scheduled("ai.scheduled.default.b.missing").await;
    assert_eq!(
        answer_text(&forebay.completion("default", Some("b"), "missing").await),
        "You said: hello"
    );
    forebay.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_a_large_message_is_shown_whole_and_replayed() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::calling(&provider).write();
    let serve = Serve::start(dir.path()).await;
    let bad = |id: &str, size: usize| {
        json!({ "id": id, "body": { "messages": [], "pad": "x".repeat(size) } }).to_string()
    };
    let lines = [bad("half", HALF_LARGE), bad("whole", LARGE)].join("\n");
    std::fs::write(dir.path().join("jobs.jsonl"), lines).expect("written");
    let published = program::run(dir.path(), &["publish", "jobs.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    let dead = async |args: &[&str]| program::run(dir.path(), &[&["dead"], args].concat()).await;
    let letters = async |count: usize| {
        eventually("dead letters", async || {
            let listed = dead(&["list", "--json"]).await;
            let letters: Vec<Value> = serde_json::from_str(&listed.stdout).expect("JSON");
            (letters.len() == count).then_some(letters)
        })
        .await
    };
    for letter in letters(2).await {
        let size = if letter["id"] == "half" {
            HALF_LARGE
        } else {
            LARGE
        };
        let shown = dead(&["show", &letter["sequence"].to_string()]).await;
        let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
        assert_eq!(
            shown["message"]["body"]["pad"]
                .as_str()
                .expect("text")
                .len(),
            size
        );
        assert_eq!(shown["attempts"].as_array().expect("calls").len(), 1);
    }
    let replayed = dead(&["replay", "--all"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    wait_for_calls(&provider, 4).await;
    // Dropped for good, an object goes too.
    letters(2).await;
    let dropped = dead(&["drop", "--all"]).await;
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
    letters(0).await;
    let (status, log) = serve.terminate().await;
    assert!(status.success(), "{log}");
}

/// The most memory that a process ever had, in MiB.
fn peak_memory_mib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("its peak");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .expect("a number")
        / 1024
}

fn jobs(dir: &Path, name: &str, prefix: &str, count: usize) {
    let lines: Vec<_> = (0..count)
        .map(|index| chat(&format!("{prefix}-{index}"), "hello").to_string())
        .collect();
    std::fs::write(dir.join(name), lines.join("\n")).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_an_end_take_little_memory_and_hold_up_nobody_else() {
    const AT_ONCE: usize = 128;
    let endless = provider(&["name=bad,key=sk-bad"], "endless=1").await;
    let good = provider(&["name=good,key=sk-good"], "").await;
    let dir = Forebay::builder()
        .account(Account::at("bad", &endless))
        .account(Account::at("good", &good))
        .pool("bad", "gpt-4o-mini", &["bad"])
        .pool("good", "gpt-4o-mini", &["good"])
        .config(&format!("[call]\nmax_answer = \"{MAX_ANSWER_MIB}MiB\"\n"))
        .write();
    jobs(dir.path(), "bad.jsonl", "bad", AT_ONCE);
    jobs(dir.path(), "good.jsonl", "good", AT_ONCE);
    let serve = Serve::start(dir.path()).await;
    let run = async |pool: &str| {
        let (input, output) = (format!("{pool}.jsonl"), format!("{pool}.out.jsonl"));
        program::run(
            dir.path(),
            &["run", &input, "--output", &output, "--pool", pool],
        )
        .await
    };
    let (bad, good_ended) = tokio::join!(run("bad"), run("good"));
    assert_eq!(good_ended.code, Some(0), "{good_ended:?}");
    assert_eq!(bad.code, Some(1), "{bad:?}");
    let errors = std::fs::read_to_string(dir.path().join("bad.out.errors.jsonl")).expect("there");
    assert_eq!(
        errors.matches("answer_too_large").count(),
        AT_ONCE,
        "{errors}"
    );
    assert_eq!(
        endless.calls().len(),
        AT_ONCE,
        "an answer that is too large is not asked for again"
    );
    // 4 at once are read beyond their first MiB; without that it would be 2 GiB.
    let most = peak_memory_mib(serve.pid());
    assert!(most < 4 * MAX_ANSWER_MIB + AT_ONCE + 512, "{most} MiB");
    let (status, log) = serve.terminate().await;
    assert!(status.success(), "{log}");
}
