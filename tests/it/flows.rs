//! Flows: many of them, and what is kept at the server for each.

use std::sync::Arc;

use forebay_schemas::{Flow, Lane, Names};
use forebay_workers::queue::jetstream::JetStreamQueue;
use forebay_workers::queue::{ActiveReadings, Credit, Queue, QueueReading};

use crate::support::{Forebay, chat, soon};

#[tokio::test(flavor = "multi_thread")]
async fn a_flows_consumer_is_deleted_only_when_no_job_waits_or_is_held() {
    let (forebay, _provider) = Forebay::simple().await;
    let connection = &forebay.connection;
    let names = Names::new("other").expect("a name");
    let sizes = Forebay::builder().parse().streams;
    forebay::nats::streams::establish(&connection.context, &names, &sizes, &connection.secrets)
        .await
        .expect("established");
    let queue = JetStreamQueue::new(connection.client.clone(), names.clone());
    let mut found = queue
        .find(Arc::new(ActiveReadings::default()))
        .await
        .expect("found");
    let flow = Flow {
        pool: "p".to_owned(),
        team: "t".to_owned(),
        lane: Lane::Bulk,
    };
    forebay.publish(&names.job(&flow), &chat("1", "x")).await;
    let reading = soon("the flow", found.recv()).await.expect("open");
    assert_eq!(reading, QueueReading { flow, due: false });

    queue.prepare(&reading).await.expect("prepared");
    assert!(!queue.forget(&reading).await.expect("asked"), "a job waits");
    let (_more, credit) = Credit::new(5);
    let mut source = queue.open(&reading, credit, &Arc::default());
    let delivery = soon("the job", source.deliveries.recv())
        .await
        .expect("open");
    let (rest, credit) = source.close().await;
    assert_eq!((rest.len(), credit.expect("it ends well").open), (0, 4));
    assert!(
        !queue.forget(&reading).await.expect("asked"),
        "the job is held"
    );
    queue.ack(delivery.receipt).await.expect("acked");
    assert!(queue.forget(&reading).await.expect("asked"));
    let jobs = connection
        .context
        .get_stream(names.jobs_stream())
        .await
        .expect("the stream");
    assert_eq!(jobs.cached_info().state.consumer_count, 0);
    assert!(
        queue.forget(&reading).await.expect("asked"),
        "it has gone already"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_teams_than_are_read_at_once_are_all_served() {
    const TEAMS: usize = 1_200;
    let (forebay, provider) = Forebay::simple().await;
    for team in 0..TEAMS {
        forebay
            .publish(&format!("ai.jobs.chat.team-{team}"), &chat("1", "hello"))
            .await;
    }
    forebay.drained().await;
    assert_eq!(provider.calls().len(), TEAMS);
    assert_eq!(
        forebay
            .count(forebay.connection.names.completions_stream())
            .await,
        TEAMS as u64
    );
}
