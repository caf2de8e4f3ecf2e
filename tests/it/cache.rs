//! Identical jobs of a team: one call for those under way together, and answers that serve again.

use std::collections::BTreeSet;

use forebay_schemas::{Completion, Status};
use forebay_workers::clock::{Clock as _, SystemClock};
use forebay_workers::{CancelledJobs, PauseTarget};
use serde_json::{Value, json};

use crate::program::{Serve, run};
use crate::support::{Forebay, answer_text, chat, control, provider, until, wait_for_calls};

/// A Forebay whose pool `chat` says what may be cached.
async fn forebay(cache: &str) -> (Forebay, forebay_simulator::Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let chat = format!("[pool.chat]\n{cache}");
    (
        Forebay::calling(&provider).config(&chat).start().await,
        provider,
    )
}

async fn ask(forebay: &Forebay, subject: &str, job: &Value) -> Completion {
    forebay.publish(subject, job).await;
    let team = subject.split('.').nth(3).unwrap_or("default");
    forebay
        .completion(team, None, job["id"].as_str().expect("an id"))
        .await
}

fn with(mut job: Value, field: &str, value: Value) -> Value {
    job[field] = value;
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_answer_serves_identical_jobs_of_its_team_and_names_its_origin() {
    let (forebay, provider) = forebay("cache = \"1h\"\n").await;
    let first = ask(&forebay, "ai.jobs.chat", &chat("first", "hello")).await;
    assert_eq!(
        (first.cached_from.as_ref(), first.attempts.len()),
        (None, 1)
    );
    let again = with(chat("again", "hello"), "metadata", json!({ "mine": 1 }));
    let again = ask(&forebay, "ai.jobs.chat", &again).await;
    let from = again.cached_from.as_ref().expect("another's");
    assert_eq!(
        (from.id.as_str(), from.called_at),
        ("first", first.attempts[0].started_at)
    );
    assert_eq!(
        (answer_text(&again), &again.answered_by),
        (answer_text(&first), &first.answered_by)
    );
    assert_eq!((again.attempts.len(), again.usage), (0, None));
    assert_eq!(again.cost.as_ref().expect("known").amount, "0");
    assert_eq!(again.metadata.as_ref().expect("its own")["mine"].get(), "1");
    // Of an answer from the cache, the age is that of its call.
    let third = ask(
        &forebay,
        "ai.jobs.chat.default.bulk",
        &chat("third", "hello"),
    )
    .await;
    assert_eq!(third.cached_from.expect("another's").id, "first");
    for (subject, job) in [
        ("ai.jobs.chat", chat("other", "hello!")),
        ("ai.jobs.chat.acme", chat("theirs", "hello")),
        (
            "ai.jobs.chat",
            with(chat("off", "hello"), "cache", "off".into()),
        ),
        (
            "ai.jobs.chat",
            with(chat("older", "hello"), "cache", "coalesce".into()),
        ),
    ] {
        let completion = ask(&forebay, subject, &job).await;
        assert_eq!(
            (completion.status, completion.cached_from),
            (Status::Succeeded, None),
            "{job}"
        );
    }
    assert_eq!(provider.calls().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_reused_unless_the_job_or_its_pool_asks_for_it() {
    let (forebay, provider) = forebay("").await;
    for (id, cache) in [
        ("a", Value::Null),
        ("b", "1h".into()),
        ("c", Value::Null),
        ("d", "1h".into()),
    ] {
        let completion = ask(
            &forebay,
            "ai.jobs.chat",
            &with(chat(id, "hello"), "cache", cache),
        )
        .await;
        assert_eq!(
            completion.cached_from.is_some(),
            id == "d",
            "{completion:?}"
        );
    }
    assert_eq!(provider.calls().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_jobs_in_flight_share_one_call() {
    let (forebay, provider) = forebay("cache = \"coalesce\"\n").await;
    let chats = PauseTarget::Pool("chat".to_owned());
    control::<Value>(&forebay, "pause", &chats)
        .await
        .expect("paused");
    for index in 0..20 {
        let job = chat(&format!("s-{index}"), "hello");
        forebay.publish("ai.jobs.chat", &job).await;
    }
    forebay
        .publish("ai.jobs.chat", &chat("another", "good day"))
        .await;
    until("all to be here", async || {
        forebay.worker().snapshot().prefetched >= 21
    })
    .await;
    // The first of them is the one that would be called.
    for id in ["s-0", "s-7"] {
        let what = CancelledJobs {
            team: "default".to_owned(),
            batch: None,
            id: Some(id.to_owned()),
        };
        control::<Value>(&forebay, "cancel", &what)
            .await
            .expect("cancelled");
        assert_eq!(
            forebay.completion("default", None, id).await.status,
            Status::Cancelled
        );
    }
    control::<Value>(&forebay, "resume", &chats)
        .await
        .expect("resumed");
    let mut leaders = BTreeSet::new();
    for index in (1..20).filter(|index| *index != 7) {
        let completion = forebay
            .completion("default", None, &format!("s-{index}"))
            .await;
        assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
        assert!(answer_text(&completion).contains("hello"));
        leaders.insert(completion.cached_from.map_or(completion.id, |from| from.id));
    }
    assert_eq!(leaders.len(), 1, "{leaders:?}");
    forebay.completion("default", None, "another").await;
    assert_eq!(provider.calls().len(), 2);
    // It was not kept.
    assert_eq!(
        ask(&forebay, "ai.jobs.chat", &chat("later", "hello"))
            .await
            .cached_from,
        None
    );
    forebay.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_not_cached() {
    let (forebay, provider) = forebay("cache = \"1h\"\n").await;
    let body = json!({ "messages": [] });
    for id in ["a", "b", "c"] {
        let completion = ask(&forebay, "ai.jobs.chat", &json!({ "id": id, "body": body })).await;
        assert_eq!(
            (completion.status, completion.cached_from),
            (Status::Failed, None),
            "{id}"
        );
    }
    assert_eq!(provider.calls().len(), 3);
    forebay.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_answer_survives_a_restart() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::calling(&provider)
        .config("[pool.chat]\ncache = \"1h\"\n")
        .write();
    for id in ["one", "two"] {
        let serve = Serve::start(dir.path()).await;
        let line = json!({ "custom_id": id, "body": chat(id, "hello")["body"] });
        std::fs::write(dir.path().join("in.jsonl"), line.to_string()).expect("written");
        let output = format!("{id}.jsonl");
        let done = run(
            dir.path(),
            &["run", "in.jsonl", "--output", &output, "--pool", "chat"],
        )
        .await;
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(serve.terminate().await.0.success());
    }
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_shared_call_fails_each_job_that_waited_for_it_is_called() {
    let (forebay, provider) = forebay("cache = \"coalesce\"\n").await;
    let chats = PauseTarget::Pool("chat".to_owned());
    control::<Value>(&forebay, "pause", &chats)
        .await
        .expect("paused");
    for index in 0..50 {
        forebay
            .publish(
                "ai.jobs.chat",
                &json!({ "id": format!("f-{index}"), "body": { "messages": [] } }),
            )
            .await;
    }
    until("all to be here", async || {
        forebay.worker().snapshot().prefetched >= 50
    })
    .await;
    control::<Value>(&forebay, "resume", &chats)
        .await
        .expect("resumed");
    for index in 0..50 {
        let completion = forebay
            .completion("default", None, &format!("f-{index}"))
            .await;
        assert_eq!(completion.status, Status::Failed);
    }
    assert_eq!(
        provider.calls().len(),
        50,
        "each was asked itself, since nothing was shared"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_now_does_not_wait_for_identical_jobs_scheduled_later() {
    let (forebay, provider) = forebay("cache = \"1h\"\n").await;
    let later = SystemClock.now() + jiff::SignedDuration::from_hours(1);
    for index in 0..20 {
        let job = with(
            chat(&format!("later-{index}"), "hello"),
            "not_before",
            later.to_string().into(),
        );
        forebay.publish("ai.jobs.chat", &job).await;
    }
    let now = ask(&forebay, "ai.jobs.chat", &chat("now", "hello")).await;
    assert_eq!((now.status, now.cached_from), (Status::Succeeded, None));
    // What is kept serves nobody before its time.
    forebay.drained().await;
    assert_eq!(
        forebay
            .count(forebay.connection.names.scheduled_stream())
            .await,
        20
    );
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interactive_job_does_not_wait_for_an_identical_bulk_job() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ requests = 5, per = \"1s\" }")
        .config("[pool.chat]\ncache = \"coalesce\"\n")
        .start()
        .await;
    for index in 0..30 {
        forebay
            .publish(
                "ai.jobs.chat.default.bulk",
                &chat(&format!("b-{index}"), &format!("bulk {index}")),
            )
            .await;
    }
    // The same as the last of them.
    let urgent = ask(
        &forebay,
        "ai.jobs.chat.default.interactive",
        &chat("urgent", "bulk 29"),
    )
    .await;
    assert_eq!(
        (urgent.status, urgent.cached_from),
        (Status::Succeeded, None)
    );
    assert!(
        provider.calls().len() < 20,
        "{} calls before it",
        provider.calls().len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_answer_of_one_pool_does_not_serve_another() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .pool("good", "fail-server_error", &["one"])
        .config("[pool.chat]\ncache = \"1h\"\n[pool.good]\ncache = \"1h\"\n")
        .config("[call]\nattempts = 1\npatience = { normal = \"1ms\" }\n")
        .start()
        .await;
    let failed = ask(&forebay, "ai.jobs.good", &chat("x", "hello")).await;
    assert_eq!(failed.status, Status::Failed);
    // Its letter is there before it is acknowledged.
    forebay.drained().await;
    let replay = json!({ "sequence": 1, "pool": "chat" });
    let _: Value = control(&forebay, "dead.replay", &replay)
        .await
        .expect("replayed");
    wait_for_calls(&provider, 2).await;
    forebay.drained().await;
    let asked_in_good = ask(&forebay, "ai.jobs.good", &chat("y", "hello")).await;
    assert_eq!(
        (asked_in_good.status, asked_in_good.cached_from),
        (Status::Failed, None)
    );
}
