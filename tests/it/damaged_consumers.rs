//! A NATS server that cannot read the state of its consumers any more, as after a power loss.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_schemas::Status;
use forebay_simulator::Provider;

use crate::support::{Forebay, chat, nats_server, slow_provider, until, wait_for_calls};

const JOBS: usize = 60;

async fn server(dir: &Path, port: &str) -> (tokio::process::Child, String) {
    let store = dir.join("store");
    let config = format!("port: {port}\njetstream {{ store_dir: {store:?} }}\n");
    nats_server(dir, &config, &[]).await
}

async fn forebay(address: &str, provider: &Provider) -> Forebay {
    Forebay::limited(provider, "{ concurrent = 4 }")
        .nats(address)
        .start()
        .await
}

/// Returns the files that hold the state of the consumers of a stream.
fn states(dir: &Path, stream: &str) -> Vec<PathBuf> {
    let consumers = dir.join(format!("store/jetstream/$G/streams/{stream}/obs"));
    let consumers = std::fs::read_dir(consumers).expect("the stream has consumers");
    consumers
        .map(|consumer| consumer.expect("readable").path().join("o.dat"))
        .collect()
}

async fn publish(forebay: &Forebay, jobs: std::ops::Range<usize>) {
    for job in jobs {
        forebay
            .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
            .await;
    }
}

async fn wait_for(forebay: &Forebay, jobs: usize) {
    until("the jobs' ends", async || {
        let ended = forebay.worker().snapshot().ended;
        ended.contains(&(Status::Succeeded, jobs as u64))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_consumer_is_made_under_another_name_and_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut nats, address) = server(dir.path(), "-1").await;
    let port = address.rsplit(':').next().expect("a port").to_owned();
    let provider = slow_provider(Duration::from_millis(20)).await;
    let running = forebay(&address, &provider).await;
    publish(&running, 0..JOBS).await;
    wait_for_calls(&provider, JOBS / 4).await;
    nats.kill().await.expect("killed");
    let damaged = states(dir.path(), "AI_JOBS");
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    std::fs::write(&damaged[0], b"damaged").expect("written");
    let (_nats, _) = server(dir.path(), &port).await;
    // The worker that ran meanwhile goes on by itself.
    wait_for(&running, JOBS).await;
    assert_eq!(provider.calls().len(), JOBS, "each once");
    running.stop().await;
    // So does the next one, with the damaged state still there.
    let next = forebay(&address, &provider).await;
    publish(&next, JOBS..2 * JOBS).await;
    wait_for(&next, JOBS).await;
    let context = &next.connection.context;
    let stream = context.get_stream("AI_JOBS").await.expect("the stream");
    assert_eq!(stream.cached_info().state.consumer_count, 1);
    assert_eq!(provider.calls().len(), 2 * JOBS, "each once");
}
