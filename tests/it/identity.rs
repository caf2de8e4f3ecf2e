//! One call, one completion and one stored result per identity.

use std::time::Duration;

use forebay::nats::streams;
use forebay_schemas::{Completion, Flow, Format, Identity, Lane, Names, Status};
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::queue::jetstream::JetStreamQueue;
use forebay_workers::queue::{PostponedJob, PostponedState, Queue};
use futures::StreamExt;
use serde_json::json;

use crate::support::{Account, Forebay, answer_text, chat, eventually, next_copy, provider, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_publish_joins_the_job_or_gets_its_stored_answer() {
    let (forebay, provider) = Forebay::simple().await;
    let mut inbox = forebay
        .connection
        .client
        .subscribe("_INBOX.again")
        .await
        .expect("subscribed");
    for _ in 0..20 {
        let mut job = chat("same", "hello");
        job["reply_to"] = json!("_INBOX.again");
        forebay.publish("ai.jobs.chat", &job).await;
    }
    forebay.drained().await;
    forebay
        .publish("ai.jobs.chat", &chat("same", "hello"))
        .await;
    forebay.drained().await;
    assert_eq!(provider.calls().len(), 1, "one call for 21 publishes");
    assert_eq!(
        forebay
            .count(forebay.connection.names.completions_stream())
            .await,
        1
    );
    let copy = next_copy(&mut inbox).await;
    assert_eq!(answer_text(&copy), "You said: hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_under_a_used_id_is_an_id_conflict() {
    let (forebay, provider) = Forebay::simple().await;
    forebay
        .publish("ai.jobs.chat", &chat("used", "first"))
        .await;
    assert_eq!(
        answer_text(&forebay.completion("default", None, "used").await),
        "You said: first"
    );
    let mut inbox = forebay
        .connection
        .client
        .subscribe("_INBOX.conflict")
        .await
        .expect("subscribed");
    let mut other = chat("used", "second");
    other["reply_to"] = json!("_INBOX.conflict");
    forebay.publish("ai.jobs.chat", &other).await;
    let copy = next_copy(&mut inbox).await;
    assert_eq!(
        (copy.status, copy.error.expect("an error").code.as_str()),
        (Status::Failed, "id_conflict")
    );
    forebay.drained().await;
    assert_eq!(provider.calls().len(), 1);
    let names = &forebay.connection.names;
    let rejection = names.rejection("default", None, "used");
    assert_eq!(rejection, "ai.completions.default._.used.rejected");
    let told = forebay
        .message(names.completions_stream(), &rejection)
        .await;
    let told: Completion = serde_json::from_slice(&told.payload).expect("a completion");
    assert_eq!(told.error.expect("an error").code, "id_conflict");
    let own = forebay.completion("default", None, "used").await;
    assert_eq!(answer_text(&own), "You said: first", "it stays");
    let letter = forebay
        .message(names.dead_stream(), "ai.dead.chat.default")
        .await;
    assert_eq!(letter.payload, other.to_string().as_bytes());
    assert_eq!(
        answer_text(&forebay.completion("default", None, "used").await),
        "You said: first"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_in_another_team_or_batch_is_another_job() {
    let (forebay, provider) = Forebay::simple().await;
    forebay.publish("ai.jobs.chat", &chat("1", "alone")).await;
    forebay
        .publish("ai.jobs.chat.acme", &chat("1", "of a team"))
        .await;
    let mut of_batch = chat("1", "of a batch");
    of_batch["batch"] = json!("b");
    forebay.publish("ai.jobs.chat", &of_batch).await;
    assert_eq!(
        answer_text(&forebay.completion("default", None, "1").await),
        "You said: alone"
    );
    assert_eq!(
        answer_text(&forebay.completion("acme", None, "1").await),
        "You said: of a team"
    );
    assert_eq!(
        answer_text(&forebay.completion("default", Some("b"), "1").await),
        "You said: of a batch"
    );
    assert_eq!(provider.calls().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_answered_before_a_restart_is_not_called_again() {
    let (forebay, provider) = Forebay::simple().await;
    forebay
        .publish("ai.jobs.chat", &chat("kept", "hello"))
        .await;
    forebay.completion("default", None, "kept").await;
    forebay.drained().await;
    let forebay = forebay.restart().await;
    forebay
        .publish("ai.jobs.chat", &chat("kept", "hello"))
        .await;
    forebay.drained().await;
    assert_eq!(provider.calls().len(), 1);
    assert_eq!(
        forebay
            .count(forebay.connection.names.completions_stream())
            .await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_with_similar_names_keep_their_jobs_apart() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::builder()
        .account(Account::at("one", &provider))
        .pool("gpt-4o", "gpt-4o", &["one"])
        .pool("gpt-4o-mini", "gpt-4o-mini", &["one"])
        .start()
        .await;
    for round in 0..3 {
        let id = format!("r-{round}");
        forebay
            .publish("ai.jobs.gpt-4o.mini-x", &chat(&id, "of mini-x"))
            .await;
        forebay
            .publish("ai.jobs.gpt-4o-mini.x", &chat(&id, "of x"))
            .await;
        assert_eq!(
            answer_text(&forebay.completion("mini-x", None, &id).await),
            "You said: of mini-x"
        );
        assert_eq!(
            answer_text(&forebay.completion("x", None, &id).await),
            "You said: of x"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_on_a_completions_subject_is_replaced_by_the_completion() {
    let (forebay, _provider) = Forebay::simple().await;
    forebay
        .publish_bytes(
            "ai.completions.default._.taken",
            b"junk".to_vec(),
            async_nats::HeaderMap::new(),
        )
        .await;
    forebay
        .publish("ai.jobs.chat", &chat("taken", "hello"))
        .await;
    forebay.drained().await;
    let stream = forebay
        .connection
        .context
        .get_stream("AI_COMPLETIONS")
        .await
        .expect("the stream");
    let last = stream
        .direct_get_last_for_subject("ai.completions.default._.taken")
        .await
        .expect("a message");
    let completion = serde_json::from_slice(&last.payload).expect("a completion");
    assert_eq!(answer_text(&completion), "You said: hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_store_another_request_does_not_get_the_first_ones_answer() {
    let (forebay, _provider) = Forebay::simple().await;
    forebay
        .publish("ai.jobs.chat", &chat("lost", "first"))
        .await;
    forebay.drained().await;
    let stopped = forebay.stop().await;
    std::fs::remove_dir_all(stopped.dir().join("data/results")).expect("deleted");
    let forebay = stopped.start().await;
    let mut inbox = forebay
        .connection
        .client
        .subscribe("_INBOX.lost")
        .await
        .expect("subscribed");
    let mut other = chat("lost", "second");
    other["reply_to"] = json!("_INBOX.lost");
    forebay.publish("ai.jobs.chat", &other).await;
    let copy = next_copy(&mut inbox).await;
    assert_eq!(copy.error.expect("an error").code, "id_conflict");
    forebay
        .publish("ai.jobs.chat", &chat("lost", "first"))
        .await;
    forebay.drained().await;
    assert_eq!(
        answer_text(&forebay.completion("default", None, "lost").await),
        "You said: first"
    );
}

/// The completion of this revision, whenever it comes.
async fn revision(forebay: &Forebay, id: &str, wanted: u32) -> Completion {
    let stream = forebay
        .connection
        .context
        .get_stream("AI_COMPLETIONS")
        .await
        .expect("the stream");
    eventually("the next revision", async || {
        let subject = format!("ai.completions.default._.{id}");
        let last = stream.direct_get_last_for_subject(subject).await.ok()?;
        let found: Completion = serde_json::from_slice(&last.payload).expect("a completion");
        (found.revision == wanted).then_some(found)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_job_can_be_corrected_under_the_same_id() {
    let (forebay, provider) = Forebay::simple().await;
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut job = chat("again", "hello");
        change(&mut job);
        job
    };
    let refusals = [
        ("invalid_job", with(&|job| job["body"] = json!("no object"))),
        (
            "unknown_model",
            with(&|job| job["body"]["model"] = json!("gpt-9")),
        ),
        (
            "expired",
            with(&|job| job["deadline"] = json!("2020-01-01T00:00:00Z")),
        ),
    ];
    for (before, (code, job)) in (0..).zip(&refusals) {
        forebay.publish("ai.jobs.chat", job).await;
        let refused = revision(&forebay, "again", before + 1).await;
        assert_eq!(refused.error.expect("an error").code, *code);
    }
    assert!(provider.calls().is_empty());
    let right = with(&|_| {});
    forebay.publish("ai.jobs.chat", &right).await;
    assert_eq!(
        answer_text(&revision(&forebay, "again", 4).await),
        "You said: hello"
    );

    // From here on it is answered: the same again gives the same, another is a conflict.
    forebay.publish("ai.jobs.chat", &right).await;
    forebay
        .publish("ai.jobs.chat", &chat("again", "something else"))
        .await;
    forebay.drained().await;
    let names = &forebay.connection.names;
    assert_eq!(
        (
            forebay.count(names.completions_stream()).await,
            provider.calls().len()
        ),
        (4 + 1, 1),
        "the conflict is told beside the four"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_store_a_corrected_job_gets_the_next_revision() {
    let (forebay, _provider) = Forebay::simple().await;
    let mut wrong = chat("lost", "hello");
    wrong["body"]["model"] = json!("gpt-9");
    forebay.publish("ai.jobs.chat", &wrong).await;
    forebay.drained().await;
    let stopped = forebay.stop().await;
    std::fs::remove_dir_all(stopped.dir().join("data/results")).expect("deleted");
    let forebay = stopped.start().await;
    forebay
        .publish("ai.jobs.chat", &chat("lost", "hello"))
        .await;
    assert_eq!(
        answer_text(&revision(&forebay, "lost", 2).await),
        "You said: hello"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_job_that_comes_while_the_refused_one_ends_is_called() {
    let (forebay, provider) = Forebay::simple().await;
    for round in 0..20 {
        let id = format!("mended-{round}");
        let mut wrong = chat(&id, "hello");
        wrong["body"]["model"] = json!("gpt-9");
        forebay.publish("ai.jobs.chat", &wrong).await;
        forebay.publish("ai.jobs.chat", &chat(&id, "hello")).await;
        assert_eq!(
            answer_text(&revision(&forebay, &id, 2).await),
            "You said: hello"
        );
    }
    forebay.drained().await;
    assert_eq!(provider.calls().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_expire_with_an_earlier_one_of_the_same_id() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ requests = 1, per = \"3s\" }")
        .start()
        .await;
    forebay
        .publish("ai.jobs.chat", &chat("first", "hello"))
        .await;
    forebay.completion("default", None, "first").await;
    let mut hurried = chat("same", "hello");
    hurried["deadline"] = json!(
        SystemClock
            .now()
            .checked_add(Duration::from_secs(1))
            .expect("soon")
            .to_string()
    );
    forebay.publish("ai.jobs.chat", &hurried).await;
    forebay
        .publish("ai.jobs.chat", &chat("same", "hello"))
        .await;
    let expired = forebay.completion("default", None, "same").await;
    assert_eq!(expired.status, Status::Expired);
    assert_eq!(
        answer_text(&revision(&forebay, "same", 2).await),
        "You said: hello"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_publishes_of_a_job_that_expires_end_with_it() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let limits = "{ requests = 1, per = \"1h\" }, { requests = 100, per = \"1s\" }";
    let forebay = Forebay::limited(&provider, limits).start().await;
    forebay
        .publish("ai.jobs.chat", &chat("first", "hello"))
        .await;
    forebay.completion("default", None, "first").await;
    let mut hurried = chat("same", "hello");
    hurried["deadline"] = json!(
        SystemClock
            .now()
            .checked_add(Duration::from_secs(3))
            .expect("soon")
            .to_string()
    );
    for _ in 0..100 {
        forebay.publish("ai.jobs.chat", &hurried).await;
    }
    forebay.drained().await;
    assert_eq!(revision(&forebay, "same", 1).await.status, Status::Expired);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_under_the_id_of_a_scheduled_job_is_an_id_conflict() {
    let (forebay, provider) = Forebay::simple().await;
    let mut inbox = forebay
        .connection
        .client
        .subscribe("_INBOX.later")
        .await
        .expect("subscribed");
    let later = |text: &str| {
        let at = SystemClock
            .now()
            .checked_add(Duration::from_secs(8))
            .expect("soon");
        let mut job = chat("later", text);
        job["not_before"] = json!(at.to_string());
        job
    };
    forebay.publish("ai.jobs.chat", &later("first")).await;
    forebay.scheduled("ai.scheduled.default._.later").await;
    let mut other = later("second");
    other["reply_to"] = json!("_INBOX.later");
    forebay.publish("ai.jobs.chat", &other).await;
    let copy = next_copy(&mut inbox).await;
    assert_eq!(copy.error.expect("an error").code, "id_conflict");
    assert_eq!(
        answer_text(&forebay.completion("default", None, "later").await),
        "You said: first"
    );
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_requests_scheduled_under_one_id_at_once_only_one_waits() {
    let (forebay, _provider) = Forebay::simple().await;
    let connection = &forebay.connection;
    let names = Names::new("other").expect("a name");
    let sizes = Forebay::builder().parse().streams;
    streams::establish(&connection.context, &names, &sizes, &connection.secrets)
        .await
        .expect("established");
    let queue = JetStreamQueue::new(connection.client.clone(), names);
    let at = SystemClock
        .now()
        .checked_add(Duration::from_secs(600))
        .expect("soon");
    for round in 0..30 {
        let job = |request: &str| PostponedJob {
            object: None,
            flow: Flow {
                pool: "p".to_owned(),
                team: "t".to_owned(),
                lane: Lane::Bulk,
            },
            identity: Identity {
                team: "t".to_owned(),
                batch: None,
                id: round.to_string(),
            },
            at,
            state: PostponedState {
                id: round.to_string(),
                fingerprint: request.to_owned(),
                revision: 1,
                published: at,
                attempts: Vec::new(),
                counted: 0,
                replies: Vec::new(),
                format: Format::Two,
            },
            payload: "{}".into(),
            traceparent: None,
        };
        let (one, two) = tokio::join!(queue.postpone(job("one")), queue.postpone(job("two")));
        let waits = [one, two]
            .into_iter()
            .filter(|postponed| matches!(postponed, Ok(true)))
            .count();
        assert_eq!(
            waits, 1,
            "round {round}: the other is a conflict, or is tried again"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_revision_that_is_asked_for_right_after_a_failure_is_called() {
    let (forebay, provider) = Forebay::simple().await;
    let mut live = forebay
        .connection
        .client
        .subscribe("ai.completions.>")
        .await
        .expect("subscribed");
    let bad = |id: &str| json!({ "id": id, "body": { "messages": [] } });
    let ids: Vec<_> = (0..20).map(|id| id.to_string()).collect();
    for id in &ids {
        forebay.publish("ai.jobs.chat", &bad(id)).await;
    }
    let mut answers = 0;
    while answers < 2 * ids.len() {
        let message = soon("a completion", live.next()).await.expect("open");
        let completion: Completion =
            serde_json::from_slice(&message.payload).expect("a completion");
        answers += 1;
        if completion.revision == 1 {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Forebay-Revision", "2");
            forebay
                .publish_with("ai.jobs.chat", &bad(&completion.id), headers)
                .await;
        }
    }
    forebay.drained().await;
    assert_eq!(provider.calls().len(), 2 * ids.len());
    // A failed request may be corrected in a later revision. Once it is answered, another request is a conflict in any
    // revision, and no number is too large.
    for (text, revision) in [("another", "3"), ("hello", "4294967295"), ("hello", "-1")] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Forebay-Revision", revision);
        forebay
            .publish_with("ai.jobs.chat", &chat(&ids[0], text), headers)
            .await;
    }
    forebay.drained().await;
    assert_eq!(
        provider.calls().len(),
        2 * ids.len() + 1,
        "the others are conflicts"
    );
}
