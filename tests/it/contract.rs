//! Jobs in, completions out, as the contract has them.

use async_nats::HeaderMap;
use forebay_schemas::{Class, Lane, Status};
use forebay_workers::clock::{Clock, SystemClock};
use serde_json::json;

use crate::support::{Forebay, answer_text, chat, next_copy};

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_subject_gets_one_completion_on_its_own_subject() {
    let (forebay, provider) = Forebay::simple().await;
    let forms = [
        ("ai.jobs.chat", "default", Lane::Normal),
        ("ai.jobs.chat.acme", "acme", Lane::Normal),
        ("ai.jobs.chat.acme.bulk", "acme", Lane::Bulk),
        ("ai.jobs.chat.other.interactive", "other", Lane::Interactive),
    ];
    for (index, (subject, team, lane)) in forms.into_iter().enumerate() {
        let id = format!("job {index}.*");
        let mut job = chat(&id, &format!("hello {index}"));
        job["batch"] = json!("nightly");
        job["metadata"] = json!({ "row": index });
        forebay.publish(subject, &job).await;
        let completion = forebay.completion(team, Some("nightly"), &id).await;
        assert_eq!(
            (completion.status, completion.lane, completion.revision),
            (Status::Succeeded, lane, 1)
        );
        assert_eq!(
            (completion.id.as_str(), completion.custom_id.as_str()),
            (id.as_str(), id.as_str())
        );
        assert_eq!(answer_text(&completion), format!("You said: hello {index}"));
        assert_eq!(completion.attempts.len(), 1);
        assert_eq!(completion.attempts[0].outcome, "succeeded");
        assert_eq!(
            completion.metadata.expect("kept")["row"].get(),
            index.to_string()
        );
        assert!(completion.usage.is_some_and(|usage| usage.input_tokens > 0));
    }
    forebay.drained().await;
    assert_eq!(provider.calls().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_an_id_gets_the_message_id_or_a_generated_one() {
    let (forebay, _provider) = Forebay::simple().await;
    let job = json!({ "body": { "messages": [{ "role": "user", "content": "hi" }] } });
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "from-header");
    headers.insert(
        "traceparent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    );
    forebay.publish_with("ai.jobs.chat", &job, headers).await;
    let names = &forebay.connection.names;
    let subject = names.completion("default", None, "from-header");
    let message = forebay.message(names.completions_stream(), &subject).await;
    let trace = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get("traceparent"));
    assert!(trace.is_some_and(|trace| trace.as_str().starts_with("00-4bf9")));

    forebay.publish("ai.jobs.chat", &job).await;
    let stream = forebay
        .connection
        .context
        .get_stream(names.jobs_stream())
        .await
        .expect("the stream");
    let id = format!("s{}-2", stream.cached_info().created.unix_timestamp());
    assert_eq!(
        forebay.completion("default", None, &id).await.status,
        Status::Succeeded
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_called_gets_an_error_completion_and_a_dead_letter() {
    let (forebay, provider) = Forebay::simple().await;
    let mut unknown_model = chat("no-model", "x");
    unknown_model["body"]["model"] = json!("gpt-9");
    let cases = [
        (
            "ai.jobs.chat",
            json!({ "id": "no-body" }).to_string(),
            "no-body",
            "invalid_job",
            "body",
        ),
        (
            "ai.jobs.nowhere",
            chat("no-pool", "x").to_string(),
            "no-pool",
            "unknown_pool",
            "known pools: chat",
        ),
        (
            "ai.jobs.chat",
            unknown_model.to_string(),
            "no-model",
            "unknown_model",
            "gpt-4o-mini",
        ),
    ];
    for (subject, payload, id, code, words) in cases {
        forebay
            .publish_bytes(subject, payload.clone().into_bytes(), HeaderMap::new())
            .await;
        let completion = forebay.completion("default", None, id).await;
        let error = completion.error.expect("an error");
        assert_eq!(
            (completion.status, error.code.as_str(), error.class),
            (Status::Failed, code, Class::Rejected)
        );
        assert!(error.message.contains(words), "{}", error.message);
        // Its letter is there before it is acknowledged, and not before its completion.
        forebay.drained().await;
        let dead = subject.replace(".jobs.", ".dead.") + ".default";
        let stream = forebay.connection.names.dead_stream();
        let letters = forebay
            .connection
            .context
            .get_stream(stream.clone())
            .await
            .expect("the stream");
        let letter = letters
            .get_last_raw_message_by_subject(&dead)
            .await
            .expect("a letter");
        assert_eq!(letter.payload, payload.as_bytes());
        assert!(
            letter
                .headers
                .get("Forebay-Reason")
                .is_some_and(|reason| reason.as_str().starts_with(code))
        );
    }
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "not-json");
    forebay
        .publish_bytes("ai.jobs.chat", b"not json".to_vec(), headers)
        .await;
    let completion = forebay.completion("default", None, "not-json").await;
    assert_eq!(completion.error.expect("an error").code, "invalid_job");
    forebay.drained().await;
    assert_eq!(provider.calls(), [], "nothing was called");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_pool_name_is_refused_and_the_error_suggests_a_valid_one() {
    let (forebay, _provider) = Forebay::simple().await;
    forebay
        .publish("ai.jobs.llama3:8b", &chat("odd", "x"))
        .await;
    let completion = forebay.completion("default", None, "odd").await;
    let error = completion.error.expect("an error");
    assert_eq!(
        (completion.pool.as_str(), error.code.as_str()),
        ("llama3:8b", "invalid_subject")
    );
    assert!(
        error.message.contains("write `llama3_8b`"),
        "{}",
        error.message
    );
    let names = &forebay.connection.names;
    let letter = forebay
        .message(names.dead_stream(), "ai.dead.llama3_8b.default")
        .await;
    assert!(
        letter
            .headers
            .as_ref()
            .is_some_and(|headers| headers.get("Forebay-Subject").is_some())
    );
    forebay.drained().await;
    let refused = forebay
        .connection
        .context
        .publish("ai.jobs.chat.acme.urgent", "{}".into())
        .await;
    assert!(
        refused.expect("sent").await.is_err(),
        "no stream takes a lane that is none"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_in_a_subject_does_not_take_other_jobs() {
    let (forebay, _provider) = Forebay::simple().await;
    for subject in ["ai.jobs.*", "ai.jobs.chat.*"] {
        forebay
            .publish_bytes(subject, b"mine".to_vec(), HeaderMap::new())
            .await;
    }
    // A start reads the list of all subjects.
    let forebay = forebay.restart().await;
    for (subject, team) in [("ai.jobs.chat", "default"), ("ai.jobs.chat.acme", "acme")] {
        forebay.publish(subject, &chat("1", "hello")).await;
        assert_eq!(
            answer_text(&forebay.completion(team, None, "1").await),
            "You said: hello"
        );
    }
    assert_eq!(
        forebay.count(forebay.connection.names.dead_stream()).await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_team_name_gets_a_dead_letter_and_a_copy_of_its_completion() {
    let (forebay, _provider) = Forebay::simple().await;
    let mut inbox = forebay
        .connection
        .client
        .subscribe("_INBOX.odd")
        .await
        .expect("subscribed");
    let mut job = chat("odd", "x");
    job["reply_to"] = json!("_INBOX.odd");
    forebay.publish("ai.jobs.chat.a:b", &job).await;
    let copy = next_copy(&mut inbox).await;
    assert_eq!(
        (
            copy.team.as_str(),
            copy.error.expect("an error").code.as_str()
        ),
        ("a:b", "invalid_subject")
    );
    forebay
        .message(forebay.connection.names.dead_stream(), "ai.dead.chat.a_b")
        .await;
    forebay.drained().await;
    assert_eq!(
        forebay
            .count(forebay.connection.names.completions_stream())
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_past_its_deadline_expires_without_a_call() {
    let (forebay, provider) = Forebay::simple().await;
    let mut late = chat("late", "x");
    late["deadline"] = json!("2020-01-01T00:00:00Z");
    forebay.publish("ai.jobs.chat", &late).await;
    let completion = forebay.completion("default", None, "late").await;
    assert_eq!(completion.status, Status::Expired);
    assert_eq!(
        completion.error.expect("an error").class,
        Class::DeadlinePassed
    );
    assert_eq!(provider.calls(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_embedding_job_gets_its_own_vector() {
    let (forebay, _provider) = Forebay::simple().await;
    for text in ["one", "two"] {
        let job = json!({ "custom_id": text, "url": "/v1/embeddings", "body": { "input": text, "dimensions": 4 } });
        forebay.publish("ai.jobs.chat", &job).await;
    }
    let vector = async |id| {
        let completion = forebay.completion("default", None, id).await;
        completion
            .response
            .expect("an answer")
            .body
            .get()
            .to_owned()
    };
    let (one, two) = (vector("one").await, vector("two").await);
    assert!(one.contains("embedding") && one != two);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_job_waits_in_its_own_stream_and_is_called_when_its_time_comes() {
    let (forebay, provider) = Forebay::simple().await;
    let mut inbox = forebay
        .connection
        .client
        .subscribe("_INBOX.later")
        .await
        .expect("subscribed");
    let at = SystemClock.now() + jiff::SignedDuration::from_secs(8);
    let mut job = chat("later", "hello");
    job["not_before"] = json!(at);
    job["reply_to"] = json!("_INBOX.later");
    job["batch"] = json!("b");
    forebay.publish("ai.jobs.chat.acme.bulk", &job).await;
    let waiting = forebay.scheduled("ai.scheduled.acme.b.later").await;
    let schedule = waiting.headers.get("Nats-Schedule");
    assert!(schedule.is_some_and(|schedule| schedule.as_str().starts_with("@at ")));
    forebay.drained().await;
    assert_eq!(provider.calls(), [], "nothing is called before its time");
    // The same job again, by somebody else who wants to know: it comes back once, for both.
    job["reply_to"] = json!("_INBOX.later.too");
    let mut other = forebay
        .connection
        .client
        .subscribe("_INBOX.later.too")
        .await
        .expect("subscribed");
    forebay.publish("ai.jobs.chat.acme.bulk", &job).await;
    let completion = forebay.completion("acme", Some("b"), "later").await;
    assert_eq!(
        (completion.status, completion.lane),
        (Status::Succeeded, Lane::Bulk)
    );
    assert!(
        completion.attempts[0].started_at >= at,
        "not before its time"
    );
    for inbox in [&mut inbox, &mut other] {
        assert_eq!(answer_text(&next_copy(inbox).await), "You said: hello");
    }
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_job_survives_a_restart() {
    let (forebay, _provider) = Forebay::simple().await;
    let at = SystemClock.now() + jiff::SignedDuration::from_secs(7);
    let mut job = json!({ "body": { "messages": [{ "role": "user", "content": "hello" }] } });
    job["not_before"] = json!(at);
    forebay.publish("ai.jobs.chat.acme", &job).await;
    let stream = forebay
        .connection
        .context
        .get_stream("AI_JOBS")
        .await
        .expect("the stream");
    let id = format!("s{}-1", stream.cached_info().created.unix_timestamp());
    forebay
        .scheduled(&format!("ai.scheduled.acme._.{id}"))
        .await;
    let forebay = forebay.restart().await;
    let completion = forebay.completion("acme", None, &id).await;
    assert_eq!(
        completion.status,
        Status::Succeeded,
        "under the id that it had from the start"
    );
    assert!(completion.attempts[0].started_at >= at);
}
