//! Copies of Forebay's state in the data directory, where the true state was replaced or lost.

use std::time::Duration;

use async_nats::jetstream;
use forebay::control::messages::{OrdersReply, QueuesReport};
use forebay_schemas::{Names, Status};
use forebay_workers::PauseTarget;
use forebay_workers::clock::{Clock, SystemClock};

use crate::support::shared_server::{accounts, aim, server, until_tagged};
use crate::support::{
    Forebay, answer_text, chat, control, provider, until, with_deadline_in_a_second,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_of_a_replaced_state_counts() {
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
    aim(&team, "$KV.AI_ACCOUNTS.junk").await;
    until_tagged(&context, "AI_ACCOUNTS", subject, false).await;

    let forebay = stopped.start().await;
    let shown = accounts(&forebay).await;
    assert_eq!(shown.accounts[0].keys[0].state, "ready", "{shown:?}");
    assert!(!shown.accounts[0].has_unknown_state);
    forebay.publish("ai.jobs.chat", &chat("b", "hello")).await;
    let second = forebay.completion("default", None, "b").await;
    assert_eq!(answer_text(&second), "You said: hello");
    let job = with_deadline_in_a_second("c");
    forebay.publish("ai.jobs.chat", &job).await;
    let third = forebay.completion("default", None, "c").await;
    assert_eq!(third.status, Status::Expired, "two calls are spent");
    let bucket = context.get_key_value("AI_ACCOUNTS").await.expect("there");
    let junk = bucket.entry("junk").await.expect("read");
    assert!(
        junk.is_none_or(|junk| junk.value.is_empty()),
        "it is deleted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_does_not_count_after_another_data_directory_wrote() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let context = jetstream::new(team.clone());
    let limits = "{ requests = 2, per = \"1h\" }";
    let stopped = Forebay::limited(&provider, limits)
        .nats(&address)
        .start()
        .await
        .stop()
        .await;
    let other = Forebay::limited(&provider, limits)
        .nats(&address)
        .start()
        .await;
    other.stop().await;
    let subject = "$KV.AI_ACCOUNTS.one";
    aim(&team, subject).await;
    until_tagged(&context, "AI_ACCOUNTS", subject, false).await;
    let forebay = stopped.start().await;
    let shown = accounts(&forebay).await;
    assert!(shown.accounts[0].has_unknown_state, "{shown:?}");
    assert_eq!(shown.accounts[0].keys[0].state, "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_of_a_replaced_or_lost_order_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let context = jetstream::new(team.clone());
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    let paused = PauseTarget::Pool("chat".to_owned());
    let _: OrdersReply = control(&forebay, "pause", &paused).await.expect("paused");
    let stream = Names::key_value_stream("AI_CONTROLS");
    let found = context.get_stream(&stream).await.expect("there");
    let order = found.get_raw_message(1).await.expect("the order").subject;
    aim(&team, &order).await;
    until_tagged(&context, "AI_CONTROLS", &order, false).await;
    // A worker that runs puts its order back, so that any other worker finds it.
    until_tagged(&context, "AI_CONTROLS", &order, true).await;

    let stopped = forebay.stop().await;
    aim(&team, &order).await;
    until_tagged(&context, "AI_CONTROLS", &order, false).await;
    let forebay = stopped.start().await;
    let queues: QueuesReport = control(&forebay, "queues", &()).await.expect("queues");
    assert_eq!(queues.paused, std::slice::from_ref(&paused));

    let stopped = forebay.stop().await;
    context.delete_stream(&stream).await.expect("deleted");
    let forebay = stopped.start().await;
    let queues: QueuesReport = control(&forebay, "queues", &()).await.expect("queues");
    assert_eq!(queues.paused, std::slice::from_ref(&paused));
    let _: OrdersReply = control(&forebay, "resume", &paused).await.expect("resumed");
    let forebay = forebay.restart().await;
    let queues: QueuesReport = control(&forebay, "queues", &()).await.expect("queues");
    assert!(
        queues.paused.is_empty(),
        "what is resumed does not come back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_messages_among_scheduled_jobs_are_deleted_at_the_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address, team) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ concurrent = 8 }")
        .nats(&address)
        .start()
        .await;
    let context = forebay.connection.context.clone();
    // A start that is still reading would delete the first of them.
    let stopped = forebay.stop().await;
    for subject in [
        "ai.scheduled.good._.x",
        "ai.scheduled.good._.x.0123456789abcdef",
        "ai.attempts.good._.x",
    ] {
        aim(&team, subject).await;
    }
    let foreign = async || {
        let mut messages = 0;
        for stream in ["AI_SCHEDULED", "AI_ATTEMPTS"] {
            let stream = context.get_stream(stream).await.expect("there");
            messages += stream.cached_info().state.messages;
        }
        messages
    };
    until("three foreign messages", async || foreign().await == 3).await;
    let _forebay = stopped.start().await;
    until("no foreign message", async || foreign().await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_settings_the_server_lost_keeps_what_forebay_wrote() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ requests = 1, per = \"1h\" }")
        .start()
        .await;
    forebay.publish("ai.jobs.chat", &chat("a", "hello")).await;
    forebay.completion("default", None, "a").await;
    let mut later = chat("later", "hello");
    let in_seconds = |seconds| (SystemClock.now() + Duration::from_secs(seconds)).to_string();
    later["not_before"] = in_seconds(8).into();
    later["deadline"] = in_seconds(9).into();
    forebay.publish("ai.jobs.chat", &later).await;
    until("the job is scheduled", async || {
        forebay.count("AI_SCHEDULED".to_owned()).await == 1
    })
    .await;
    let stopped = forebay.stop().await;
    for stream in ["KV_AI_ACCOUNTS", "AI_SCHEDULED"] {
        let settings = format!("data/nats/store/jetstream/$G/streams/{stream}/meta.inf");
        let path = stopped.dir().join(settings);
        std::fs::remove_file(path).expect("it is there");
    }

    let forebay = stopped.start().await;
    let shown = accounts(&forebay).await;
    assert!(!shown.accounts[0].has_unknown_state, "{shown:?}");
    assert_eq!(shown.accounts[0].keys[0].state, "ready", "{shown:?}");
    let late = forebay.completion("default", None, "later").await;
    assert_eq!(late.status, Status::Expired, "the one call is spent");
}
