//! The records of calls for jobs that must not be called again, which workers read from each other.

use forebay_schemas::Identity;
use forebay_workers::queue::Queue;
use forebay_workers::queue::jetstream::JetStreamQueue;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::Forebay;

fn encoded(under_way: bool) -> Value {
    json!({ "fingerprint": "f", "revision": 1, "attempts": [], "under_way": under_way })
}

fn record<T: DeserializeOwned>(under_way: bool) -> T {
    serde_json::from_value(encoded(under_way)).expect("a record")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_replaces_no_record_of_calls_that_it_does_not_know() {
    let (forebay, _provider) = Forebay::simple().await;
    let queue = || {
        let names = forebay.connection.names.clone();
        JetStreamQueue::new(forebay.connection.client.clone(), names)
    };
    let (first, second) = (queue(), queue());
    let job = Identity {
        team: "default".into(),
        batch: None,
        id: "a".into(),
    };
    for under_way in [true, false, true] {
        let recorded = first.record_attempts(&job, &record(under_way)).await;
        recorded.expect("it knows its own");
    }
    let unread = second.record_attempts(&job, &record(false)).await;
    unread.expect_err("it has not read the other's");
    let read = second.recorded_attempts(&job).await.expect("read");
    assert_eq!(json!(read), encoded(true));
    second
        .record_attempts(&job, &record(true))
        .await
        .expect("read");
    first
        .record_attempts(&job, &record(false))
        .await
        .expect_err("late");
    second.forget_attempts(&job).await.expect("forgotten");
    first.recorded_attempts(&job).await.expect("read");
    first
        .record_attempts(&job, &record(true))
        .await
        .expect("read");
}
