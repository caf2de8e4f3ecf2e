//! Copies of completions, and where they may not go.

use async_nats::HeaderMap;
use forebay_schemas::{Completion, Status};
use futures::StreamExt;
use serde_json::json;

use crate::support::{Forebay, answer_text, chat, soon};

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_to_the_reply_subjects_of_the_field_and_of_the_header() {
    let (forebay, _provider) = Forebay::simple().await;
    let mut inboxes = forebay
        .connection
        .client
        .subscribe("_INBOX.>")
        .await
        .expect("subscribed");
    let mut job = chat("both", "hello");
    job["reply_to"] = json!("_INBOX.field");
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Reply-To", "_INBOX.header");
    forebay.publish_with("ai.jobs.chat", &job, headers).await;
    let mut subjects = Vec::new();
    while subjects.len() < 2 {
        let copy = soon("a copy", inboxes.next()).await.expect("open");
        // Other inboxes here are those of this client's own requests.
        if let "_INBOX.field" | "_INBOX.header" = copy.subject.as_str() {
            let completion: Completion =
                serde_json::from_slice(&copy.payload).expect("a completion");
            assert_eq!(answer_text(&completion), "You said: hello");
            subjects.push(copy.subject.to_string());
        }
    }
    subjects.sort();
    assert_eq!(subjects, ["_INBOX.field", "_INBOX.header"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_reply_subject_is_refused() {
    let (forebay, provider) = Forebay::simple().await;
    let hostile = [
        "$JS.API.STREAM.DELETE.AI_JOBS",
        "ai.jobs.chat",
        "_INBOX_acme.x",
        "_INBOX.*",
        "ai.completions.default._.other",
    ];
    for (index, subject) in hostile.into_iter().enumerate() {
        let mut job = chat(&format!("field-{index}"), "x");
        job["reply_to"] = json!(subject);
        forebay.publish("ai.jobs.chat", &job).await;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Reply-To", subject);
        forebay
            .publish_with(
                "ai.jobs.chat",
                &chat(&format!("header-{index}"), "x"),
                headers,
            )
            .await;
        for way in ["field", "header"] {
            let completion = forebay
                .completion("default", None, &format!("{way}-{index}"))
                .await;
            let error = completion.error.expect("an error");
            assert_eq!(
                (completion.status, error.code.as_str()),
                (Status::Failed, "invalid_reply_to")
            );
        }
    }
    forebay.drained().await;
    assert_eq!(provider.calls(), []);
    assert_eq!(
        forebay
            .count(forebay.connection.names.completions_stream())
            .await,
        10
    );
}
