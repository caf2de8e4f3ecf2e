//! Forebay on a cluster of three NATS servers. `make cluster` runs these tests.

use std::time::Duration;

use async_nats::jetstream::Context;
use forebay_schemas::Names;

use crate::support::cluster::Cluster;
use crate::support::{Forebay, answer_text, chat, eventually_within, provider};

/// How long a stream may take to choose a leader after the loss of one.
const LEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// The number of streams, those of buckets included.
const STREAMS: usize = 11;

/// The replicas of each stream, in the order of [`Names::all_streams`].
async fn replicas(context: &Context) -> [usize; STREAMS] {
    let mut replicas = [0; STREAMS];
    for (replicas, stream) in replicas.iter_mut().zip(Names::default().all_streams()) {
        let stream = context.get_stream(&stream).await.expect("the stream");
        *replicas = stream.cached_info().config.num_replicas;
    }
    replicas
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "of `make cluster`: three servers, each of which syncs"]
async fn a_fresh_cluster_gets_three_replicas_and_a_start_keeps_what_the_operator_sets() {
    let dir = tempfile::tempdir().expect("a directory");
    let cluster = Cluster::start(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .nats(&cluster.url())
        .start()
        .await;
    assert_eq!(replicas(&forebay.connection.context).await, [3; STREAMS]);

    let context = forebay.connection.context.clone();
    let mut set = [3; STREAMS];
    for (replicas, stream) in set.iter_mut().zip(Names::default().all_streams()).skip(1) {
        let found = context.get_stream(&stream).await.expect("the stream");
        let mut config = found.cached_info().config.clone();
        config.num_replicas = 1;
        config.description = Some("the operator's".to_owned());
        context.update_stream(config).await.expect("updated");
        *replicas = 1;
    }
    let forebay = forebay.restart().await;
    assert_eq!(replicas(&forebay.connection.context).await, set);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "of `make cluster`: three servers, each of which syncs"]
async fn the_loss_of_one_server_of_a_cluster_stops_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::start(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .nats(&cluster.url())
        .start()
        .await;
    forebay
        .publish("ai.jobs.chat", &chat("before", "hello"))
        .await;
    forebay.completion("default", None, "before").await;

    cluster.kill(0).await;
    let context = forebay.connection.context.clone();
    let job = chat("after", "hello").to_string();
    eventually_within(
        LEADER_TIMEOUT,
        "a publisher's acknowledgement",
        async || {
            let sent = context.publish("ai.jobs.chat", job.clone().into()).await;
            sent.ok()?.await.ok()
        },
    )
    .await;
    forebay.drained().await;
    let after = forebay.completion("default", None, "after").await;
    assert_eq!(answer_text(&after), "You said: hello");
    let forebay = forebay.restart().await;
    forebay
        .publish("ai.jobs.chat", &chat("later", "hello"))
        .await;
    forebay.completion("default", None, "later").await;
}
