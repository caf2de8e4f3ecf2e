//! Which target serves a job when another cannot, and what its completion says of that.

use forebay_schemas::{Class, Completion, Reason, Status};
use serde_json::json;

use crate::support::{Forebay, UNLIMITED, head, provider, quota};

/// A pool over `main`, and over `spare` where that cannot serve within an hour.
const POOL: &str = "[pool.chat]\ntargets = [
  { quota = \"main\", model = \"gpt-4o-mini\" },
  { quota = \"spare\", model = \"gpt-4o\", tier = 1, after = \"1h\" },
]\n";

/// Two accounts at two addresses, the first with these faults and limits.
async fn forebay(faults: &str, limits: &str) -> (Forebay, [forebay::simulate::Provider; 2]) {
    let main = provider(&["name=main,key=sk-main"], faults).await;
    let spare = provider(&["name=spare,key=sk-spare"], "").await;
    let dir = tempfile::tempdir().expect("a directory");
    let text = [
        head(dir.path()),
        quota(dir.path(), "main", &main.base_url(), &["sk-main"], limits),
        quota(dir.path(), "spare", &spare.base_url(), &["sk-spare"], UNLIMITED),
        POOL.to_owned(),
    ];
    (Forebay::start(dir, &text.concat()).await, [main, spare])
}

async fn ask(forebay: &Forebay, id: &str) -> Completion {
    let job = json!({ "id": id, "body": { "messages": [{ "role": "user", "content": "hi" }] } });
    forebay.publish("ai.jobs.chat", &job).await;
    forebay.completion("default", None, id).await
}

fn outcomes(completion: &Completion) -> Vec<(&str, &str)> {
    completion.attempts.iter().map(|attempt| (attempt.quota.as_str(), attempt.outcome.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_one_provider_goes_to_the_next_at_once() {
    for (fault, class) in [
        ("overloaded=1", Class::Overloaded),
        ("error=1", Class::ServerError),
        ("malformed=1", Class::MalformedResponse),
        ("reset=1", Class::NetAfterSend),
    ] {
        let (forebay, providers) = forebay(fault, UNLIMITED).await;
        let completion = ask(&forebay, "a").await;
        assert_eq!(completion.status, Status::Succeeded, "{fault}: {completion:?}");
        assert_eq!(outcomes(&completion), [("main", class.as_str()), ("spare", "succeeded")], "{fault}");
        let by = completion.answered_by.expect("somebody answered");
        assert_eq!((by.quota.as_str(), by.model.as_str(), by.reason), ("spare", "gpt-4o", Reason::Failed));
        assert_eq!(providers.iter().map(|provider| provider.calls().len()).collect::<Vec<_>>(), [1, 1]);
        forebay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spent_for_longer_than_the_pool_waits_is_not_waited_for() {
    let (forebay, _providers) = forebay("", "{ requests = 1, per = \"1d\" }").await;
    let first = ask(&forebay, "a").await.answered_by.expect("somebody answered");
    assert_eq!((first.quota.as_str(), first.reason), ("main", Reason::Preferred));
    let second = ask(&forebay, "b").await;
    assert_eq!(outcomes(&second), [("spare", "succeeded")]);
    assert_eq!(second.answered_by.expect("somebody answered").reason, Reason::Unavailable);
    forebay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_room_soon_is_waited_for() {
    let (forebay, [main, spare]) = forebay("", "{ requests = 5, per = \"1s\" }").await;
    for id in ["a", "b", "c"] {
        let job = json!({ "id": id, "body": { "messages": [{ "role": "user", "content": id }] } });
        forebay.publish("ai.jobs.chat", &job).await;
    }
    for id in ["a", "b", "c"] {
        let by = forebay.completion("default", None, id).await.answered_by.expect("somebody answered");
        assert_eq!((by.quota.as_str(), by.reason), ("main", Reason::Preferred));
    }
    assert_eq!((main.calls().len(), spare.calls().len()), (3, 0));
    forebay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nobody_listens_is_not_waited_for() {
    let (forebay, [main, _spare]) = forebay("", UNLIMITED).await;
    drop(main);
    let completion = ask(&forebay, "a").await;
    assert_eq!(completion.status, Status::Succeeded, "{completion:?}");
    assert_eq!(completion.attempts.last().map(|attempt| attempt.quota.as_str()), Some("spare"));
    forebay.stop().await;
}
