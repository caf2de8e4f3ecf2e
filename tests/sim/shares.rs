//! Teams and lanes that share an account: who is called, and how often.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Lane;
use forebay_workers::{Config, TeamConfig};
use parking_lot::Mutex;
use serde_json::Value;

use crate::fallback::{ScriptedRun, Tiers, answer};

/// An account of 40 calls a second.
fn config() -> Config {
    Tiers::of_rate(40).config()
}

/// The first words of the texts that were called, in order. Those of a test are equally long, since turns are paid for in
/// tokens.
type Called = Arc<Mutex<Vec<String>>>;

async fn start(config: Config) -> (ScriptedRun, Called) {
    let called = Called::default();
    let noted = Arc::clone(&called);
    let script = move |_: &str, body: &Value| {
        let text = body.pointer("/messages/0/content").and_then(Value::as_str);
        let first = text.and_then(|text| text.split(' ').next());
        noted.lock().push(first.unwrap_or_default().to_owned());
        answer()
    };
    (ScriptedRun::start(config, script).await, called)
}

fn count(called: &Called, text: &str) -> usize {
    let called = called.lock();
    called.iter().filter(|one| *one == text).count()
}

#[tokio::test(start_paused = true)]
async fn a_team_keeps_half_of_the_calls_beside_one_whose_jobs_are_all_urgent() {
    for lane in [Lane::Normal, Lane::Bulk] {
        let (run, called) = start(config()).await;
        run.publish("evil", Lane::Interactive, 3_000, "evil");
        run.publish("good", lane, 1_000, "good");
        tokio::time::sleep(Duration::from_secs(20)).await;
        let (good, all) = (count(&called, "good"), called.lock().len());
        assert!(good * 100 >= all * 49, "{lane}: {good} of {all}");
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_share_what_their_team_gets() {
    let (run, called) = start(config()).await;
    run.publish("busy", Lane::Normal, 2_000, "busy");
    run.publish("both", Lane::Interactive, 2_000, "fast");
    run.publish("both", Lane::Normal, 2_000, "soon");
    tokio::time::sleep(Duration::from_secs(25)).await;
    let (fast, soon) = (count(&called, "fast"), count(&called, "soon"));
    let busy = count(&called, "busy");
    assert!(
        busy.abs_diff(fast + soon) <= 10,
        "{busy} and {fast} + {soon}"
    );
    assert!(fast.abs_diff(4 * soon) <= 10, "{fast} and {soon}");
}

#[tokio::test(start_paused = true)]
async fn a_job_on_a_lane_that_its_team_may_not_use_is_served_in_the_most_urgent_one_that_it_may() {
    let kept = TeamConfig {
        lanes: vec![Lane::Bulk, Lane::Normal],
        ..TeamConfig::default()
    };
    let config = Config {
        teams: HashMap::from([("kept".to_owned(), kept)]),
        ..config()
    };
    let (run, called) = start(config).await;
    run.publish("kept", Lane::Bulk, 500, "bulk");
    run.publish("kept", Lane::Interactive, 500, "fast");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (bulk, fast) = (count(&called, "bulk"), count(&called, "fast"));
    assert!(
        fast.abs_diff(4 * bulk) <= 10,
        "{fast} and {bulk}, as normal ones"
    );
}
