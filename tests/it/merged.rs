//! Embeddings of several jobs in one request.

use std::collections::BTreeMap;

use forebay_schemas::{Class, Completion, Status};
use forebay_workers::clock::{Clock as _, SystemClock};
use forebay_workers::{CancelledJobs, PauseTarget};
use serde_json::{Value, json};

use crate::support::{Account, Forebay, control, provider};

const MODEL: &str = "text-embedding-3-small";
/// Longer than a text may be.
const TOO_LONG: usize = 40_000;

/// A Forebay with a pool whose account is limited to some calls a second, and another that joins nothing.
async fn forebay() -> (Forebay, forebay_simulator::Provider) {
    let accounts = [
        "name=joined,key=sk-joined,limit=20/1s",
        "name=alone,key=sk-alone",
    ];
    let provider = provider(&accounts, "").await;
    let forebay = Forebay::builder()
        .account(Account::at("joined", &provider).limits("{ requests = 20, per = \"1s\" }"))
        .account(Account::at("alone", &provider))
        .pool("joined", MODEL, &["joined"])
        .pool("alone", MODEL, &["alone"])
        .config("[pool.alone]\nmerge = false\n")
        .start()
        .await;
    (forebay, provider)
}

fn embed(id: &str, body: Value) -> Value {
    json!({ "id": id, "url": "/v1/embeddings", "body": body })
}

async fn all(forebay: &Forebay, pool: &str, bodies: &[Value]) -> Vec<Completion> {
    for (index, body) in bodies.iter().enumerate() {
        forebay
            .publish(
                &format!("ai.jobs.{pool}"),
                &embed(&format!("{pool}-{index}"), body.clone()),
            )
            .await;
    }
    let mut completions = Vec::new();
    for index in 0..bodies.len() {
        completions.push(
            forebay
                .completion("default", None, &format!("{pool}-{index}"))
                .await,
        );
    }
    completions
}

fn answer(completion: &Completion) -> Value {
    assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
    serde_json::from_str(completion.response.as_ref().expect("an answer").body.get()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_job_has_its_own_vectors_and_its_share_of_tokens_and_cost() {
    let (forebay, provider) = forebay().await;
    let body = |index: usize| match index % 4 {
        0 => json!({ "input": format!("text {index}") }),
        1 => json!({ "input": [format!("text {index}"), "another"] }),
        2 => json!({ "input": [index, 7, 8] }),
        // What is asked otherwise cannot travel with the rest.
        _ => json!({ "input": format!("text {index}"), "dimensions": 3 }),
    };
    let bodies: Vec<_> = (0..200).map(body).collect();
    let joined = all(&forebay, "joined", &bodies).await;
    let alone = all(&forebay, "alone", &bodies).await;
    for (joined, alone) in joined.iter().zip(&alone) {
        assert_eq!(answer(joined)["data"], answer(alone)["data"]);
        assert_eq!(answer(joined)["model"], MODEL);
        let tokens = joined.usage.expect("a share").input_tokens;
        assert_eq!(
            answer(joined)["usage"],
            json!({ "prompt_tokens": tokens, "total_tokens": tokens })
        );
    }
    let calls = provider
        .calls()
        .iter()
        .filter(|call| call.account == "joined")
        .count();
    assert!(calls < 100, "{calls} calls for {} jobs", bodies.len());
    let together: Vec<_> = joined
        .iter()
        .filter_map(|completion| completion.attempts[0].jobs)
        .collect();
    assert!(together.iter().any(|jobs| *jobs > 2), "{together:?}");
    // The shares of each call are what it used.
    let mut by_call = BTreeMap::new();
    for completion in &joined {
        let attempt = &completion.attempts[0];
        let of_call: &mut (u32, u32) = by_call.entry(attempt.started_at).or_default();
        *of_call = (of_call.0 + 1, attempt.jobs.unwrap_or(1));
    }
    assert_eq!(by_call.len(), calls);
    assert!(
        by_call.values().all(|(told, jobs)| told == jobs),
        "{by_call:?}"
    );
    let tokens = |completions: &[Completion]| -> u64 {
        completions
            .iter()
            .map(|completion| completion.usage.expect("told").input_tokens)
            .sum()
    };
    assert_eq!(tokens(&joined), tokens(&alone));
    for completion in &joined {
        // $0.02 for a million tokens.
        let tokens = completion.usage.expect("told").input_tokens;
        let cost = format!("{:09}", 2 * tokens);
        let cost = format!("{}.{}", &cost[..1], cost[1..].trim_end_matches('0'));
        assert_eq!(completion.cost.as_ref().expect("a price").amount, cost);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_text_fails_no_other_job() {
    let (forebay, provider) = forebay().await;
    let bad = [5, 6, 30];
    let body = |index: usize| match bad.contains(&index) {
        true => json!({ "input": format!("reject {index}") }),
        false => json!({ "input": format!("text {index}") }),
    };
    let bodies: Vec<_> = (0..60).map(body).collect();
    let completions = all(&forebay, "joined", &bodies).await;
    let vectors = all(&forebay, "alone", &bodies).await;
    for (index, (completion, alone)) in completions.iter().zip(&vectors).enumerate() {
        if bad.contains(&index) {
            assert_eq!(completion.status, Status::Failed, "{completion:?}");
            assert_eq!(
                completion.error.as_ref().expect("an error").class,
                Class::BadRequest
            );
            assert_eq!(
                completion.attempts.last().expect("a call").jobs,
                None,
                "its own call said so"
            );
        } else {
            assert_eq!(answer(completion)["data"], answer(alone)["data"], "{index}");
        }
    }
    let calls = provider
        .calls()
        .iter()
        .filter(|call| call.account == "joined")
        .count();
    assert!(calls < bodies.len(), "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_known_to_be_too_long_is_sent_alone() {
    let (forebay, provider) = forebay().await;
    let body = |index: usize| match index % 10 {
        3 => json!({ "input": "too long ".repeat(TOO_LONG / 9) }),
        _ => json!({ "input": format!("text {index}") }),
    };
    let completions = all(&forebay, "joined", &(0..40).map(body).collect::<Vec<_>>()).await;
    for (index, completion) in completions.iter().enumerate() {
        let class = completion.error.as_ref().map(|error| error.class);
        assert_eq!(
            class,
            (index % 10 == 3).then_some(Class::ContextTooLong),
            "{completion:?}"
        );
        assert_eq!(
            completion.attempts.len(),
            1,
            "none is called again because of it"
        );
    }
    assert!(provider.calls().len() < 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_wait_to_be_merged_can_be_cancelled_and_expire() {
    let (forebay, _provider) = forebay().await;
    let pool = PauseTarget::Pool("joined".to_owned());
    control::<Value>(&forebay, "pause", &pool)
        .await
        .expect("paused");
    let deadline = SystemClock.now() + jiff::SignedDuration::from_millis(300);
    for index in 0..6 {
        let mut job = embed(&format!("w-{index}"), json!({ "input": "hello" }));
        if index % 3 == 0 {
            job["deadline"] = deadline.to_string().into();
        }
        forebay.publish("ai.jobs.joined", &job).await;
    }
    for id in ["w-1", "w-4"] {
        let what = CancelledJobs {
            team: "default".to_owned(),
            batch: None,
            id: Some(id.to_owned()),
        };
        control::<Value>(&forebay, "cancel", &what)
            .await
            .expect("cancelled");
    }
    let expected = |index: usize| match index % 3 {
        0 => Status::Expired,
        1 => Status::Cancelled,
        _ => Status::Succeeded,
    };
    for index in [0, 1, 3, 4] {
        let completion = forebay
            .completion("default", None, &format!("w-{index}"))
            .await;
        assert_eq!(completion.status, expected(index), "{completion:?}");
    }
    control::<Value>(&forebay, "resume", &pool)
        .await
        .expect("resumed");
    for index in [2, 5] {
        let completion = forebay
            .completion("default", None, &format!("w-{index}"))
            .await;
        assert_eq!(completion.status, expected(index), "{completion:?}");
    }
    forebay.drained().await;
}
