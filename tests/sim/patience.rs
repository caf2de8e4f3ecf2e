//! The provider fails at every call for a while, in each way in which it can fail to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use forebay_schemas::{Completion, Flow, Lane, Status};
use serde_json::{Value, json};

use crate::fallback::{Answer, NO_ANSWER, ScriptedRun, Tiers, answer};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// A provider that can be switched off.
#[derive(Clone, Default)]
struct Provider {
    is_down: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
}

impl Provider {
    async fn start(&self, failure: Answer) -> ScriptedRun {
        let provider = self.clone();
        let script = move |_: &str, body: &Value| {
            provider.calls.fetch_add(1, Ordering::Relaxed);
            let text = body["messages"][0]["content"].to_string();
            if provider.is_down.load(Ordering::Relaxed) || text.contains("poison") {
                return failure.clone();
            }
            provider.answered.fetch_add(1, Ordering::Relaxed);
            answer()
        };
        Tiers::of_rate(10).start(script).await
    }

    fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }
}

/// Every way in which a provider fails whatever the job.
fn failures() -> Vec<Answer> {
    let error = |message: &str| json!({ "error": { "message": message } }).to_string();
    vec![
        (500, None, error("boom")),
        (502, None, "<html>bad gateway</html>".to_owned()),
        (503, None, error("the model is loading")),
        (503, Some(("retry-after", "20")), error("later")),
        (504, None, String::new()),
        (529, None, error("overloaded")),
        (200, None, "<html>We will be right back</html>".to_owned()),
        (NO_ANSWER, None, String::new()),
    ]
}

fn failed(completions: &[Completion]) -> Vec<&Completion> {
    let has_failed = |completion: &&Completion| completion.status != Status::Succeeded;
    completions.iter().filter(has_failed).collect()
}

#[tokio::test(start_paused = true)]
async fn no_job_is_lost_to_an_outage_whenever_it_begins_and_however_long_it_is() {
    for failure in failures() {
        for (jobs, answered_before, outage) in [
            (12, 0, 30 * SECOND),
            (40, 0, 20 * HOUR),
            (40, 15, MINUTE),
            (40, 37, MINUTE),
            (300, 150, HOUR),
        ] {
            let provider = Provider::default();
            provider.set_down(answered_before == 0);
            let run = provider.start(failure.clone()).await;
            run.publish("t", Lane::Normal, jobs, "text");
            while provider.answered.load(Ordering::Relaxed) < answered_before {
                tokio::time::sleep(SECOND / 100).await;
            }
            provider.set_down(true);
            tokio::time::sleep(outage).await;
            provider.set_down(false);
            run.queue.completed(jobs).await;
            let completions = run.queue.completions();
            let failed = failed(&completions);
            let place = format!("{failure:?} after {answered_before} of {jobs} for {outage:?}");
            assert!(failed.is_empty(), "{place}: {failed:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_while_others_succeed_ends_after_its_attempts() {
    const BAD: usize = 3;
    for failure in failures() {
        let provider = Provider::default();
        let run = provider.start(failure.clone()).await;
        run.publish("t", Lane::Normal, BAD, "poison");
        run.publish("t", Lane::Normal, 1_000, "text");
        run.queue.completed(1_000 + BAD).await;
        let completions = run.queue.completions();
        let failed = failed(&completions);
        assert_eq!(failed.len(), BAD, "{failure:?}");
        let calls = provider.calls.load(Ordering::Relaxed) - 1_000;
        assert!(calls <= BAD * 6, "{failure:?}: {calls} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interactive_job_ends_after_ten_minutes_of_an_outage_and_says_so() {
    for failure in failures() {
        let provider = Provider::default();
        provider.set_down(true);
        let run = provider.start(failure.clone()).await;
        run.publish("t", Lane::Interactive, 2, "text");
        tokio::time::sleep(9 * MINUTE).await;
        assert_eq!(run.queue.completions().len(), 0, "{failure:?}");
        tokio::time::sleep(3 * MINUTE).await;
        let completions = run.queue.completions();
        let failed = failed(&completions);
        assert_eq!(failed.len(), 2, "{failure:?}");
        for completion in failed {
            let error = completion.error.as_ref().expect("an error");
            let says_why = error.message.contains("longer than the patience");
            assert!(says_why, "{failure:?}: {}", error.message);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn patience_repeats_no_call_that_may_have_been_paid() {
    let ambiguous = |answer: &Answer| ![503, 529].contains(&answer.0);
    for failure in failures().into_iter().filter(ambiguous) {
        let provider = Provider::default();
        provider.set_down(true);
        let run = provider.start(failure.clone()).await;
        let flow = Flow {
            pool: "p".to_owned(),
            team: "t".to_owned(),
            lane: Lane::Normal,
        };
        for id in 0..2 {
            let body = json!({ "messages": [{ "role": "user", "content": "text" }] });
            let job = json!({ "id": id.to_string(), "on_ambiguous": "fail", "body": body });
            run.queue.publish(&flow, job.to_string());
        }
        run.queue.completed(2).await;
        assert_eq!(provider.calls.load(Ordering::Relaxed), 2, "{failure:?}");
    }
}
