//! A NATS server that has no storage left, and one that is away, cut off or silent.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use forebay_schemas::Status;
use forebay_simulator::Provider;
use futures::StreamExt;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{
    Forebay, SMALLEST_STREAMS, chat, eventually_within, nats_server, provider, slow_provider, soon,
    until, wait_for_calls,
};

const JOBS: usize = 300;
/// Calls at once.
const AT_ONCE: usize = 2;
/// Calls into an outage beyond those in flight when it began.
const MANY: u64 = 64;
/// Longer than the ack wait of 30 s.
const AWAY: Duration = Duration::from_secs(35);
/// What is told to be delivered again is, after the ack wait.
const REDELIVERY_TIMEOUT: Duration = Duration::from_secs(90);

async fn forebay(address: &str, streams: &str) -> (Forebay, Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    (forebay_with(address, streams, &provider).await, provider)
}

async fn forebay_with(address: &str, streams: &str, provider: &Provider) -> Forebay {
    let limits = format!("{{ concurrent = {AT_ONCE} }}");
    limited(address, streams, provider, &limits).await
}

async fn limited(address: &str, streams: &str, provider: &Provider, limits: &str) -> Forebay {
    Forebay::limited(provider, limits)
        .nats(address)
        .config(streams)
        .start()
        .await
}

/// Waits until so many jobs succeeded.
async fn wait_for_successes(forebay: &Forebay, jobs: usize) {
    eventually_within(REDELIVERY_TIMEOUT, &format!("{jobs} jobs"), async || {
        let ended = forebay.worker().snapshot().ended;
        ended
            .contains(&(Status::Succeeded, jobs as u64))
            .then_some(())
    })
    .await;
    assert_eq!(
        forebay.count("AI_COMPLETIONS".to_owned()).await,
        jobs as u64,
        "each once"
    );
}

/// Waits until so many completions were tried again, each of which the server refuses.
async fn wait_for_refused_completions(forebay: &Forebay, completions: usize) {
    // A subscriber hears of what no stream keeps, too.
    let client = &forebay.connection.client;
    let mut tried = client
        .subscribe("ai.completions.>")
        .await
        .expect("subscribed");
    let mut subjects = BTreeSet::new();
    while subjects.len() < completions {
        let message = soon("a completion", tried.next()).await.expect("open");
        subjects.insert(message.subject);
    }
}

/// Publishes to a stream of somebody else's until the server has no room left.
async fn fill(forebay: &Forebay) {
    let context = &forebay.connection.context;
    let config = async_nats::jetstream::stream::Config {
        name: "FILL".to_owned(),
        ..Default::default()
    };
    context.create_stream(config).await.expect("a stream");
    for size in [900_000, 10_000, 1_000] {
        loop {
            let published = async {
                context
                    .publish("FILL", vec![b'x'; size].into())
                    .await?
                    .await
            };
            if published.await.is_err() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_without_storage_refuses_publishers_stops_calls_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = dir.path().join("store");
    let jetstream = format!("jetstream {{ store_dir: {store:?}, max_file_store: 80MB }}\n");
    let (_server, address) = nats_server(dir.path(), &jetstream, &[]).await;
    let provider = slow_provider(Duration::from_millis(50)).await;
    let forebay = forebay_with(&address, SMALLEST_STREAMS, &provider).await;
    for job in 0..JOBS {
        forebay
            .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
            .await;
    }
    wait_for_calls(&provider, 1).await;
    fill(&forebay).await;
    let refused = async {
        let job = json!({ "body": {} }).to_string().into();
        forebay
            .connection
            .context
            .publish("ai.jobs.chat", job)
            .await?
            .await
    };
    let refused = refused.await.expect_err("refused").to_string();
    assert!(refused.contains("insufficient resources"), "{refused}");
    // A server that stores nothing does not renew the lease either.
    until("calls stop", async || {
        forebay.worker().snapshot().publishing_stops > 0 || !forebay.worker().may_call()
    })
    .await;
    let calls = provider.calls().len();
    let unpublished = forebay.worker().snapshot().in_flight.min(MANY);
    wait_for_refused_completions(&forebay, unpublished as usize).await;
    let later = provider.calls().len();
    // Some of the many were still under proxy.
    assert!(
        later <= calls + 4 * AT_ONCE && later < JOBS,
        "{calls} calls, and then {later}"
    );
    forebay
        .connection
        .context
        .delete_stream("FILL")
        .await
        .expect("deleted");
    wait_for_successes(&forebay, JOBS).await;
    assert_eq!(provider.calls().len(), JOBS, "no call was lost");
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().expect("a port")
}

async fn start(dir: &Path, port: &str) -> (tokio::process::Child, String) {
    let store = dir.join("store");
    nats_server(
        dir,
        &format!("port: {port}\njetstream {{ store_dir: {store:?} }}\n"),
        &[],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_away_for_longer_than_the_ack_wait_costs_no_job_and_no_call() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut server, address) = start(dir.path(), "-1").await;
    let (forebay, provider) = forebay(&address, "").await;
    for job in 0..JOBS {
        forebay
            .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
            .await;
    }
    wait_for_calls(&provider, JOBS / 10).await;
    server.kill().await.expect("killed");
    // This time is what is tested.
    tokio::time::sleep(AWAY).await;
    let (_server, _) = start(dir.path(), port(&address)).await;
    wait_for_successes(&forebay, JOBS).await;
    assert_eq!(provider.calls().len(), JOBS, "no call was made twice");
    // While its server is there.
    forebay.stop().await;
}

/// What a proxy does with the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Flows,
    /// Connections are cut, and new ones are closed at once.
    Cut,
    /// Nothing passes, on new connections neither. Nobody is told.
    Held,
}

/// A proxy in front of a server, whose traffic can be stopped.
struct CuttableProxy {
    address: String,
    traffic: watch::Sender<Traffic>,
}

impl CuttableProxy {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (traffic, stops) = watch::channel(Traffic::Flows);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(proxied(client, server.clone(), stops.clone()));
            }
        });
        Self { address, traffic }
    }
}

/// Passes the traffic of a connection until it is cut, or was held.
async fn proxied(mut client: TcpStream, server: String, mut traffic: watch::Receiver<Traffic>) {
    if *traffic.borrow() == Traffic::Flows {
        let mut server = TcpStream::connect(server).await.expect("connected");
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            _ = traffic.wait_for(|traffic| *traffic != Traffic::Flows) => {}
        }
    }
    // The end of the test ends the wait too.
    let _ = traffic.wait_for(|traffic| *traffic != Traffic::Held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_for_longer_than_the_ack_wait_makes_no_call_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = start(dir.path(), "-1").await;
    let proxy = CuttableProxy::to(address).await;
    // Calls are under way from before the cut until after what is not kept is delivered again.
    let provider = slow_provider(AWAY + Duration::from_secs(5)).await;
    let forebay = forebay_with(&proxy.address, "", &provider).await;
    for job in 0..AT_ONCE {
        forebay
            .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
            .await;
    }
    wait_for_calls(&provider, AT_ONCE).await;
    proxy.traffic.send_replace(Traffic::Cut);
    // This time is what is tested.
    tokio::time::sleep(AWAY).await;
    proxy.traffic.send_replace(Traffic::Flows);
    wait_for_successes(&forebay, AT_ONCE).await;
    forebay.drained().await;
    assert_eq!(provider.calls().len(), AT_ONCE, "no call was made twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn few_calls_are_made_while_the_connection_is_cut_or_silent() {
    const CALLS_AT_ONCE: usize = 20;
    for outage in [Traffic::Cut, Traffic::Held] {
        let dir = tempfile::tempdir().expect("a directory");
        let (_server, address) = start(dir.path(), "-1").await;
        let proxy = CuttableProxy::to(address).await;
        let provider = slow_provider(Duration::from_millis(250)).await;
        let limits = format!("{{ concurrent = {CALLS_AT_ONCE} }}");
        let forebay = limited(&proxy.address, "", &provider, &limits).await;
        for job in 0..JOBS {
            forebay
                .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
                .await;
        }
        wait_for_calls(&provider, JOBS / 10).await;
        assert_eq!(forebay.worker().snapshot().publishing_stops, 0, "before");
        proxy.traffic.send_replace(outage);
        let before = provider.calls().len();
        until("calls stop", async || {
            forebay.worker().snapshot().publishing_stops > 0
        })
        .await;
        // Calls that go on would be seen in this time: some forty are made in it otherwise.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let during = provider.calls().len() - before;
        assert!(
            during <= MANY as usize + CALLS_AT_ONCE,
            "{outage:?}: {during} calls"
        );
        proxy.traffic.send_replace(Traffic::Flows);
        wait_for_successes(&forebay, JOBS).await;
        assert_eq!(provider.calls().len(), JOBS, "each once");
    }
}
