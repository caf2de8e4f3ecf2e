//! Two teams share an account, and the provider fails at every prompt of one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_providers::cost::LimitDimension;
use forebay_schemas::Lane;
use forebay_workers::accounts::{Algorithm, Amount};
use serde_json::{Value, json};

use crate::fallback::{Answer, Tiers, answer};

/// Jobs of the good team: fewer than its half of a minute's calls.
const GOOD_JOBS: usize = 900;
const EVIL_JOBS: usize = 2_000;

/// The calls of the good team in a minute, beside a team at whose prompts the provider fails with `poison`.
async fn good_calls(poison: Answer, evil_jobs: usize) -> usize {
    let limit = Amount::PerPeriod {
        dimension: LimitDimension::Requests,
        limit: 40,
        per: Duration::from_secs(1),
        algorithm: Algorithm::Smooth,
        day_in: None,
    };
    let account = Tiers {
        provider: "openai",
        limit,
        after: &[("one", 0)],
    };
    let good = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&good);
    let script = move |_: &str, body: &Value| {
        let text = body.pointer("/messages/0/content").and_then(Value::as_str);
        if text.is_some_and(|text| text.starts_with("poison")) {
            return poison.clone();
        }
        counted.fetch_add(1, Ordering::Relaxed);
        answer()
    };
    let run = account.start(script).await;
    run.publish("good", Lane::Normal, GOOD_JOBS, "text");
    run.publish("evil", Lane::Normal, evil_jobs, "poison");
    tokio::time::sleep(Duration::from_secs(60)).await;
    good.load(Ordering::Relaxed)
}

#[tokio::test(start_paused = true)]
async fn a_team_keeps_its_share_beside_every_kind_of_failing_prompt() {
    let error = |message: &str| json!({ "error": { "message": message, "type": "server_error" } });
    let alone = good_calls(answer(), 0).await;
    assert_eq!(alone, GOOD_JOBS);
    for (status, header, body) in [
        (500, None, error("boom").to_string()),
        (502, None, "bad gateway".to_owned()),
        (503, None, error("overloaded").to_string()),
        (503, Some(("retry-after", "60")), error("later").to_string()),
        (504, None, error("timeout").to_string()),
        (200, None, "<html>".to_owned()),
        (400, None, error("bad request").to_string()),
    ] {
        let poison = (status, header, body);
        let beside = good_calls(poison.clone(), EVIL_JOBS).await;
        assert!(beside * 10 >= alone * 9, "{poison:?}: {beside} of {alone}");
    }
}
