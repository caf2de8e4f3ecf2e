//! A NATS server that has no storage left, and one that is aproxy.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use forebay_schemas::Status;
use forebay_simulator::Provider;
use forebay_simulator::fault::FaultPlan;
use futures::StreamExt;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{
    Forebay, SMALLEST_STREAMS, chat, eventually_within, nats_server, provider, soon, until,
    wait_for_calls,
};

const JOBS: usize = 300;
/// Calls at once.
const AT_ONCE: usize = 2;
/// Completions that cannot be published and stop all calls.
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
    Forebay::limited(provider, &limits)
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
    let (forebay, provider) = forebay(&address, SMALLEST_STREAMS).await;
    for job in 0..JOBS {
        forebay
            .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
            .await;
    }
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
    until("the end of calls", async || {
        forebay.worker().snapshot().in_flight >= MANY || !forebay.worker().may_call()
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

/// A proxy in front of a server, whose connections can be cut.
struct CuttableProxy {
    address: String,
    is_cut: watch::Sender<bool>,
}

impl CuttableProxy {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (is_cut, cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (server, mut cut) = (server.clone(), cut.clone());
                tokio::spawn(async move {
                    if *cut.borrow() {
                        return;
                    }
                    let mut server = TcpStream::connect(server).await.expect("connected");
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Self { address, is_cut }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_for_longer_than_the_ack_wait_makes_no_call_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = start(dir.path(), "-1").await;
    let proxy = CuttableProxy::to(address).await;
    // Calls are under way from before the cut until after what is not kept is delivered again.
    let latency = (AWAY + Duration::from_secs(5), AWAY + Duration::from_secs(5));
    let accounts = vec!["name=one,key=sk-one".parse().expect("an account")];
    let config = forebay_simulator::Config {
        accounts,
        latency,
        faults: FaultPlan::default(),
        seed: 7,
        record: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let provider = Provider::start(config, listener).expect("it starts");
    let forebay = forebay_with(&proxy.address, "", &provider).await;
    for job in 0..AT_ONCE {
        forebay
            .publish("ai.jobs.chat", &chat(&job.to_string(), "hello"))
            .await;
    }
    wait_for_calls(&provider, AT_ONCE).await;
    proxy.is_cut.send_replace(true);
    // This time is what is tested.
    tokio::time::sleep(AWAY).await;
    proxy.is_cut.send_replace(false);
    wait_for_successes(&forebay, AT_ONCE).await;
    forebay.drained().await;
    assert_eq!(provider.calls().len(), AT_ONCE, "no call was made twice");
}
