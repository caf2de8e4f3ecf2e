//! The memory that large jobs take: one budget for all queues.

use async_nats::HeaderMap;
use forebay_schemas::Status;
use forebay_schemas::header::OBJECT_HEADER;
use forebay_simulator::Provider;
use forebay_workers::{PauseTarget, WorkerSnapshot};
use serde_json::{Value, json};

use crate::support::{
    Account, Forebay, answer_text, chat, control, eventually, provider, until, wait_for_calls,
};

/// Memory for the jobs of all queues, in bytes.
const BUDGET: usize = 256 << 20;
/// Bytes of a job of which two have room at once: each counts three times.
const LARGE: usize = 30 << 20;
const AT_ONCE: usize = 2;

/// Pools `chat`, which is paused, and `other`, each over an account of its own.
async fn with_paused_pool() -> (Forebay, Provider) {
    with_paused_pool_and("").await
}

async fn with_paused_pool_and(config: &str) -> (Forebay, Provider) {
    let provider = provider(&["name=one,key=sk-one", "name=two,key=sk-two"], "").await;
    let forebay = Forebay::builder()
        .account(Account::at("one", &provider))
        .account(Account::at("two", &provider))
        .pool("chat", "gpt-4o-mini", &["one"])
        .pool("other", "gpt-4o-mini", &["two"])
        .config(config)
        .start()
        .await;
    let _: Value = control(&forebay, "pause", &chat_pool())
        .await
        .expect("paused");
    (forebay, provider)
}

fn chat_pool() -> PauseTarget {
    PauseTarget::Pool("chat".to_owned())
}

async fn publish_large(forebay: &Forebay, pool: &str, team: &str, id: &str) {
    let mut job = chat(id, "hello");
    job["body"]["pad"] = json!("x".repeat(LARGE));
    let object = format!("{team}/{id}");
    let requests = forebay.connection.requests();
    let job = job.to_string().into();
    requests.put(&object, &job).await.expect("put");
    let mut headers = HeaderMap::new();
    headers.insert(OBJECT_HEADER, object.as_str());
    let subject = format!("ai.jobs.{pool}.{team}");
    let message = json!({ "id": id });
    forebay.publish_with(&subject, &message, headers).await;
}

/// A snapshot, in which all jobs are within the budget.
fn within_budget(forebay: &Forebay) -> WorkerSnapshot {
    let snapshot = forebay.worker().snapshot();
    assert!(snapshot.job_memory <= BUDGET, "{}", snapshot.job_memory);
    snapshot
}

async fn ends_once(forebay: &Forebay, team: &str, id: &str) {
    let completion = forebay.completion(team, None, id).await;
    assert_eq!(answer_text(&completion), "You said: hello");
    assert_eq!(completion.attempts.len(), 1, "{id}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_jobs_of_all_queues_share_one_budget_and_small_ones_pass_them() {
    const JOBS: usize = 4;
    let (forebay, provider) = with_paused_pool().await;
    let teams = ["a", "b"];
    for index in 0..JOBS {
        let team = teams[index % teams.len()];
        publish_large(&forebay, "chat", team, &format!("large-{index}")).await;
    }
    until("jobs that wait for memory", async || {
        within_budget(&forebay).waiting_for_memory == JOBS - AT_ONCE
    })
    .await;
    for subject in ["ai.jobs.other.a", "ai.jobs.other.d"] {
        forebay.publish(subject, &chat("small", "hello")).await;
    }
    for team in ["a", "d"] {
        ends_once(&forebay, team, "small").await;
    }
    assert_eq!(provider.calls().len(), 2);
    let _: Value = control(&forebay, "resume", &chat_pool())
        .await
        .expect("resumed");
    eventually("the end of all", async || {
        let ended = within_budget(&forebay).ended;
        let succeeded = ended
            .iter()
            .find(|(status, _)| *status == Status::Succeeded);
        succeeded
            .is_some_and(|(_, count)| *count == JOBS as u64 + 2)
            .then_some(())
    })
    .await;
    for index in 0..JOBS {
        let team = teams[index % teams.len()];
        ends_once(&forebay, team, &format!("large-{index}")).await;
    }
    forebay.drained().await;
    until("no memory that is held", async || {
        forebay.worker().snapshot().job_memory == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_jobs_of_a_paused_pool_give_their_memory_to_those_of_another() {
    let (forebay, provider) = with_paused_pool().await;
    for index in 0..=AT_ONCE {
        publish_large(&forebay, "chat", "a", &format!("paused-{index}")).await;
    }
    until("a job that waits for memory", async || {
        within_budget(&forebay).waiting_for_memory == 1
    })
    .await;
    publish_large(&forebay, "other", "b", "called").await;
    ends_once(&forebay, "b", "called").await;
    assert_eq!(provider.calls().len(), 1);
    let _: Value = control(&forebay, "resume", &chat_pool())
        .await
        .expect("resumed");
    for index in 0..=AT_ONCE {
        ends_once(&forebay, "a", &format!("paused-{index}")).await;
    }
    wait_for_calls(&provider, AT_ONCE + 2).await;
    forebay.drained().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_wait_in_the_stream_until_there_is_memory() {
    // Together more than the budget, since each counts three times.
    const MESSAGE: usize = 4 << 20;
    const MESSAGES: usize = 32;
    // A message leaves the memory of its request just before it takes its own, so one of each queue may come on top.
    const MOST: usize = BUDGET + 4 * 3 * MESSAGE;
    let (forebay, provider) =
        with_paused_pool_and("[streams]\njobs_max_bytes = \"256MiB\"\n").await;
    let teams = ["a", "b", "c", "d"];
    for index in 0..MESSAGES {
        let mut job = chat(&index.to_string(), "hello");
        job["body"]["pad"] = json!("x".repeat(MESSAGE));
        let subject = format!("ai.jobs.chat.{}", teams[index % teams.len()]);
        forebay.publish(&subject, &job).await;
    }
    until("queues that wait for memory", async || {
        let snapshot = forebay.worker().snapshot();
        assert!(snapshot.job_memory <= MOST, "{}", snapshot.job_memory);
        snapshot.waiting_for_memory > 0
    })
    .await;
    forebay
        .publish("ai.jobs.other.a", &chat("small", "hello"))
        .await;
    ends_once(&forebay, "a", "small").await;
    assert_eq!(provider.calls().len(), 1);
    let _: Value = control(&forebay, "resume", &chat_pool())
        .await
        .expect("resumed");
    for index in 0..MESSAGES {
        let team = teams[index % teams.len()];
        ends_once(&forebay, team, &index.to_string()).await;
        assert!(forebay.worker().snapshot().job_memory <= MOST);
    }
    forebay.drained().await;
}
