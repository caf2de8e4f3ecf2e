//! What operators order: pausing, and cancelling.

use std::time::Duration;

use forebay::control::messages::{CancelReply, OrdersReply, QueuesReport};
use forebay_schemas::{Class, Completion, Status};
use forebay_simulator::Provider;
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::{CancelledJobs, PauseTarget};
use serde_json::{Value, json};

use crate::support::{
    Account, Forebay, answer_text, chat, control, provider, until, wait_for_calls,
};

/// Pools `chat` and `other`, each over an account of its own at one provider.
async fn two_pools(faults: &str) -> (Forebay, Provider) {
    let provider = provider(&["name=one,key=sk-one", "name=two,key=sk-two"], faults).await;
    let forebay = Forebay::builder()
        .account(Account::at("one", &provider))
        .account(Account::at("two", &provider))
        .pool("chat", "gpt-4o-mini", &["one"])
        .pool("other", "gpt-4o-mini", &["two"])
        .start()
        .await;
    (forebay, provider)
}

async fn pause(forebay: &Forebay, what: &PauseTarget) -> Result<OrdersReply, String> {
    control(forebay, "pause", what).await
}

async fn cancel(forebay: &Forebay, batch: Option<&str>, id: Option<&str>) -> CancelReply {
    let (batch, id) = (batch.map(str::to_owned), id.map(str::to_owned));
    control(
        forebay,
        "cancel",
        &CancelledJobs {
            team: "default".to_owned(),
            batch,
            id,
        },
    )
    .await
    .expect("cancelled")
}

fn of_batch(id: &str, batch: &str) -> Value {
    let mut job = chat(id, "hello");
    job["batch"] = json!(batch);
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_target_gets_no_call_until_it_is_resumed_even_over_a_restart() {
    let (mut forebay, provider) = two_pools("").await;
    let kinds = [
        PauseTarget::Pool("chat".to_owned()),
        PauseTarget::Account("one".to_owned()),
        PauseTarget::Team("acme".to_owned()),
    ];
    for (index, what) in kinds.into_iter().enumerate() {
        let calls = provider.calls().len();
        assert_eq!(
            pause(&forebay, &what).await.expect("paused").paused,
            std::slice::from_ref(&what)
        );
        let (waits, goes) = (format!("waits-{index}"), format!("goes-{index}"));
        forebay
            .publish("ai.jobs.chat.acme", &chat(&waits, "hello"))
            .await;
        forebay
            .publish("ai.jobs.other", &chat(&goes, "hello"))
            .await;
        assert_eq!(
            answer_text(&forebay.completion("default", None, &goes).await),
            "You said: hello"
        );
        forebay = forebay.restart().await;
        let again = format!("{goes}-again");
        forebay
            .publish("ai.jobs.other", &chat(&again, "hello"))
            .await;
        assert_eq!(
            answer_text(&forebay.completion("default", None, &again).await),
            "You said: hello"
        );
        assert_eq!(provider.calls().len(), calls + 2, "{what:?}");
        let queues: QueuesReport = control(&forebay, "queues", &()).await.expect("queues");
        assert_eq!(queues.paused, std::slice::from_ref(&what));
        let reply: OrdersReply = control(&forebay, "resume", &what).await.expect("resumed");
        assert!(reply.paused.is_empty());
        assert_eq!(
            answer_text(&forebay.completion("acme", None, &waits).await),
            "You said: hello"
        );
    }
    for (what, problem) in [
        (
            PauseTarget::Pool("gpt".to_owned()),
            "there is no pool `gpt`",
        ),
        (
            PauseTarget::Account("three".to_owned()),
            "there is no account `three`",
        ),
        (
            PauseTarget::Team("a b".to_owned()),
            "there is no team `a b`",
        ),
    ] {
        assert_eq!(pause(&forebay, &what).await.expect_err("unknown"), problem);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_ends_at_once_and_can_be_published_again() {
    let (forebay, provider) = two_pools("").await;
    pause(&forebay, &PauseTarget::Pool("chat".to_owned()))
        .await
        .expect("paused");
    for id in ["waits-1", "waits-2"] {
        forebay.publish("ai.jobs.chat", &of_batch(id, "b")).await;
    }
    forebay
        .publish("ai.jobs.chat", &of_batch("beside", "c"))
        .await;
    let mut later = of_batch("later", "b");
    let hour = SystemClock
        .now()
        .checked_add(Duration::from_secs(3_600))
        .expect("soon");
    later["not_before"] = json!(hour.to_string());
    forebay.publish("ai.jobs.other", &later).await;
    forebay.scheduled("ai.scheduled.default.b.later").await;
    assert_eq!(cancel(&forebay, Some("b"), None).await.rescheduled, 1);
    let ended = async |forebay: &Forebay, id| -> Completion {
        forebay.completion("default", Some("b"), id).await
    };
    for id in ["waits-1", "waits-2", "later"] {
        let completion = ended(&forebay, id).await;
        assert_eq!(completion.status, Status::Cancelled, "{id}");
        assert_eq!(
            completion.error.map(|error| error.class),
            Some(Class::Cancelled)
        );
    }
    assert!(provider.calls().is_empty());

    // What is published after it is not cancelled, over a restart too.
    let forebay = forebay.restart().await;
    let _: OrdersReply = control(&forebay, "resume", &PauseTarget::Pool("chat".to_owned()))
        .await
        .expect("resumed");
    forebay
        .publish("ai.jobs.chat", &of_batch("waits-1", "b"))
        .await;
    assert_eq!(
        answer_text(&forebay.completion("default", Some("c"), "beside").await),
        "You said: hello"
    );
    forebay.drained().await;
    let request = json!({ "team": "default", "batch": "b", "id": "waits-1" });
    let again: Option<Completion> = control(&forebay, "results", &request)
        .await
        .expect("an answer");
    let again = again.expect("a result");
    assert_eq!(
        (again.revision, answer_text(&again).as_str()),
        (2, "You said: hello")
    );
    assert_eq!(provider.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_cancelled_during_an_attempt_is_not_tried_again() {
    let (forebay, provider) = two_pools("overloaded=1").await;
    forebay.publish("ai.jobs.chat", &chat("one", "hello")).await;
    wait_for_calls(&provider, 1).await;
    cancel(&forebay, None, Some("one")).await;
    let completion = forebay.completion("default", None, "one").await;
    assert_eq!(completion.status, Status::Cancelled);
    assert_eq!(completion.attempts.len(), provider.calls().len());
    assert_eq!(completion.attempts[0].outcome, "overloaded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_published_again_while_its_cancelled_predecessor_waits_is_called() {
    let (forebay, provider) = two_pools("").await;
    let what = PauseTarget::Pool("chat".to_owned());
    pause(&forebay, &what).await.expect("paused");
    forebay
        .publish("ai.jobs.chat", &chat("again", "hello"))
        .await;
    // It follows the first one, which is not ended yet, or finds it cancelled: either way it is a new request.
    let (_, ()) = tokio::join!(cancel(&forebay, None, Some("again")), async {
        for _ in 0..20 {
            forebay
                .publish("ai.jobs.chat", &chat("again", "hello"))
                .await;
        }
    });
    forebay
        .publish("ai.jobs.chat", &chat("again", "hello"))
        .await;
    let _: OrdersReply = control(&forebay, "resume", &what).await.expect("resumed");
    forebay.drained().await;
    let request = json!({ "team": "default", "batch": null, "id": "again" });
    let stored: Option<Completion> = control(&forebay, "results", &request)
        .await
        .expect("an answer");
    assert_eq!(answer_text(&stored.expect("a result")), "You said: hello");
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_bucket_is_made_again_with_its_orders_and_states() {
    let (forebay, provider) = two_pools("").await;
    let names = forebay.connection.names.clone();
    let paused = PauseTarget::Pool("chat".to_owned());
    pause(&forebay, &paused).await.expect("paused");
    forebay
        .publish("ai.jobs.other", &chat("before", "hello"))
        .await;
    forebay.completion("default", None, "before").await;
    let buckets = [names.controls_bucket(), names.accounts_bucket()];
    let streams = buckets.map(|bucket| forebay_schemas::Names::key_value_stream(&bucket));
    for stream in &streams {
        let context = &forebay.connection.context;
        context.delete_stream(stream).await.expect("deleted");
    }
    for stream in &streams {
        until("a bucket with its values", async || {
            let found = forebay.connection.context.get_stream(stream).await;
            found.is_ok_and(|found| found.cached_info().state.messages > 0)
        })
        .await;
    }
    let forebay = forebay.restart().await;
    let queues: QueuesReport = control(&forebay, "queues", &()).await.expect("queues");
    assert_eq!(queues.paused, [paused]);
    assert_eq!(provider.calls().len(), 1);
}
