//! A second worker that stands by for the first.

use std::path::Path;
use std::time::Duration;

use forebay_simulator::Provider;
use forebay_simulator::fault::FaultPlan;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Serve, command};
use crate::support::{Forebay, chat, eventually_within, nats_server, provider, until};

/// The number of jobs that wait, and the limit of the account for each day. Both are more than a test calls.
const JOBS: usize = 400;
/// How long the server keeps what a killed worker held, and more.
const REDELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Two configurations of one Forebay, each with a data directory of its own, at one NATS server.
struct Pair {
    first: TempDir,
    second: TempDir,
    provider: Provider,
    client: async_nats::jetstream::Context,
    _server: (tokio::process::Child, TempDir),
}

impl Pair {
    async fn new() -> Self {
        Self::with_limit("{ requests = 10, per = \"1s\" }", "").await
    }

    /// Two whose account has this limit, at a provider with these faults.
    async fn with_limit(limit: &str, faults: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let jetstream = format!(
            "jetstream {{ store_dir: {:?} }}\n",
            dir.path().join("store")
        );
        let (server, address) = nats_server(dir.path(), &jetstream, &[]).await;
        let provider = provider(&["name=one,key=sk-one"], faults).await;
        let config = || {
            let forebay = Forebay::limited(&provider, limit);
            forebay.nats(&address).write()
        };
        let (first, second) = (config(), config());
        let client = async_nats::connect(&address).await.expect("connected");
        Self {
            first,
            second,
            provider,
            client: async_nats::jetstream::new(client),
            _server: (server, dir),
        }
    }

    fn calls(&self) -> usize {
        self.provider.calls().len()
    }

    async fn publish_jobs(&self) {
        for job in 0..JOBS {
            self.publish(&chat(&job.to_string(), "hello")).await;
        }
    }

    async fn publish(&self, job: &Value) {
        let job = job.to_string().into();
        let sent = self.client.publish("ai.jobs.chat", job).await;
        sent.expect("sent").await.expect("acknowledged");
    }

    /// How many messages a stream holds.
    async fn count(&self, stream: &str) -> u64 {
        let stream = self.client.get_stream(stream).await;
        stream.expect("the stream").cached_info().state.messages
    }

    async fn wait_for_more_calls(&self) {
        let before = self.calls();
        until("more calls", async || self.calls() > before).await;
    }
}

async fn standing_by(dir: &Path) -> Serve {
    let mut serve = Serve::of(&mut command(dir, &["serve", "--standby"]));
    serve.wait_for("standing by for another worker").await;
    serve
}

fn signal(serve: &Serve, signal: Signal) {
    let pid = i32::try_from(serve.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process"), signal).expect("sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stands_by_takes_over_after_a_kill_and_after_a_stop() {
    let pair = Pair::new().await;
    let first = Serve::start(pair.first.path()).await;
    pair.publish_jobs().await;
    let mut second = standing_by(pair.second.path()).await;
    pair.wait_for_more_calls().await;
    signal(&first, Signal::KILL);
    second.wait_for("ready:").await;
    pair.wait_for_more_calls().await;

    let mut first = standing_by(pair.first.path()).await;
    let (status, log) = second.terminate().await;
    assert!(status.success(), "{log}");
    first.wait_for("ready:").await;
    pair.wait_for_more_calls().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_finds_no_lease_in_a_new_bucket_calls_later_whatever_else_is_in_it() {
    let pair = Pair::new().await;
    let first = Serve::start(pair.first.path()).await;
    let (status, log) = first.terminate().await;
    assert!(status.success(), "{log}");
    let bucket = pair.client.get_stream("KV_AI_NODES").await.expect("there");
    bucket.purge().await.expect("purged");
    let foreign = pair.client.publish("$KV.AI_NODES.other", "{}".into());
    foreign.await.expect("sent").await.expect("stored");
    let mut second = Serve::spawn(pair.second.path());
    second.wait_for("the bucket of leases is new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_stopped_for_longer_than_its_lease_calls_nothing_and_ends() {
    let pair = Pair::new().await;
    let mut first = Serve::start(pair.first.path()).await;
    pair.publish_jobs().await;
    let mut second = standing_by(pair.second.path()).await;
    pair.wait_for_more_calls().await;
    signal(&first, Signal::STOP);
    second.wait_for("ready:").await;
    pair.wait_for_more_calls().await;
    // The second one calls no more, so each call from now on is one of the first.
    signal(&second, Signal::STOP);
    let calls = calls_in_the_end(&pair).await;
    signal(&first, Signal::CONT);
    let code = first.wait_for_end().await;
    assert_eq!((code, pair.calls()), (Some(3), calls));
    signal(&second, Signal::CONT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_takes_over_calls_no_job_again_that_must_not_be() {
    const AT_ONCE: usize = 8;
    const JOBS: u64 = 20;
    let limit = format!("{{ concurrent = {AT_ONCE} }}");
    let pair = Pair::with_limit(&limit, "hang=1").await;
    let first = Serve::start(pair.first.path()).await;
    for id in 0..JOBS {
        let mut job = chat(&id.to_string(), "hello");
        job["on_ambiguous"] = json!("fail");
        pair.publish(&job).await;
    }
    until("calls that hang", async || pair.calls() == AT_ONCE).await;
    first.kill().await;
    pair.provider.fail(FaultPlan::default());
    let _second = Serve::start(pair.second.path()).await;
    eventually_within(REDELIVERY_TIMEOUT, "all completions", async || {
        let ended = pair.count("AI_COMPLETIONS").await == JOBS;
        ended.then_some(())
    })
    .await;
    assert_eq!(pair.calls() as u64, JOBS, "each is called once");
    assert_eq!(pair.count("AI_DEAD").await, AT_ONCE as u64);
    until("no record of calls", async || {
        pair.count("AI_ATTEMPTS").await == 0
    })
    .await;
}

/// Waits until no call of a stopped process is on its way.
async fn calls_in_the_end(pair: &Pair) -> usize {
    loop {
        let calls = pair.calls();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if pair.calls() == calls {
            return calls;
        }
    }
}
