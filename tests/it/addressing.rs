//! Which subjects are served: models with dots in their names, and teams that are not configured.

use futures::StreamExt;
use serde_json::json;

use crate::program;
use crate::support::{Forebay, answer_text, chat, next_copy, provider, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_model_name_in_a_subject_is_refused_and_the_error_names_the_right_subject() {
    let (forebay, provider) = Forebay::simple().await;
    for (subject, team, right) in [
        ("ai.jobs.gpt-4.1-mini", "1-mini", "`ai.jobs.gpt-4_1-mini`"),
        (
            "ai.jobs.ai21.j2-mid-v1",
            "j2-mid-v1",
            "`ai.jobs.ai21_j2-mid-v1`",
        ),
        // No model that is known, and no team.
        ("ai.jobs.chat.9-nano", "9-nano", "`ai.jobs.chat_9-nano`"),
    ] {
        forebay.publish(subject, &chat("a", "hello")).await;
        let error = forebay
            .completion(team, None, "a")
            .await
            .error
            .expect("refused");
        assert_eq!(error.code, "invalid_subject", "{subject}");
        assert!(
            error.message.contains(right),
            "{subject}: {}",
            error.message
        );
    }
    // What is no name has no completion: its publisher is told where it asked for a copy.
    let client = &forebay.connection.client;
    let mut inbox = client.subscribe("_INBOX.copies").await.expect("subscribed");
    let mut job = chat("c", "hello");
    job["reply_to"] = json!("_INBOX.copies");
    forebay.publish("ai.jobs.amazon.nova-lite-v1:0", &job).await;
    let error = next_copy(&mut inbox).await.error.expect("refused");
    assert!(
        error.message.contains("`ai.jobs.amazon_nova-lite-v1_0`"),
        "{}",
        error.message
    );
    let mut inbox = client.subscribe("_INBOX.asks").await.expect("subscribed");
    let job = chat("b", "hello").to_string();
    client
        .publish_with_reply("ai.ask.gpt-4.1-mini", "_INBOX.asks", job.into())
        .await
        .expect("sent");
    let error = next_copy(&mut inbox).await.error.expect("refused");
    assert!(
        error.message.contains("`ai.ask.gpt-4_1-mini.default`"),
        "{}",
        error.message
    );
    assert!(provider.calls().is_empty());
    forebay.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_teams_are_configured_unknown_ones_are_refused_but_the_default_team_is_not() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .config("[team.acme]\n")
        .start()
        .await;
    let mut dead = forebay
        .connection
        .client
        .subscribe("ai.dead.chat.other")
        .await
        .expect("subscribed");
    forebay
        .publish("ai.jobs.chat.other", &chat("a", "hello"))
        .await;
    let error = forebay
        .completion("other", None, "a")
        .await
        .error
        .expect("refused");
    assert_eq!(error.code, "unknown_team");
    assert!(
        error.message.contains("[team.other]") && !error.message.contains("acme"),
        "{}",
        error.message
    );
    soon("a dead letter", dead.next()).await.expect("open");
    for (subject, team) in [("ai.jobs.chat.acme", "acme"), ("ai.jobs.chat", "default")] {
        forebay.publish(subject, &chat("a", "hello")).await;
        assert_eq!(
            answer_text(&forebay.completion(team, None, "a").await),
            "You said: hello"
        );
    }
    assert_eq!(provider.calls().len(), 2);

    // What can be refused before it is published is.
    let dir = forebay.dir();
    std::fs::write(dir.join("jobs.jsonl"), chat("b", "hello").to_string()).expect("written");
    let line = json!({ "custom_id": "b", "body": chat("b", "hello")["body"] });
    std::fs::write(dir.join("in.jsonl"), line.to_string()).expect("written");
    let publish = ["publish", "jobs.jsonl", "--pool", "chat", "--team"];
    let run = [
        "run",
        "in.jsonl",
        "--output",
        "out.jsonl",
        "--pool",
        "chat",
        "--team",
    ];
    for command in [&publish[..], &run[..]] {
        for (team, problem) in [
            ("other", "there is no team `other`"),
            ("1-mini", "the first of them a letter"),
        ] {
            let refused = program::run(dir, &[command, &[team]].concat()).await;
            assert_eq!(refused.code, Some(2), "{command:?} {team}: {refused:?}");
            assert!(
                refused.stderr.contains(problem),
                "{command:?} {team}: {}",
                refused.stderr
            );
        }
    }
    let pool = program::run(dir, &["publish", "jobs.jsonl", "--pool", "gpt-4.1-mini"]).await;
    assert!(pool.stderr.contains("write `gpt-4_1-mini`"), "{pool:?}");
}
