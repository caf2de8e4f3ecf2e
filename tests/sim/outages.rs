//! The server takes no completions for a while, in each way in which it can fail to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_schemas::{Flow, Lane};
use forebay_workers::sim::queue::Publishing;
use serde_json::{Value, json};

use crate::fallback::{ScriptedRun, Tiers, answer};

/// Calls into an outage beyond those in flight when it began.
const MAX_CALLS: usize = 64;
const JOBS: usize = 300;

/// Starts a worker that makes `rate` calls a second. Returns it and the number of calls.
async fn start(rate: u64) -> (ScriptedRun, Arc<AtomicUsize>) {
    let calls = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&calls);
    let script = move |_: &str, _: &Value| {
        counted.fetch_add(1, Ordering::Relaxed);
        answer()
    };
    (Tiers::of_rate(rate).start(script).await, calls)
}

fn publish(run: &ScriptedRun) {
    let flow = Flow {
        pool: "p".to_owned(),
        team: "t".to_owned(),
        lane: Lane::Normal,
    };
    for job in 0..JOBS {
        let messages = json!([{ "role": "user", "content": job.to_string() }]);
        let job = json!({ "id": job.to_string(), "body": { "messages": messages } });
        run.queue.publish(&flow, job.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn few_calls_are_made_into_every_kind_of_outage_and_all_go_on_after_it() {
    for outage in [
        Publishing::Refused,
        Publishing::Silent,
        Publishing::Disconnected,
    ] {
        for rate in [40, 200] {
            let (run, calls) = start(rate).await;
            publish(&run);
            run.queue.completed(JOBS / 10).await;
            assert_eq!(run.worker.snapshot().publishing_stops, 0, "before");
            let before = calls.load(Ordering::Relaxed);
            run.queue.set_publishing(outage);
            tokio::time::sleep(Duration::from_secs(300)).await;
            let during = calls.load(Ordering::Relaxed) - before;
            // One is in flight when the outage begins, or four at 200 calls a second.
            let in_flight = 4;
            assert!(
                (MAX_CALLS - 1..=MAX_CALLS + in_flight).contains(&during),
                "{outage:?} at {rate}/s: {during} calls"
            );
            assert_eq!(run.worker.snapshot().publishing_stops, 1, "{outage:?}");
            run.queue.set_publishing(Publishing::Taken);
            run.queue.completed(JOBS).await;
            assert_eq!(calls.load(Ordering::Relaxed), JOBS, "each once");
        }
    }
}
