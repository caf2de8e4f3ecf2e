//! Two teams share an account, and the provider fails at every prompt of one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_schemas::Lane;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fallback::{Answer, NO_ANSWER, ScriptedRun, Tiers, answer};

const SECOND: Duration = Duration::from_secs(1);
/// Jobs of the good team: fewer than its half of a minute's calls.
const GOOD_JOBS: usize = 900;
const EVIL_JOBS: usize = 2_000;

/// An account of 40 calls a second.
fn account() -> Tiers {
    Tiers::of_rate(40)
}

/// The calls of the good team in a minute, beside a team at whose prompts the provider fails with `poison`. Some calls of the
/// good team fail too, as happens at every provider.
async fn good_calls(poison: Answer, evil_jobs: usize) -> usize {
    let good = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&good);
    let script = move |_: &str, body: &Value| {
        let text = body.pointer("/messages/0/content").and_then(Value::as_str);
        if text.is_some_and(|text| text.starts_with("poison")) {
            return poison.clone();
        }
        match counted.fetch_add(1, Ordering::Relaxed) % 50 {
            49 => (500, None, "{}".to_owned()),
            _ => answer(),
        }
    };
    let run = account().start(script).await;
    run.publish("good", Lane::Normal, GOOD_JOBS, "text");
    run.publish("evil", Lane::Normal, evil_jobs, "poison");
    tokio::time::sleep(Duration::from_secs(60)).await;
    good.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_team_keeps_its_share_beside_every_kind_of_failing_prompt() {
    let error = |message: &str| json!({ "error": { "message": message, "type": "server_error" } });
    let alone = good_calls(answer(), 0).await;
    assert!(alone >= GOOD_JOBS, "each is called: {alone}");
    for (status, header, body) in [
        (500, None, error("boom").to_string()),
        (502, None, "bad gateway".to_owned()),
        (503, None, error("overloaded").to_string()),
        (503, Some(("retry-after", "60")), error("later").to_string()),
        (504, None, error("timeout").to_string()),
        (200, None, "<html>".to_owned()),
        (400, None, error("bad request").to_string()),
        (NO_ANSWER, None, String::new()),
    ] {
        let poison = (status, header, body);
        let beside = good_calls(poison.clone(), EVIL_JOBS).await;
        assert!(beside * 10 >= alone * 9, "{poison:?}: {beside} of {alone}");
    }
}

/// The texts that were called, each with the time since the start.
type Calls = Arc<Mutex<Vec<(Duration, String)>>>;

/// Publishes jobs of two teams to a provider that fails at every call for `outage`, and then at each job that it met before.
async fn outage_of(outage: Duration, jobs: usize) -> (ScriptedRun, Calls) {
    let calls = Calls::default();
    let noted = Arc::clone(&calls);
    let start = Instant::now();
    let script = move |_: &str, body: &Value| {
        let text = body["messages"][0]["content"].to_string();
        let mut calls = noted.lock();
        let is_new = calls.iter().all(|(_, before)| *before != text);
        calls.push((start.elapsed(), text));
        match start.elapsed() > outage && is_new {
            true => answer(),
            false => (500, None, "{}".to_owned()),
        }
    };
    let run = account().start(script).await;
    // It is often next in turn, with jobs that have failed.
    run.publish("few", Lane::Normal, 5, "few");
    run.publish("many", Lane::Normal, jobs, "text");
    (run, calls)
}

#[tokio::test(start_paused = true)]
async fn a_probe_takes_a_job_that_has_not_failed() {
    let outage = 10 * SECOND;
    let (_run, calls) = outage_of(outage, 2_000).await;
    tokio::time::sleep(30 * SECOND).await;
    let calls = calls.lock();
    let during = calls.iter().filter(|(at, _)| *at <= outage).count();
    assert!(during < 20, "the circuit opens: {during} calls");
    let probe = &calls[during].1;
    let before: Vec<_> = calls[..during].iter().map(|(_, text)| text).collect();
    assert!(!before.contains(&probe), "{probe} had failed");
    assert!(calls.len() > 100, "calls go on: {}", calls.len());
}

#[tokio::test(start_paused = true)]
async fn jobs_that_have_failed_probe_where_no_other_waits() {
    let (run, calls) = outage_of(10 * SECOND, 12).await;
    let hour = 3_600 * SECOND;
    tokio::time::sleep(hour).await;
    let in_an_hour = calls.lock().len();
    assert!(in_an_hour > 60, "probes go on: {in_an_hour}");
    tokio::time::sleep(24 * hour).await;
    assert_eq!(run.queue.completions().len(), 12 + 5, "patience ends");
}
