//! Messages that Forebay did not write, on the subjects of completions.

use std::path::Path;

use async_nats::Client;
use async_nats::jetstream::{self, Context};
use forebay_schemas::Names;
use forebay_schemas::header::TAG_HEADER;
use forebay_simulator::Provider;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::program;
use crate::support::{
    Account, Forebay, ForebayBuilder, answer_text, chat, install_crypto, nats_server, provider,
    soon, until,
};

/// A server that Forebay does not manage, and a client of it, as a team has one.
async fn server(dir: &Path) -> (Child, String, Client) {
    install_crypto();
    let config = format!("jetstream {{ store_dir: {:?} }}\n", dir.join("store"));
    let (child, address) = nats_server(dir, &config, &[]).await;
    let client = async_nats::connect(&address).await.expect("connected");
    (child, address, client)
}

/// A worker with an empty data directory.
fn fresh_worker(provider: &Provider, address: &str) -> ForebayBuilder {
    Forebay::builder()
        .account(Account::at("one", provider))
        .pool("chat", "gpt-4o-mini", &["one"])
        .nats(address)
}

fn subject(id: &str) -> String {
    Names::default().completion("default", None, id)
}

/// Publishes a job of another team whose acknowledgement the server writes to `subject`, and waits until it is there.
async fn aim(client: &Client, subject: &str) {
    let job = json!({ "body": { "messages": [] } }).to_string();
    let jobs = "ai.jobs.nothing.evil".to_owned();
    let aimed = client.publish_with_reply(jobs, subject.to_owned(), job.into());
    aimed.await.expect("sent");
    let context = jetstream::new(client.clone());
    until("a foreign message", async || {
        is_tagged(&context, subject).await == Some(false)
    })
    .await;
}

/// Returns true if the last message on a subject of completions carries a tag; `None` if there is none.
async fn is_tagged(context: &Context, subject: &str) -> Option<bool> {
    let stream = context.get_stream("AI_COMPLETIONS").await.expect("there");
    let last = stream.get_last_raw_message_by_subject(subject).await.ok()?;
    Some(last.headers.get(TAG_HEADER).is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_in_the_place_of_a_completion_hides_it_from_no_other_worker() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let context = jetstream::new(team.clone());
    let first = fresh_worker(&provider, &address).start().await;
    // One is aimed at before its job is published, the other afterwards.
    aim(&team, &subject("before")).await;
    for id in ["before", "after"] {
        first.publish("ai.jobs.chat", &chat(id, "hello")).await;
        first.drained().await;
    }
    let _first = first.stop().await;
    for id in ["before", "after"] {
        assert_eq!(is_tagged(&context, &subject(id)).await, Some(true), "{id}");
        aim(&team, &subject(id)).await;
        aim(&team, &subject(id)).await;
    }

    let second = fresh_worker(&provider, &address).start().await;
    for id in ["before", "after"] {
        second.publish("ai.jobs.chat", &chat(id, "hello")).await;
        second.drained().await;
        assert_eq!(is_tagged(&context, &subject(id)).await, Some(true), "{id}");
        let completion = second.completion("default", None, id).await;
        assert_eq!(answer_text(&completion), "You said: hello");
    }
    assert_eq!(provider.calls().len(), 2, "no job is called again");
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_of_an_earlier_version_stay_answers_and_later_ones_need_a_tag() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let context = jetstream::new(team.clone());
    let first = fresh_worker(&provider, &address).start().await;
    first.publish("ai.jobs.chat", &chat("old", "hello")).await;
    first.drained().await;
    let _first = first.stop().await;
    // The stream as an earlier version left it: without a secret, and its completion without a tag.
    let stream = context.get_stream("AI_COMPLETIONS").await.expect("there");
    let old = subject("old");
    let tagged = stream.get_last_raw_message_by_subject(&old).await;
    let tagged = tagged.expect("the completion");
    let purged = stream.purge().await.expect("purged");
    assert_eq!(purged.purged, 1);
    let mut headers = async_nats::HeaderMap::new();
    for name in ["Forebay-Fingerprint", "Forebay-Message"] {
        headers.insert(name, tagged.headers.get(name).expect("a header").clone());
    }
    let publish = async |id: &str| {
        let sent =
            context.publish_with_headers(subject(id), headers.clone(), tagged.payload.clone());
        sent.await.expect("sent").await.expect("stored");
    };
    publish("old").await;
    aim(&team, &subject("old")).await;
    let mut config = stream.get_info().await.expect("there").config;
    config.metadata.clear();
    context.update_stream(config).await.expect("updated");

    let second = fresh_worker(&provider, &address).start().await;
    second.publish("ai.jobs.chat", &chat("old", "hello")).await;
    second.drained().await;
    assert_eq!(provider.calls().len(), 1, "an earlier completion counts");
    // The same message is no completion once the stream has a secret.
    publish("new").await;
    second.publish("ai.jobs.chat", &chat("new", "hello")).await;
    second.drained().await;
    assert_eq!(is_tagged(&context, &subject("new")).await, Some(true));
    assert_eq!(provider.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_from_the_completions_that_others_hide() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let builder = fresh_worker(&provider, &address);
    let line = |id: &str| {
        let body =
            json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": id }] });
        json!({ "custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body })
            .to_string()
    };
    let lines = [line("a"), line("b")].join("\n");
    let home = builder.write();
    std::fs::write(home.path().join("batch.jsonl"), lines).expect("written");
    let run = async |output: &str| {
        let args = [
            "run",
            "batch.jsonl",
            "--pool",
            "chat",
            "--batch",
            "hidden",
            "--output",
            output,
        ];
        let printed = program::run(home.path(), &args).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        std::fs::read(home.path().join(output)).expect("the answers")
    };
    let before = run("before.jsonl").await;
    for id in ["a", "b"] {
        aim(
            &team,
            &Names::default().completion("default", Some("hidden"), id),
        )
        .await;
    }
    std::fs::remove_dir_all(home.path().join("data")).expect("removed");
    assert_eq!(run("after.jsonl").await, before);
    assert_eq!(provider.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_completions_see_none_that_forebay_did_not_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = fresh_worker(&provider, &address).start().await;
    for id in ["a", "b"] {
        forebay.publish("ai.jobs.chat", &chat(id, "hello")).await;
        forebay.completion("default", None, id).await;
        aim(&team, &subject("a")).await;
    }
    forebay.publish("ai.jobs.chat", &chat("c", "hello")).await;
    let args = ["results", "tail", "--all", "--team", "default"];
    let mut tail = program::command(forebay.dir(), &args)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    for id in ["a", "b", "c"] {
        let line = soon("a completion", lines.next_line()).await;
        let line = line.expect("readable").expect("a line");
        assert!(line.contains(&format!("\"id\":\"{id}\"")), "{line}");
    }
    tail.kill().await.expect("killed");
}
