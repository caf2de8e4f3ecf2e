//! Which target serves a job when another cannot, and what its completion says of that.

use forebay_schemas::{Class, Completion, Reason, Status};
use serde_json::json;

use crate::support::{Account, Forebay, UNLIMITED, provider};

/// A pool over `main`, and over `spare` where that cannot serve within an hour.
const POOL: &str = "[pool.chat]\ntargets = [
  { account = \"main\", model = \"gpt-4o-mini\" },
  { account = \"spare\", model = \"gpt-4o\", tier = 1, after = \"1h\" },
]\n";

/// Two accounts at two addresses, the first with these faults and limits.
async fn forebay(faults: &str, limits: &str) -> (Forebay, [forebay_simulator::Provider; 2]) {
    let main = provider(&["name=main,key=sk-main"], faults).await;
    let spare = provider(&["name=spare,key=sk-spare"], "").await;
    let forebay = Forebay::builder()
        .account(Account::at("main", &main).limits(limits))
        .account(Account::at("spare", &spare))
        .config(POOL)
        .start()
        .await;
    (forebay, [main, spare])
}

async fn ask(forebay: &Forebay, id: &str) -> Completion {
    let job = json!({ "id": id, "body": { "messages": [{ "role": "user", "content": "hi" }] } });
    forebay.publish("ai.jobs.chat", &job).await;
    forebay.completion("default", None, id).await
}

fn outcomes(completion: &Completion) -> Vec<(&str, &str)> {
    completion
        .attempts
        .iter()
        .map(|attempt| (attempt.account.as_str(), attempt.outcome.as_str()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_at_one_provider_goes_to_the_next_at_once() {
    for (fault, class) in [
        ("overloaded=1", Class::Overloaded),
        ("error=1", Class::ServerError),
        ("malformed=1", Class::MalformedResponse),
        ("reset=1", Class::NetAfterSend),
    ] {
        let (forebay, providers) = forebay(fault, UNLIMITED).await;
        let completion = ask(&forebay, "a").await;
        assert_eq!(
            completion.status,
            Status::Succeeded,
            "{fault}: {completion:?}"
        );
        assert_eq!(
            outcomes(&completion),
            [("main", class.as_str()), ("spare", "succeeded")],
            "{fault}"
        );
        let by = completion.answered_by.expect("somebody answered");
        assert_eq!(
            (by.account.as_str(), by.model.as_str(), by.reason),
            ("spare", "gpt-4o", Reason::Failed)
        );
        assert_eq!(
            providers
                .iter()
                .map(|provider| provider.calls().len())
                .collect::<Vec<_>>(),
            [1, 1]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_whose_limit_is_spent_for_longer_than_the_pool_waits_is_skipped() {
    let (forebay, _providers) = forebay("", "{ requests = 1, per = \"1d\" }").await;
    let first = ask(&forebay, "a")
        .await
        .answered_by
        .expect("somebody answered");
    assert_eq!(
        (first.account.as_str(), first.reason),
        ("main", Reason::Preferred)
    );
    let second = ask(&forebay, "b").await;
    assert_eq!(outcomes(&second), [("spare", "succeeded")]);
    assert_eq!(
        second.answered_by.expect("somebody answered").reason,
        Reason::Unavailable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preferred_target_with_room_soon_is_waited_for() {
    let (forebay, [main, spare]) = forebay("", "{ requests = 5, per = \"1s\" }").await;
    for id in ["a", "b", "c"] {
        let job = json!({ "id": id, "body": { "messages": [{ "role": "user", "content": id }] } });
        forebay.publish("ai.jobs.chat", &job).await;
    }
    for id in ["a", "b", "c"] {
        let by = forebay
            .completion("default", None, id)
            .await
            .answered_by
            .expect("somebody answered");
        assert_eq!(
            (by.account.as_str(), by.reason),
            ("main", Reason::Preferred)
        );
    }
    assert_eq!((main.calls().len(), spare.calls().len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_target_is_skipped() {
    let (forebay, [main, _spare]) = forebay("", UNLIMITED).await;
    drop(main);
    let completion = ask(&forebay, "a").await;
    assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
    assert_eq!(
        completion
            .attempts
            .last()
            .map(|attempt| attempt.account.as_str()),
        Some("spare")
    );
}

/// What one target answers that fails so goes to another of these, if to any.
async fn served_by(
    failure: &str,
    more: &str,
    windows: [Option<u64>; 3],
) -> (Completion, Vec<String>) {
    let simulated = provider(&["name=one,key=sk-one"], "").await;
    let models = [
        format!("fail-{failure}"),
        "small".to_owned(),
        "large".to_owned(),
    ];
    let targets: Vec<_> = models
        .iter()
        .zip(windows)
        .enumerate()
        .map(|(tier, (model, window))| {
            let window =
                window.map_or_else(String::new, |tokens| format!(", context_window = {tokens}"));
            format!("{{ account = \"one\", model = \"{model}\", tier = {tier}{window} }}")
        })
        .collect();
    let pool = format!("[pool.chat]\ntargets = [{}]\n{more}", targets.join(", "));
    let forebay = Forebay::builder()
        .account(Account::at("one", &simulated))
        .config(&pool)
        .start()
        .await;
    let completion = ask(&forebay, "a").await;
    let asked = completion
        .attempts
        .iter()
        .map(|attempt| attempt.model.clone())
        .collect();
    (completion, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_too_long_for_its_target_goes_only_to_a_larger_context_window() {
    let windows = [Some(8_000), Some(8_000), Some(1_000_000)];
    let (completion, asked) = served_by("context_too_long", "", windows).await;
    assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
    assert_eq!(asked, ["fail-context_too_long", "large"]);
    let (completion, asked) =
        served_by("context_too_long", "", [Some(8_000), None, Some(8_000)]).await;
    assert_eq!(
        completion.error.map(|error| error.class),
        Some(Class::ContextTooLong)
    );
    assert_eq!(asked, ["fail-context_too_long"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_refused_for_its_content_goes_to_another_target_only_if_the_pool_says_so() {
    let (completion, asked) = served_by("content_filtered", "", [None; 3]).await;
    assert_eq!(
        completion.error.map(|error| error.class),
        Some(Class::ContentFiltered)
    );
    assert_eq!(asked, ["fail-content_filtered"]);
    let (completion, asked) =
        served_by("content_filtered", "content_fallback = true\n", [None; 3]).await;
    assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
    assert_eq!(asked, ["fail-content_filtered", "small"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_goes_to_no_other_target() {
    let (completion, asked) =
        served_by("bad_request", "content_fallback = true\n", [None; 3]).await;
    assert_eq!(
        completion.error.map(|error| error.class),
        Some(Class::BadRequest)
    );
    assert_eq!(asked, ["fail-bad_request"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_one_provider_lacks_goes_to_another_or_is_refused_by_name() {
    let simulated = provider(
        &[
            "provider=anthropic,name=claude,key=sk-a",
            "provider=openai,name=gpt,key=sk-b",
        ],
        "",
    )
    .await;
    let forebay = Forebay::builder()
        .account(Account::at("claude", &simulated).provider("anthropic", ""))
        .account(Account::at("gpt", &simulated))
        .pool("claude", "c", &["claude"])
        .config(
            "[pool.chat]\ntargets = [\n{ account = \"claude\", model = \"c\" },\n\
             { account = \"gpt\", model = \"g\", tier = 1 },\n]\n",
        )
        .start()
        .await;
    let body = json!({ "logprobs": true, "messages": [{ "role": "user", "content": "hi" }] });
    forebay
        .publish("ai.jobs.chat", &json!({ "id": "a", "body": body }))
        .await;
    let by = forebay
        .completion("default", None, "a")
        .await
        .answered_by
        .expect("somebody answered");
    assert_eq!(
        (by.account.as_str(), by.reason),
        ("gpt", Reason::Unsupported)
    );
    forebay
        .publish("ai.jobs.claude", &json!({ "id": "b", "body": body }))
        .await;
    let error = forebay
        .completion("default", None, "b")
        .await
        .error
        .expect("refused");
    assert_eq!(error.code, "unsupported");
    assert!(error.message.contains("`body.logprobs`"), "{error:?}");
    // What is wrong whoever is asked has another code.
    let mut wrong = body.clone();
    (wrong["logprobs"], wrong["temperature"]) = (json!(null), json!("hot"));
    forebay
        .publish("ai.jobs.claude", &json!({ "id": "c", "body": wrong }))
        .await;
    let error = forebay
        .completion("default", None, "c")
        .await
        .error
        .expect("refused");
    assert_eq!(error.code, "invalid_value");
    assert!(error.message.contains("`body.temperature`"), "{error:?}");
    assert!(
        simulated.calls().iter().all(|call| call.account == "gpt"),
        "nothing was asked that cannot be said"
    );
}
