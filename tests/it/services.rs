//! What can be asked over NATS.

use forebay::control::messages::{AccountsReport, QueuesReport, ResultsReply, ResultsRequest};
use forebay_schemas::{Completion, Status};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{Forebay, answer_text, chat, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_with_its_completion() {
    let (forebay, provider) = Forebay::simple().await;
    let client = &forebay.connection.client;
    let ask = async |job: Value| {
        let reply = client.request("ai.ask.chat.acme", job.to_string().into());
        let reply = soon("an answer", reply).await.expect("an answer");
        serde_json::from_slice::<Completion>(&reply.payload).expect("a completion")
    };
    let completion = ask(chat("asked", "hello")).await;
    assert_eq!(
        (answer_text(&completion).as_str(), completion.team.as_str()),
        ("You said: hello", "acme")
    );
    assert_eq!(
        answer_text(&ask(chat("asked", "hello")).await),
        "You said: hello",
        "again, from the store"
    );
    assert_eq!(provider.calls().len(), 1);
    let mut with_reply = chat("with-reply", "hello");
    with_reply["reply_to"] = json!("_INBOX.elsewhere");
    assert_eq!(ask(with_reply).await.status, Status::Succeeded);
    assert_eq!(
        ask(json!({ "id": "none" }))
            .await
            .error
            .expect("an error")
            .code,
        "invalid_job"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_queues_keys_and_results() {
    let (forebay, _provider) = Forebay::simple().await;
    let client = &forebay.connection.client;
    forebay
        .publish("ai.jobs.chat", &chat("seen", "hello"))
        .await;
    forebay.completion("default", None, "seen").await;
    forebay.drained().await;

    let queues = client
        .request("ai.ctl.queues", "".into())
        .await
        .expect("an answer");
    let queues: QueuesReport = serde_json::from_slice(&queues.payload).expect("queues");
    assert!(queues.ended.contains(&(Status::Succeeded, 1)), "{queues:?}");

    let accounts = client
        .request("ai.ctl.accounts", "".into())
        .await
        .expect("an answer");
    let accounts: AccountsReport = serde_json::from_slice(&accounts.payload).expect("accounts");
    assert_eq!(
        (
            accounts.accounts[0].calls,
            accounts.accounts[0].keys[0].state.as_str()
        ),
        (1, "ready")
    );

    let result = async |id: &str| {
        let request = ResultsRequest {
            team: "default".to_owned(),
            batch: None,
            id: id.to_owned(),
        };
        let request = serde_json::to_vec(&request).expect("JSON");
        let reply = client
            .request("ai.ctl.results", request.into())
            .await
            .expect("an answer");
        serde_json::from_slice::<ResultsReply>(&reply.payload).expect("a result")
    };
    assert_eq!(
        answer_text(&result("seen").await.expect("stored")),
        "You said: hello"
    );
    assert!(result("unseen").await.is_none());
    let wrong = client
        .request("ai.ctl.results", "{}".into())
        .await
        .expect("an answer");
    assert!(
        wrong
            .headers
            .expect("headers")
            .get("Nats-Service-Error")
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_show_in_discovery() {
    let (forebay, _provider) = Forebay::simple().await;
    let client = &forebay.connection.client;
    let mut inbox = client.subscribe("_INBOX.found").await.expect("subscribed");
    client
        .publish_with_reply("$SRV.INFO", "_INBOX.found", "".into())
        .await
        .expect("sent");
    let info = soon("a service", inbox.next()).await.expect("open");
    let info: Value = serde_json::from_slice(&info.payload).expect("JSON");
    assert_eq!(info["name"], "forebay");
    let subjects: Vec<_> = info["endpoints"]
        .as_array()
        .expect("endpoints")
        .iter()
        .map(|one| one["subject"].clone())
        .collect();
    for subject in [
        "ai.ask.*.*",
        "ai.ctl.queues",
        "ai.ctl.accounts",
        "ai.ctl.results",
    ] {
        assert!(
            subjects.contains(&json!(subject)),
            "{subject} not in {subjects:?}"
        );
    }
}
