//! Limits, faults and keys that are not accepted.

use std::collections::BTreeSet;
use std::time::Duration;

use forebay_schemas::{Class, OnAmbiguous, Status};
use forebay_simulator::fault::FaultPlan;
use serde_json::json;

use crate::support::{
    Account, Forebay, UNLIMITED, answer_text, chat, provider, until, wait_for_calls,
};

/// A Forebay over two accounts at one provider, each account with its own keys and limits.
async fn two_accounts(
    accounts: &[&str],
    faults: &str,
    first: (&[&str], &str),
    second: (&[&str], &str),
) -> (Forebay, forebay_simulator::Provider) {
    let provider = provider(accounts, faults).await;
    let account = |name, (keys, limits): (&[&str], &str)| {
        Account::at(name, &provider).keys(keys).limits(limits)
    };
    let forebay = Forebay::builder()
        .account(account("first", first))
        .account(account("second", second))
        .pool("chat", "gpt-4o-mini", &["first", "second"])
        // No job runs out of them by chance.
        .config("[call]\nattempts = 20\n")
        .start()
        .await;
    (forebay, provider)
}

async fn answer_all(forebay: &Forebay, jobs: usize) -> Vec<forebay_schemas::Completion> {
    for job in 0..jobs {
        forebay
            .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
            .await;
    }
    let mut completions = Vec::new();
    for job in 0..jobs {
        completions.push(forebay.completion("default", None, &job.to_string()).await);
    }
    completions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_cools_the_account_and_its_jobs_go_elsewhere_without_losing_attempts() {
    let accounts = [
        "name=tight,key=sk-tight,limit=2/1h",
        "name=wide,key=sk-wide",
    ];
    let first: (&[&str], &str) = (&["sk-tight"], "{ concurrent = 4 }");
    let (forebay, provider) =
        two_accounts(&accounts, "", first, (&["sk-wide"], "{ concurrent = 4 }")).await;
    let completions = answer_all(&forebay, 40).await;
    assert!(
        completions
            .iter()
            .all(|completion| completion.status == Status::Succeeded)
    );
    let refused = provider
        .calls()
        .iter()
        .filter(|call| call.status == 429)
        .count();
    assert!(
        (1..=4).contains(&refused),
        "those in flight when the limit was met, and no more: {refused}"
    );
    let elsewhere = completions
        .iter()
        .find(|completion| completion.attempts.len() == 2)
        .expect("one moved");
    assert_eq!(elsewhere.attempts[0].outcome, "rate_limited");
    assert_eq!(
        (
            elsewhere.attempts[0].account.as_str(),
            elsewhere.attempts[1].account.as_str()
        ),
        ("first", "second")
    );
    let keys = forebay.worker().snapshot().accounts;
    let state = &keys[0].models[0].state;
    assert_eq!(
        (state.name(), state.reason()),
        ("cooling", Some(Class::RateLimited))
    );
    assert_eq!(
        keys[0].keys[0].state.name(),
        "ready",
        "the refusal spoke of the limit, not of the key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_key_is_disabled_and_its_job_is_answered() {
    let accounts = ["name=good,key=sk-good"];
    let first: (&[&str], &str) = (&["sk-wrong", "sk-good"], "{ concurrent = 1 }");
    let (forebay, provider) = two_accounts(
        &accounts,
        "",
        first,
        (&["sk-also-wrong"], "{ concurrent = 1 }"),
    )
    .await;
    let completions = answer_all(&forebay, 10).await;
    assert!(
        completions
            .iter()
            .all(|completion| completion.status == Status::Succeeded)
    );
    let outcomes: Vec<_> = completions
        .iter()
        .flat_map(|completion| &completion.attempts)
        .map(|attempt| {
            (
                attempt.account.as_str(),
                attempt.key.as_str(),
                attempt.outcome.as_str(),
            )
        })
        .collect();
    let wrong: Vec<_> = outcomes
        .iter()
        .filter(|(_, _, outcome)| *outcome == "bad_key")
        .collect();
    assert_eq!(wrong.len(), 2, "each wrong key was used once: {outcomes:?}");
    assert_eq!(provider.calls().len(), 10);
    let states: BTreeSet<_> = forebay
        .worker()
        .snapshot()
        .accounts
        .into_iter()
        .flat_map(|account| {
            account
                .keys
                .into_iter()
                .map(move |key| (account.name.clone(), key.name, key.state.name()))
        })
        .collect();
    let state = |account: &str, key: &str, state| (account.to_owned(), key.to_owned(), state);
    assert_eq!(
        states,
        BTreeSet::from([
            state("first", "key-1", "disabled"),
            state("first", "key-2", "ready"),
            state("second", "key-1", "disabled"),
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn provider_faults_are_retried_until_an_answer_comes() {
    let accounts = ["name=one,key=sk-one", "name=two,key=sk-two"];
    let faults = "error=0.1,overloaded=0.05,reset=0.1,truncated=0.03";
    let (forebay, provider) = two_accounts(
        &accounts,
        faults,
        (&["sk-one"], UNLIMITED),
        (&["sk-two"], UNLIMITED),
    )
    .await;
    let completions = answer_all(&forebay, 40).await;
    let failed: Vec<_> = completions
        .iter()
        .filter(|completion| completion.status != Status::Succeeded)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let attempts: usize = completions
        .iter()
        .map(|completion| completion.attempts.len())
        .sum();
    assert_eq!(
        attempts,
        provider.calls().len(),
        "every call is an attempt of some completion"
    );
    assert!(attempts > 40, "there were faults");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_provider_is_left_alone_by_every_account_until_it_recovers() {
    let accounts = ["name=one,key=sk-one", "name=two,key=sk-two"];
    let four = "{ concurrent = 4 }";
    let (forebay, provider) = two_accounts(
        &accounts,
        "error=1",
        (&["sk-one"], four),
        (&["sk-two"], four),
    )
    .await;
    const JOBS: usize = 60;
    for job in 0..JOBS {
        forebay
            .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
            .await;
    }
    let stopped = || {
        let accounts = forebay.worker().snapshot().accounts;
        let mut states = accounts
            .iter()
            .flat_map(|account| &account.models)
            .map(|model| &model.state);
        accounts.iter().all(|account| !account.models.is_empty())
            && states.all(|state| state.name() == "cooling")
    };
    until("both accounts to stop", async || stopped()).await;
    provider.fail(FaultPlan::default());
    let (mut failing_jobs, mut attempts) = (0, 0);
    for job in 0..JOBS {
        let completion = forebay.completion("default", None, &job.to_string()).await;
        assert_eq!(completion.status, Status::Succeeded);
        failing_jobs += usize::from(completion.attempts.len() > 1);
        attempts += completion.attempts.len();
    }
    // A job that is tried again at once shows nothing new.
    assert!(
        (10..=18).contains(&failing_jobs),
        "the jobs that show it, and the eight in flight then: {failing_jobs}"
    );
    assert!(attempts - JOBS < 2 * failing_jobs, "{attempts} attempts");
    assert_eq!(provider.calls().len(), attempts);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_call_is_not_repeated_when_the_job_says_so() {
    let accounts = ["name=one,key=sk-one", "name=two,key=sk-two"];
    let (forebay, provider) = two_accounts(
        &accounts,
        "reset=1",
        (&["sk-one"], UNLIMITED),
        (&["sk-two"], UNLIMITED),
    )
    .await;
    let mut job = chat("once", "hello");
    job["on_ambiguous"] = json!(OnAmbiguous::Fail);
    forebay.publish("ai.jobs.chat", &job).await;
    let completion = forebay.completion("default", None, "once").await;
    assert_eq!(
        (completion.status, completion.attempts.len()),
        (Status::Failed, 1)
    );
    assert_eq!(
        completion.error.expect("an error").class,
        Class::NetAfterSend
    );
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_provider_refuses_fails_with_the_providers_answer() {
    let accounts = ["name=one,key=sk-one", "name=two,key=sk-two"];
    let (forebay, provider) = two_accounts(
        &accounts,
        "",
        (&["sk-one"], UNLIMITED),
        (&["sk-two"], UNLIMITED),
    )
    .await;
    forebay
        .publish(
            "ai.jobs.chat",
            &json!({ "id": "bad", "body": { "messages": [] } }),
        )
        .await;
    let completion = forebay.completion("default", None, "bad").await;
    let error = completion.error.as_ref().expect("an error");
    assert_eq!(
        (completion.status, error.class, completion.attempts.len()),
        (Status::Failed, Class::BadRequest, 1)
    );
    assert_eq!(completion.response.as_ref().expect("kept").status_code, 400);
    let line = completion.output_line();
    assert!(
        line.error.is_none() && line.response.is_some(),
        "OpenAI's shape of an HTTP error"
    );
    assert_eq!(provider.calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_request_does_not_fail_the_others() {
    let accounts = ["name=one,key=sk-one", "name=two,key=sk-two"];
    let (forebay, _provider) = two_accounts(
        &accounts,
        "",
        (&["sk-one"], UNLIMITED),
        (&["sk-two"], UNLIMITED),
    )
    .await;
    // Large enough that no estimate of it fits a turn.
    let greedy = json!({ "id": "greedy", "body": { "messages": [{ "role": "user", "content": "x" }], "max_tokens": u64::MAX } });
    forebay.publish("ai.jobs.chat", &greedy).await;
    forebay
        .publish(
            "ai.jobs.chat",
            &json!({ "id": "nowhere", "url": "/v1/embeddings", "body": { "input": 3 } }),
        )
        .await;
    let nowhere = forebay.completion("default", None, "nowhere").await;
    assert_eq!(nowhere.status, Status::Failed);
    assert!(
        answer_all(&forebay, 5)
            .await
            .iter()
            .all(|completion| completion.status == Status::Succeeded)
    );
    assert_eq!(
        forebay.completion("default", None, "greedy").await.status,
        Status::Succeeded
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_tier_is_used_after_its_wait() {
    let hangs = provider(&["name=one,key=sk-one"], "hang=1").await;
    let answers = provider(&["name=two,key=sk-two"], "").await;
    let forebay = Forebay::builder()
        .account(Account::at("one", &hangs).limits("{ concurrent = 1 }"))
        .account(Account::at("two", &answers))
        .config(
            "[pool.chat]\ntargets = [\n{ account = \"one\", model = \"m\" },\n\
             { account = \"two\", model = \"m\", tier = 1, after = \"1s\" },\n]\n",
        )
        .start()
        .await;
    forebay
        .publish("ai.jobs.chat", &chat("hangs", "hello"))
        .await;
    wait_for_calls(&hangs, 1).await;
    forebay
        .publish("ai.jobs.chat", &chat("waits", "hello"))
        .await;
    let completion = forebay.completion("default", None, "waits").await;
    let attempt = &completion.attempts[0];
    assert!(
        attempt.account == "two" && attempt.waited_ms >= 1_000,
        "{completion:?}"
    );
    // The call that hangs is not waited for.
    forebay.stop_within(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teams_limits_delay_only_its_own_jobs() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .config("[team.large]\n[team.small]\nlimits = [{ requests = 2, per = \"1h\" }, { concurrent = 1 }]\n")
        .start()
        .await;
    for id in 0..4 {
        forebay
            .publish("ai.jobs.chat.small", &chat(&id.to_string(), "hello"))
            .await;
    }
    for id in 0..2 {
        forebay.completion("small", None, &id.to_string()).await;
    }
    for id in 0..10 {
        forebay
            .publish("ai.jobs.chat.large", &chat(&id.to_string(), "hello"))
            .await;
        assert_eq!(
            answer_text(&forebay.completion("large", None, &id.to_string()).await),
            "You said: hello"
        );
    }
    assert_eq!(provider.calls().len(), 12);
    let jobs = forebay.connection.names.jobs_stream();
    until("all but two jobs", async || {
        forebay.count(jobs.clone()).await <= 2
    })
    .await;
    assert_eq!(forebay.count(jobs).await, 2, "the team's others wait");
}
