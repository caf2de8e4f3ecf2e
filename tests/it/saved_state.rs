//! What of accounts and of teams' limits outlives a process.

use forebay::control::messages::{AccountsReport, SwitchRequest};
use forebay_schemas::{AccountEvent, Status};
use forebay_workers::accounts::AccountState;

use crate::support::{
    Forebay, answer_text, chat, control, provider, until, with_deadline_in_a_second,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_long_limit_stays_spent_over_a_restart() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ requests = 2, per = \"1h\" }")
        .start()
        .await;
    for id in ["first", "second"] {
        forebay.publish("ai.jobs.chat", &chat(id, "hello")).await;
        assert_eq!(
            answer_text(&forebay.completion("default", None, id).await),
            "You said: hello"
        );
    }

    let forebay = forebay.restart().await;
    let shown = accounts(&forebay, "accounts", None).await.expect("keys");
    let spent = shown.accounts[0].models[0]
        .spent
        .as_ref()
        .expect("it is spent");
    assert_eq!(spent.limit, "2 requests per 3600s");
    forebay
        .publish("ai.jobs.chat", &with_deadline_in_a_second("third"))
        .await;
    assert_eq!(
        forebay.completion("default", None, "third").await.status,
        Status::Expired
    );
    assert_eq!(provider.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teams_spent_limit_stays_spent_over_a_restart() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let team = "[team.acme]\nlimits = [{ requests = 2, per = \"1h\" }]\n";
    let forebay = Forebay::calling(&provider).config(team).start().await;
    for id in ["first", "second"] {
        forebay
            .publish("ai.jobs.chat.acme", &chat(id, "hello"))
            .await;
        assert_eq!(
            answer_text(&forebay.completion("acme", None, id).await),
            "You said: hello"
        );
    }

    let forebay = forebay.restart().await;
    forebay
        .publish("ai.jobs.chat.acme", &with_deadline_in_a_second("third"))
        .await;
    assert_eq!(
        forebay.completion("acme", None, "third").await.status,
        Status::Expired
    );
    forebay
        .publish("ai.jobs.chat", &chat("fourth", "hello"))
        .await;
    assert_eq!(
        answer_text(&forebay.completion("default", None, "fourth").await),
        "You said: hello"
    );
    assert_eq!(provider.calls().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn account_state_is_written_again_after_its_bucket_is_deleted() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::limited(&provider, "{ requests = 3, per = \"1h\" }")
        .start()
        .await;
    for id in ["first", "second", "third"] {
        // Each of so few calls is written down before it is made.
        forebay.publish("ai.jobs.chat", &chat(id, "hello")).await;
        assert_eq!(
            answer_text(&forebay.completion("default", None, id).await),
            "You said: hello"
        );
        // It is made again with the next write, or within seconds where nothing is to be written.
        let context = &forebay.connection.context;
        until("the bucket", async || {
            context.get_key_value("AI_ACCOUNTS").await.is_ok()
        })
        .await;
        let deleted = context.delete_key_value("AI_ACCOUNTS").await;
        deleted.expect("deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_disabled_by_an_operator_is_not_used_until_it_is_enabled() {
    let provider = provider(&["name=one,key=sk-one,key=sk-two"], "").await;
    let forebay = Forebay::calling(&provider).start().await;
    forebay
        .connection
        .context
        .delete_key_value("AI_ACCOUNTS")
        .await
        .expect("deleted");
    accounts(&forebay, "accounts.disable", Some(("one", Some("key-1"))))
        .await
        .expect("disabled");
    let bucket = forebay
        .connection
        .context
        .get_key_value("AI_ACCOUNTS")
        .await
        .expect("made again");
    let written = bucket
        .get("one")
        .await
        .expect("read")
        .expect("written before it was answered");
    let written: AccountState = serde_json::from_slice(&written).expect("the state of an account");
    assert!(written.keys.contains_key("key-1"));
    for id in 0..4 {
        forebay
            .publish("ai.jobs.chat", &chat(&id.to_string(), "hello"))
            .await;
        forebay.completion("default", None, &id.to_string()).await;
    }
    assert!(
        provider.calls().iter().all(|call| call.key == "key-2"),
        "the other key goes on"
    );
    let told = forebay
        .message("AI_EVENTS".to_owned(), "ai.events.accounts.one")
        .await;
    let event: AccountEvent = serde_json::from_slice(&told.payload).expect("an event");
    assert_eq!(
        (event.key.as_deref(), event.state.as_str()),
        (Some("key-1"), "disabled")
    );
    let all = accounts(&forebay, "accounts.disable", Some(("one", None)))
        .await
        .expect("disabled");
    assert!(
        all.accounts[0]
            .keys
            .iter()
            .all(|key| key.reason.as_deref() == Some("operator"))
    );
    let wrong = accounts(&forebay, "accounts.enable", Some(("one", Some("key-9"))))
        .await
        .expect_err("no such key");
    assert_eq!(
        wrong,
        "account `one` has no key `key-9`; it has key-1, key-2"
    );
    let wrong = accounts(&forebay, "accounts.enable", Some(("two", None)))
        .await
        .expect_err("no such account");
    assert_eq!(wrong, "there is no account `two`; known accounts: one");

    let forebay = forebay.restart().await;
    let after = accounts(&forebay, "accounts", None).await.expect("keys");
    assert!(
        after.accounts[0]
            .keys
            .iter()
            .all(|key| key.state == "disabled"),
        "over a restart too"
    );
    forebay
        .publish("ai.jobs.chat", &chat("waits", "hello"))
        .await;
    accounts(&forebay, "accounts.enable", Some(("one", None)))
        .await
        .expect("enabled");
    assert_eq!(
        answer_text(&forebay.completion("default", None, "waits").await),
        "You said: hello"
    );
}

async fn accounts(
    forebay: &Forebay,
    verb: &str,
    which: Option<(&str, Option<&str>)>,
) -> Result<AccountsReport, String> {
    let request = which.map(|(account, key)| SwitchRequest {
        account: account.to_owned(),
        key: key.map(str::to_owned),
    });
    control(forebay, verb, &request).await
}
