//! Waits that a provider requests and that no limit explains.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::{Lane, Status};
use forebay_workers::accounts::Amount;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fallback::{Answer, Tiers, answer};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn account() -> Tiers {
    Tiers {
        provider: "openai",
        limit: Amount::Concurrent(1),
        after: &[("one", 0)],
    }
}

fn refusal(status: u16, retry_after: Option<&'static str>, message: &str, kind: &str) -> Answer {
    let header = retry_after.map(|wait| ("retry-after", wait));
    let error = json!({ "error": { "message": message, "type": kind, "code": kind } });
    (status, header, error.to_string())
}

fn absurd_refusals() -> Vec<Answer> {
    let mut refusals = vec![refusal(
        429,
        None,
        "Please try again in 99999h.",
        "rate_limit_exceeded",
    )];
    for wait in [
        "315360000",
        "999999999999",
        "18446744073709551616",
        "Fri, 01 Jan 2099 00:00:00 GMT",
    ] {
        for (status, kind) in [(429, "rate_limit_exceeded"), (503, "server_error")] {
            refusals.push(refusal(status, Some(wait), "later", kind));
        }
    }
    refusals
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_well_again_is_called_within_minutes_whatever_wait_it_requested() {
    for refusal in absurd_refusals() {
        let (start, refused) = (Instant::now(), refusal.clone());
        let script = move |_: &str, _: &Value| match start.elapsed() < 90 * SECOND {
            true => refused.clone(),
            false => answer(),
        };
        let run = account().start(script).await;
        run.publish("default", Lane::Normal, 10, "text");
        let done = tokio::time::timeout(10 * MINUTE, run.queue.completed(10)).await;
        assert!(done.is_ok(), "{refusal:?}");
        let completions = run.queue.completions();
        let is_good = |status| status == Status::Succeeded;
        assert!(
            completions.iter().all(|one| is_good(one.status)),
            "{refusal:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn probes_of_a_wait_that_is_not_believed_come_ever_more_seldom_up_to_one_an_hour() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (noted, start) = (Arc::clone(&calls), Instant::now());
    let script = move |_: &str, _: &Value| {
        noted.lock().push(start.elapsed().as_secs() / 60);
        refusal(429, Some("315360000"), "later", "rate_limit_exceeded")
    };
    let run = account().start(script).await;
    run.publish("default", Lane::Normal, 10, "text");
    tokio::time::sleep(5 * 60 * MINUTE).await;
    assert_eq!(*calls.lock(), [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_an_hour_is_believed_where_no_limit_has_a_period() {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (noted, start) = (Arc::clone(&calls), Instant::now());
    let script = move |_: &str, _: &Value| {
        noted.lock().push(start.elapsed().as_secs() / 60);
        refusal(429, Some("3600"), "later", "rate_limit_exceeded")
    };
    let run = account().start(script).await;
    run.publish("default", Lane::Normal, 10, "text");
    tokio::time::sleep(150 * MINUTE).await;
    assert_eq!(*calls.lock(), [0, 60, 120]);
}
