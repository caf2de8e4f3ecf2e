//! Values that Forebay did not write, in the place of its own state: acknowledgements that a team aims at it, and copies.

use std::time::Duration;

use async_nats::jetstream::{self, kv};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use forebay::app::App;
use forebay::cluster::worker_lease::WhenHeld;
use forebay::control::messages::{AccountsReport, OrdersReply, SwitchRequest};
use forebay_schemas::Status;
use forebay_schemas::header::OBJECT_HEADER;
use forebay_workers::PauseTarget;
use forebay_workers::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::support::shared_server::{accounts, aim, is_tagged, server, until_tagged};
use crate::support::{
    Forebay, answer_text, chat, control, provider, until, with_deadline_in_a_second,
};

const LEASE: &str = "$KV.AI_NODES.worker";

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_value_ends_no_lease() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    let context = jetstream::new(team.clone());
    let stream = context.get_stream("KV_AI_NODES").await.expect("there");
    let first = stream.get_last_raw_message_by_subject(LEASE).await;
    let first = first.expect("the lease").sequence;
    for is_ack in [true, false] {
        if is_ack {
            aim(&team, LEASE).await;
        } else {
            team.publish(LEASE, "{}".into()).await.expect("sent");
        }
        team.flush().await.expect("sent");
        until_tagged(&context, "AI_NODES", LEASE, false).await;
        let rival = Forebay::limited(&provider, "{ concurrent = 8 }").nats(&address);
        let refused = App::start(&rival.parse(), WhenHeld::GiveUp)
            .await
            .err()
            .expect("taken");
        assert!(refused.to_string().contains("another worker"), "{refused}");
        until_tagged(&context, "AI_NODES", LEASE, true).await;
    }
    let last = stream.get_last_raw_message_by_subject(LEASE).await;
    assert!(last.expect("the lease").sequence > first);
    forebay.publish("ai.jobs.chat", &chat("a", "hello")).await;
    let completion = forebay.completion("default", None, "a").await;
    assert_eq!(answer_text(&completion), "You said: hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_value_makes_no_spent_limit_unspent_and_enables_no_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let context = jetstream::new(team.clone());
    let limits = "{ requests = 2, per = \"1h\" }";
    let forebay = Forebay::limited(&provider, limits)
        .nats(&address)
        .start()
        .await;
    forebay.publish("ai.jobs.chat", &chat("a", "hello")).await;
    forebay.completion("default", None, "a").await;
    let stopped = forebay.stop().await;
    let subject = "$KV.AI_ACCOUNTS.one";
    aim(&team, subject).await;
    until_tagged(&context, "AI_ACCOUNTS", subject, false).await;

    // Another data directory has no copy.
    std::fs::remove_dir_all(stopped.dir().join("data/state")).expect("removed");
    let forebay = stopped.start().await;
    let shown = accounts(&forebay).await;
    assert_eq!(shown.accounts[0].keys[0].state, "disabled", "{shown:?}");
    assert!(shown.accounts[0].has_unknown_state);
    let all = SwitchRequest {
        account: "one".to_owned(),
        key: None,
    };
    let _: AccountsReport = control(&forebay, "accounts.enable", &all)
        .await
        .expect("enabled");
    assert!(!accounts(&forebay).await.accounts[0].has_unknown_state);
    let job = with_deadline_in_a_second("b");
    forebay.publish("ai.jobs.chat", &job).await;
    let completion = forebay.completion("default", None, "b").await;
    assert_eq!(
        completion.status,
        Status::Expired,
        "the hour counts as spent"
    );
    assert_eq!(provider.calls().len(), 1);

    // It stays spent over one more start, although Forebay has written its own value since.
    until_tagged(&context, "AI_ACCOUNTS", subject, true).await;
    let forebay = forebay.restart().await;
    let job = with_deadline_in_a_second("c");
    forebay.publish("ai.jobs.chat", &job).await;
    let completion = forebay.completion("default", None, "c").await;
    assert_eq!(completion.status, Status::Expired);
    let shown = accounts(&forebay).await;
    assert_eq!(shown.accounts[0].keys[0].state, "ready", "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_value_is_no_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    let paused = PauseTarget::Pool("chat".to_owned());
    let _: OrdersReply = control(&forebay, "pause", &paused).await.expect("paused");
    let stopped = forebay.stop().await;
    // A copy of a pause under another key, an acknowledgement, and an order in plain words.
    let context = jetstream::new(team.clone());
    let stream = context.get_stream("KV_AI_CONTROLS").await.expect("there");
    let order = stream.get_raw_message(1).await.expect("the order");
    let plain = serde_json::to_vec(&json!({ "pause": { "kind": "team", "name": "default" } }));
    let junk = "$KV.AI_CONTROLS.junk";
    aim(&team, junk).await;
    let plain = plain.expect("JSON").into();
    team.publish("$KV.AI_CONTROLS.plain", plain)
        .await
        .expect("sent");
    let get = format!("$JS.API.DIRECT.GET.KV_AI_CONTROLS.{}", order.subject);
    let copied = team.publish_with_reply(get, "$KV.AI_CONTROLS.copy", "".into());
    copied.await.expect("sent");
    team.flush().await.expect("sent");
    until("three foreign values", async || {
        let info = context.get_stream("KV_AI_CONTROLS").await.expect("there");
        info.cached_info().state.messages == 4
    })
    .await;

    let forebay = stopped.start().await;
    let report: OrdersReply = control(&forebay, "resume", &paused).await.expect("resumed");
    assert!(report.paused.is_empty(), "{report:?}");
    forebay.publish("ai.jobs.chat", &chat("a", "hello")).await;
    let completion = forebay.completion("default", None, "a").await;
    assert_eq!(answer_text(&completion), "You said: hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_keeps_what_an_operator_set_of_a_bucket() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    let context = jetstream::new(team);
    let stopped = forebay.stop().await;
    let buckets = ["KV_AI_NODES", "KV_AI_ACCOUNTS", "KV_AI_CONTROLS"];
    for bucket in buckets {
        let stream = context.get_stream(bucket).await.expect("there");
        let mut config = stream.cached_info().config.clone();
        config.max_bytes = 1 << 20;
        config.description = Some("an operator's".to_owned());
        context.update_stream(config).await.expect("updated");
    }
    let _forebay = stopped.start().await;
    for bucket in buckets {
        let stream = context.get_stream(bucket).await.expect("there");
        let config = &stream.cached_info().config;
        assert_eq!(config.max_bytes, 1 << 20, "{bucket}");
        assert_eq!(config.description.as_deref(), Some("an operator's"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_value_hides_no_object() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    let context = jetstream::new(team.clone());
    let store = context.get_object_store("AI_REQUESTS").await;
    let store = store.expect("the object store");
    let description = |name: &str| {
        let name = BASE64_URL_SAFE.encode(name);
        format!("$O.AI_REQUESTS.M.{name}")
    };
    // One is hidden before its job is read, the other before it is even put.
    for (id, is_early) in [("late", false), ("early", true)] {
        let name = format!("default/{id}");
        if is_early {
            aim(&team, &description(&name)).await;
        }
        let mut job = chat(id, "hello").to_string();
        job.push_str(&" ".repeat(300_000));
        forebay
            .connection
            .requests()
            .put(&name, &job.into())
            .await
            .expect("put");
        if !is_early {
            aim(&team, &description(&name)).await;
            until("a hidden object", async || store.info(&name).await.is_err()).await;
        }
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(OBJECT_HEADER, name.as_str());
        let message = json!({ "id": id });
        forebay
            .publish_with("ai.jobs.chat", &message, headers)
            .await;
        let completion = forebay.completion("default", None, id).await;
        assert_eq!(answer_text(&completion), "You said: hello", "{id}");
    }
    forebay.drained().await;
    until("an empty object store", async || {
        let stream = context.get_stream("OBJ_AI_REQUESTS").await.expect("there");
        stream.cached_info().state.messages == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_buckets_of_an_earlier_version_are_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let context = jetstream::new(team);
    let bucket = async |name: &str, limit_markers| {
        let config = kv::Config {
            bucket: name.to_owned(),
            history: 1,
            limit_markers,
            ..kv::Config::default()
        };
        let store = context.create_key_value(config).await;
        store.expect("the bucket")
    };
    // The lease of a worker that has ended, a paused team, and junk, none with a tag.
    let nodes = bucket("AI_NODES", Some(Duration::from_secs(9))).await;
    let holder = json!({ "host": "gone", "pid": 1, "nonce": 7 }).to_string();
    nodes.put("worker", holder.into()).await.expect("put");
    let states = bucket("AI_ACCOUNTS", None).await;
    let disabled = json!({ "keys": { "key-1": { "until": null, "reason": null } }, "models": {}, "spent": {} });
    let value = disabled.to_string().into();
    states.put("one", value).await.expect("put");
    states.put("junk", "{}".into()).await.expect("put");

    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    let shown = accounts(&forebay).await;
    assert_eq!(shown.accounts[0].keys[0].state, "disabled", "{shown:?}");
    assert!(is_tagged(&context, "AI_NODES", LEASE).await);
    assert!(is_tagged(&context, "AI_ACCOUNTS", "$KV.AI_ACCOUNTS.one").await);
    let junk = states.get("junk").await.expect("read");
    assert!(junk.is_none(), "it is deleted");
}

/// Returns a job that waits for its time, for some seconds.
fn scheduled(id: &str) -> Value {
    let mut job = chat(id, "hello");
    let at = SystemClock.now() + Duration::from_secs(8);
    job["not_before"] = json!(at);
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_is_aimed_at_a_schedule_does_not_stop_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    for id in ["kept", "cancelled"] {
        forebay.publish("ai.jobs.chat", &scheduled(id)).await;
        forebay
            .scheduled(&format!("ai.scheduled.default._.{id}"))
            .await;
        for code in ["", ".0", ".0123456789abcdef", ".0.0"] {
            aim(&team, &format!("ai.scheduled.default._.{id}{code}")).await;
        }
    }
    let what = json!({ "team": "default", "id": "cancelled" });
    let reply: Value = control(&forebay, "cancel", &what).await.expect("cancelled");
    assert_eq!(reply["rescheduled"], 1, "{reply}");
    let cancelled = forebay.completion("default", None, "cancelled").await;
    assert_eq!(cancelled.status, Status::Cancelled);
    let kept = forebay.completion("default", None, "kept").await;
    assert_eq!(answer_text(&kept), "You said: hello");
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_job_that_forebay_did_not_schedule_is_called_by_no_account() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    let context = jetstream::new(team);
    forebay.publish("ai.jobs.chat", &scheduled("real")).await;
    let real = forebay.scheduled("ai.scheduled.default._.real").await;
    // A copy has the tag of the original, but comes on another subject, with another state or another body.
    let due = "ai.due.chat.default.normal";
    let state = real.headers.get("Forebay-State").expect("a state");
    let state = state.as_str().replace("\"real\"", "\"forged\"");
    let mut forged = real.headers.clone();
    forged.insert("Forebay-State", state.as_str());
    let mut copied = real.headers.clone();
    copied.insert("Nats-Stream", "AI_SCHEDULED");
    let other_body = json!({ "body": { "messages": [] } }).to_string();
    let foreign = [
        (
            "ai.due.chat.default.bulk",
            real.headers.clone(),
            real.payload.clone(),
        ),
        (due, forged, real.payload.clone()),
        (due, copied, real.payload.clone()),
        (due, real.headers.clone(), other_body.into()),
    ];
    for (subject, headers, payload) in foreign {
        // Without those that would make it a schedule, or erase others.
        let kept = headers.iter().filter(|(name, _)| {
            let name = name.to_string();
            name.starts_with("Forebay-") || name == "Nats-Stream"
        });
        let headers: async_nats::HeaderMap = kept
            .map(|(name, values)| (name.clone(), values[0].clone()))
            .collect();
        let sent = context.publish_with_headers(subject, headers, payload);
        sent.await.expect("sent").await.expect("stored");
    }
    let dead = context.get_stream("AI_DEAD").await.expect("dead letters");
    until("four dead letters", async || {
        let info = dead.get_info().await;
        info.is_ok_and(|info| info.state.messages == 4)
    })
    .await;
    assert_eq!(provider.calls().len(), 0);
    let completion = forebay.completion("default", None, "real").await;
    assert_eq!(answer_text(&completion), "You said: hello");
    assert_eq!(provider.calls().len(), 1);
}
