//! What Forebay 0.1 left: its NATS store goes on under the names and words of today, and its words are refused with those
//! of today.

use std::path::Path;
use std::process::Command;

use async_nats::jetstream::{self, Context, kv, stream};
use forebay::control::messages::{CancelReply, QueuesReport};
use forebay_schemas::{Class, Completion, Status};
use forebay_simulator::Provider;
use forebay_workers::clock::{Clock, SystemClock};
use futures::StreamExt;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::program;
use crate::support::{
    Account, Forebay, ForebayBuilder, answer_text, chat, control, eventually, install_crypto,
    nats_server, provider, soon, wait_for_calls,
};

/// The store of a NATS server on which Forebay 0.1 worked: see `make_nats_format_1.py`, which made it.
const NATS_FORMAT_1: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/fixtures/nats-format-1.tar.gz"
);
/// The streams that are taken over.
const FORMER: [&str; 3] = ["AI_LATER", "KV_AI_QUOTAS", "KV_AI_ORDERS"];

/// So many requests of the day are spent in the store of 0.1.
const SPENT: u32 = 3;
/// More than that.
const HIGHER: u32 = 30;

/// The configuration of today for what 0.1 was configured with, and so many requests a day.
fn configured(provider: &Provider, address: &str, daily: u32) -> ForebayBuilder {
    // The keys of 0.1 had this name.
    let account = |name| Account::at(name, provider).key("a", "sk-one");
    let limit = |requests| format!("{{ requests = {requests}, per = \"day\" }}");
    Forebay::builder()
        .account(account("daily").limits(&limit(daily)))
        .account(account("off"))
        .account(account("free"))
        .pool("daily", "gpt-4o-mini", &["daily"])
        .pool("off", "gpt-4o-mini", &["off"])
        .pool("chat", "gpt-4o-mini", &["free"])
        .pool("again", "fail-bad_request", &["free"])
        .pool("large", "fail-exceeds_limit", &["free"])
        .config(&format!("[team.acme]\nlimits = [{}]\n", limit(daily / 3)))
        .nats(address)
        // What the fixture holds counts however old it is.
        .config("[data]\nkeep_days = 40000\ndedupe_days = 36500\n")
        .config("[streams]\nobjects_max_bytes = \"64MiB\"\ncompletions_max_age = \"40000d\"\n")
}

/// Moves the days that are spent in the store to the day on which this runs.
async fn move_spent_days_to_today(context: &Context) {
    let today = SystemClock.now().to_zoned_datetime(TimeZone::UTC).date();
    let tomorrow = today.tomorrow().expect("a day").at(0, 0, 0, 0);
    let ends = TimeZone::UTC.to_timestamp(tomorrow).expect("a time");
    let store = context
        .get_key_value("AI_QUOTAS")
        .await
        .expect("the bucket of 0.1");
    for (key, path) in [
        ("daily", "/models/gpt-4o-mini/spent"),
        ("team.acme", "/spent"),
    ] {
        let value = store.get(key).await.expect("read").expect("there");
        let mut value: Value = serde_json::from_slice(&value).expect("JSON");
        let spent = value
            .pointer_mut(path)
            .and_then(|spent| spent.get_mut("requests per day"));
        let parts = spent
            .and_then(Value::as_array_mut)
            .expect("a day that is spent");
        assert!(!parts.is_empty());
        parts
            .iter_mut()
            .for_each(|part| part[0] = json!(ends.to_string()));
        store
            .put(key, value.to_string().into())
            .await
            .expect("written");
    }
}

/// A NATS server on the store of 0.1.
async fn server_of_format_1(dir: &Path) -> (tokio::process::Child, String, Context) {
    install_crypto();
    let unpacked = Command::new("tar")
        .args(["-xzf", NATS_FORMAT_1])
        .current_dir(dir)
        .status();
    assert!(unpacked.expect("it runs").success());
    let config = format!(
        "max_payload: 8MB\njetstream {{ store_dir: {:?} }}\n",
        dir.join("store")
    );
    let (server, address) = nats_server(dir, &config, &[]).await;
    let client = async_nats::connect(&address).await.expect("connected");
    (server, address, jetstream::new(client))
}

async fn streams(context: &Context) -> Vec<String> {
    context
        .stream_names()
        .map(|name| name.expect("a name"))
        .collect()
        .await
}

async fn completed(forebay: &Forebay, team: &str, id: &str) -> Completion {
    let completion = forebay.completion(team, None, id).await;
    assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
    completion
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nats_store_of_0_1_is_taken_over_under_todays_names() {
    let server_dir = tempfile::tempdir().expect("a directory");
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let (_server, address, context) = server_of_format_1(server_dir.path()).await;
    move_spent_days_to_today(&context).await;
    let before = streams(&context).await;
    assert!(
        FORMER
            .iter()
            .all(|former| before.iter().any(|stream| stream == former)),
        "{before:?}"
    );

    let forebay = configured(&provider, &address, SPENT).start().await;
    let after = streams(&context).await;
    assert!(
        FORMER
            .iter()
            .all(|former| after.iter().all(|stream| stream != former)),
        "{after:?}"
    );

    // What operators said, and what is spent, still holds.
    let queues: QueuesReport = control(&forebay, "queues", &()).await.expect("queues");
    let paused = serde_json::to_value(&queues.paused).expect("JSON");
    assert_eq!(
        paused,
        json!([{ "kind": "pool", "name": "chat" }, { "kind": "account", "name": "free" }])
    );
    let accounts: Value = control(&forebay, "accounts", &()).await.expect("accounts");
    let named = |name: &str| {
        let found = accounts["accounts"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|one| one["name"] == name);
        found
            .unwrap_or_else(|| panic!("{name} in {accounts}"))
            .clone()
    };
    assert_eq!(named("off")["keys"][0]["state"], "disabled");
    assert_eq!(named("off")["keys"][0]["reason"], "operator");
    assert_eq!(
        named("daily")["models"][0]["spent"]["limit"],
        "3 requests per day in UTC"
    );

    // What is answered is not called again, and is told in the words of today.
    for (subject, team, id) in [
        ("ai.jobs.daily", "default", "answered-1"),
        ("ai.jobs.daily", "default", "answered-2"),
        ("ai.jobs.daily", "default", "answered-3"),
        ("ai.jobs.chat.acme", "acme", "answered-acme"),
        ("ai.jobs.chat", "default", "kept"),
        ("ai.jobs.chat", "default", "served"),
    ] {
        let text = if matches!(id, "kept" | "served") {
            "The same".to_owned()
        } else {
            format!("I am {id}")
        };
        forebay.publish(subject, &chat(id, &text)).await;
        let request = json!({ "team": team, "batch": null, "id": id });
        let stored: Value = eventually("a stored result", async || {
            control::<Option<Value>>(&forebay, "results", &request)
                .await
                .expect("an answer")
        })
        .await;
        assert_eq!(stored["revision"], 1, "{stored}");
        assert!(stored.get("generation").is_none(), "{stored}");
        match id {
            "served" => assert_eq!(stored["cached_from"]["id"], "kept", "{stored}"),
            _ => {
                assert_eq!(
                    stored["answered_by"]["account"], stored["attempts"][0]["account"],
                    "{stored}"
                );
                assert!(stored["attempts"][0]["duration_ms"].is_u64(), "{stored}");
            }
        }
    }
    let refused = forebay.completion("default", None, "too-large").await;
    assert_eq!(
        refused.error.map(|error| error.class),
        Some(Class::ExceedsLimit)
    );
    assert_eq!(refused.attempts[0].class(), Some(Class::ExceedsLimit));
    assert_eq!(provider.calls().len(), 0, "all that was answered");

    tail_shows_todays_names(forebay.dir()).await;
    each_waiting_job_runs_when_released(&forebay, &provider).await;
    let dir = forebay.stop().await.write();
    let forebay = configured(&provider, &address, HIGHER)
        .in_dir(dir)
        .start()
        .await;
    a_higher_limit_releases_the_rest(&forebay, &provider).await;
}

/// The first completions of the stream are of 0.1.
async fn tail_shows_todays_names(dir: &Path) {
    let mut tail = program::command(dir, &["results", "tail", "--all"])
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    for id in ["answered-1", "answered-2"] {
        let line = soon("a completion", lines.next_line())
            .await
            .expect("read")
            .expect("a line");
        let completion: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            (&completion["id"], &completion["revision"]),
            (&json!(id), &json!(1)),
            "{line}"
        );
        assert_eq!(completion["attempts"][0]["account"], "daily", "{line}");
    }
    tail.kill().await.expect("killed");
}

/// Each job that waited goes when what it waits for is lifted, and no earlier.
async fn each_waiting_job_runs_when_released(forebay: &Forebay, provider: &Provider) {
    let _: Value = control(forebay, "accounts.enable", &json!({ "account": "off" }))
        .await
        .expect("enabled");
    completed(forebay, "default", "waits-key").await;
    assert_eq!(
        provider.calls().len(),
        1,
        "pool and account are paused, and the day is spent"
    );
    for what in [
        json!({ "kind": "pool", "name": "chat" }),
        json!({ "kind": "account", "name": "free" }),
    ] {
        let _: Value = control(forebay, "resume", &what).await.expect("resumed");
    }
    // 0.1 knew no `cache`: what a job said there meant nothing.
    for id in [
        "waits-pool",
        "waits-bulk",
        "waits-own-field",
        "later-due",
        "later-overdue",
    ] {
        assert_eq!(
            answer_text(&completed(forebay, "default", id).await),
            format!("You said: I am {id}")
        );
    }
    assert_eq!(
        answer_text(&completed(forebay, "9lives", "waits-digit").await),
        "You said: I am waits-digit"
    );
    assert_eq!(
        answer_text(&completed(forebay, "default", "waits-object").await),
        "You said: I am waits-object"
    );
    let refused = forebay.completion("default", None, "failed").await;
    assert_eq!(
        refused.revision, 1,
        "the first one stands in the stream until the second is published"
    );
    for pair in [
        ["waits-kept-1", "waits-kept-2"],
        ["waits-shared-1", "waits-shared-2"],
    ] {
        let mut served = 0;
        for id in pair {
            served += usize::from(
                completed(forebay, "default", id)
                    .await
                    .cached_from
                    .is_some(),
            );
        }
        assert_eq!(served, 1, "one call for both of {pair:?}");
    }
    // Key, pool, bulk, own field, two later ones, digit, object, and the three for two or again.
    wait_for_calls(provider, 11).await;
    let request = json!({ "team": "default", "batch": null, "id": "failed" });
    let again = eventually("the second revision", async || {
        let stored: Option<Completion> = control(forebay, "results", &request)
            .await
            .expect("an answer");
        stored.filter(|stored| stored.revision == 2)
    })
    .await;
    assert_eq!((again.status, again.attempts.len()), (Status::Failed, 1));

    // What waits till 2100 has a subject of today, and can be cancelled.
    forebay.scheduled("ai.scheduled.default._.later-2100").await;
    let what = json!({ "team": "default", "batch": null, "id": "later-2100" });
    let reply: CancelReply = control(forebay, "cancel", &what).await.expect("cancelled");
    assert_eq!(reply.rescheduled, 1);
    assert_eq!(
        forebay
            .completion("default", None, "later-2100")
            .await
            .status,
        Status::Cancelled
    );
    assert_eq!(
        provider.calls().len(),
        11,
        "nothing is called that was cancelled or whose day is spent"
    );
}

/// What is spent of a day counts against another limit too.
async fn a_higher_limit_releases_the_rest(forebay: &Forebay, provider: &Provider) {
    completed(forebay, "default", "waits-day").await;
    completed(forebay, "acme", "waits-acme").await;
    forebay.drained().await;
    assert_eq!(forebay.count("AI_SCHEDULED".to_owned()).await, 0);
    assert_eq!(provider.calls().len(), 13, "every job that waited, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_takeover_is_completed() {
    let server_dir = tempfile::tempdir().expect("a directory");
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let (_server, address, context) = server_of_format_1(server_dir.path()).await;
    // As it stands after the first steps: the old stream has given up a subject, one entry of each bucket is copied.
    let later = context.get_stream("AI_LATER").await.expect("there");
    let mut config = later.cached_info().config.clone();
    config.subjects = vec!["ai.later.>".to_owned()];
    config.republish = None;
    context.update_stream(config).await.expect("updated");
    let bucket = |bucket: &str| kv::Config {
        bucket: bucket.to_owned(),
        history: 1,
        ..kv::Config::default()
    };
    let copied = context
        .create_key_value(bucket("AI_ACCOUNTS"))
        .await
        .expect("made");
    let newer =
        json!({ "keys": { "a": { "until": null, "reason": null } }, "models": {}, "spent": {} });
    copied
        .put("free", newer.to_string().into())
        .await
        .expect("written");

    let forebay = configured(&provider, &address, HIGHER).start().await;
    let after = streams(&context).await;
    assert!(
        FORMER
            .iter()
            .all(|former| after.iter().all(|stream| stream != former)),
        "{after:?}"
    );
    let accounts: Value = control(&forebay, "accounts", &()).await.expect("accounts");
    let state = |name: &str| {
        let accounts = accounts["accounts"].as_array().expect("a list");
        accounts.iter().find(|one| one["name"] == name).expect(name)["keys"][0]["state"].clone()
    };
    assert_eq!(
        (state("off"), state("free")),
        (json!("disabled"), json!("disabled")),
        "the newer one counts"
    );
    forebay.scheduled("ai.scheduled.default._.later-2100").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_first_start_leaves_the_store_usable_by_0_1() {
    let server_dir = tempfile::tempdir().expect("a directory");
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let (_server, address, context) = server_of_format_1(server_dir.path()).await;
    let taken = stream::Config {
        name: "SOMEBODYS".to_owned(),
        subjects: vec!["ai.scheduled.>".to_owned()],
        ..stream::Config::default()
    };
    context.create_stream(taken).await.expect("made");
    let dir = configured(&provider, &address, HIGHER).write();
    let refused = program::run(dir.path(), &["serve"]).await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(
        refused.stderr.contains("stream AI_SCHEDULED"),
        "{refused:?}"
    );
    assert!(
        !dir.path().join("data/format").exists(),
        "0.1 may go on here"
    );
    let before = streams(&context).await;
    assert!(
        FORMER
            .iter()
            .all(|former| before.iter().any(|stream| stream == former)),
        "{before:?}"
    );
    context.delete_stream("SOMEBODYS").await.expect("deleted");
    // What that process held it would else hold for some seconds.
    let nodes = context.get_key_value("AI_NODES").await.expect("the bucket");
    nodes.purge("worker").await.expect("purged");
    let builder = configured(&provider, &address, HIGHER).in_dir(dir);
    let forebay = builder.start().await;
    forebay.scheduled("ai.scheduled.default._.later-2100").await;
    assert!(forebay.dir().join("data/format").exists());
}

/// What was published after the first start of today's Forebay is of today.
#[tokio::test(flavor = "multi_thread")]
async fn job_fields_of_0_1_are_refused_with_todays_names() {
    let (forebay, provider) = Forebay::simple().await;
    let mut reuse = chat("reuse", "hello");
    reuse["reuse"] = json!("0s");
    forebay.publish("ai.jobs.chat", &reuse).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Forebay-Generation", "2");
    forebay
        .publish_with("ai.jobs.chat", &chat("header", "hello"), headers)
        .await;
    for (id, now) in [("reuse", "`cache`"), ("header", "`Forebay-Revision`")] {
        let refused = forebay.completion("default", None, id).await;
        let error = refused.error.expect("refused");
        assert_eq!(error.code, "invalid_job");
        assert!(
            error.message.contains("is now") && error.message.contains(now),
            "{}",
            error.message
        );
    }
    assert!(provider.calls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_0_1_are_refused_with_todays_names() {
    let dir = tempfile::tempdir().expect("a directory");
    for (args, now) in [
        (&["keys"][..], "`forebay accounts`"),
        (&["keys", "disable", "one"], "`forebay accounts`"),
        (&["pause", "quota", "one"], "`account`"),
        (&["resume", "quota", "one"], "`account`"),
        (
            &["nats-permissions", "acme", "--beside", "FOREBAY"],
            "`forebay nats-permissions TEAM`",
        ),
        (
            &[
                "simulate",
                "--account",
                "name=a,key=b",
                "--faults",
                "exceeds_key_limit=0.1",
            ],
            "`exceeds_limit`",
        ),
    ] {
        let refused = program::run(dir.path(), args).await;
        assert_eq!(refused.code, Some(2), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains(now), "{args:?}: {}", refused.stderr);
    }
    let line = json!({ "custom_id": "a", "reuse": "1h", "body": { "model": "m", "messages": [] } });
    std::fs::write(dir.path().join("in.jsonl"), line.to_string()).expect("written");
    let refused = program::run(dir.path(), &["run", "in.jsonl", "--output", "out.jsonl"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("line 1") && refused.stderr.contains("is now `cache`"),
        "{refused:?}"
    );
}
