//! Jobs per second, end to end, beside the bare loop in the same run.
//!
//! Forebay: pull, admit, look up, permit, POST, store (synced), completion (acknowledged), ack
//! (confirmed). The bare loop: pull, POST, publish (acknowledged), ack (confirmed); no storage and no
//! checks. Both drain the same number of jobs of 1 KB from the same nats-server, 256 calls at once,
//! against an upstream in this process that answers at once. Runs alternate; the ratio is per pair.
//!
//! `JOBS` and `RUNS` change the size: `JOBS=20000 RUNS=5 cargo bench --bench end_to_end`.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints what it measures"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::stream::{self, RetentionPolicy};
use async_nats::jetstream::{self, AckKind, Context};
use axum::Router;
use axum::routing::post;
use forebay::app::{App, Started};
use forebay::cluster::worker_lease::WhenHeld;
use forebay::config::Config;
use forebay::nats::connection::Connection;
use forebay_providers::Request;
use forebay_workers::clock::SystemClock;
use forebay_workers::fence::CallFence;
use forebay_workers::upstream::Upstream;
use forebay_workers::upstream::http::{Config as HttpConfig, HttpUpstream};
use futures::{StreamExt, TryStreamExt};

const AT_ONCE: usize = 256;
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1767225600,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"An answer of some length, as they are: it goes on for a while, so that the completion has the size of a usual short one, and then it ends."},"finish_reason":"stop"}],"usage":{"prompt_tokens":200,"completion_tokens":40,"total_tokens":240}}"#;

fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a crypto provider is there already"))?;
    let jobs = from_environment("JOBS", 20_000);
    let runs = from_environment("RUNS", 5);
    let upstream = upstream()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        machine();
        println!("{jobs} jobs of 1 KB, {AT_ONCE} calls at once, {runs} pairs of runs\n");
        let mut pairs = Vec::new();
        for run in 1..=runs {
            let bare = bare(jobs, &upstream).await?;
            let (forebay, stops) = forebay(jobs, &upstream).await?;
            println!(
                "run {run}: forebay {forebay:.0} jobs/s, bare loop {bare:.0} jobs/s, ratio {:.2}, calls stopped {stops} times",
                forebay / bare
            );
            pairs.push((forebay, bare));
        }
        println!();
        spread(
            "forebay, jobs/s",
            pairs.iter().map(|(forebay, _)| *forebay).collect(),
        );
        spread(
            "bare loop, jobs/s",
            pairs.iter().map(|(_, bare)| *bare).collect(),
        );
        spread(
            "ratio",
            pairs.iter().map(|(forebay, bare)| forebay / bare).collect(),
        );
        Ok(())
    })
}

fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn machine() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{} cores, {}", cores, model.unwrap_or("unknown processor"));
}

fn spread(what: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else {
        return;
    };
    println!(
        "{what}: median {:.2} [{least:.2}..{most:.2}]",
        values[values.len() / 2]
    );
}

/// An upstream that answers at once, on a thread of its own.
fn upstream() -> anyhow::Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let url = format!("http://{}/v1", listener.local_addr()?);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let router = Router::new().route("/v1/chat/completions", post(async || ANSWER));
            axum::serve(listener, router).await
        })
    });
    Ok(url)
}

fn job(index: usize) -> String {
    let text = "x".repeat(900);
    format!(
        r#"{{"id":"{index}","body":{{"messages":[{{"role":"user","content":"{text}"}}],"max_tokens":40}}}}"#
    )
}

async fn publish(context: &Context, subject: &str, jobs: usize) -> anyhow::Result<()> {
    futures::stream::iter(0..jobs)
        .map(|index| async move {
            context
                .publish(subject.to_owned(), job(index).into())
                .await?
                .await?;
            anyhow::Ok(())
        })
        .buffer_unordered(1_024)
        .try_collect::<()>()
        .await
}

fn config(dir: &std::path::Path, upstream: &str) -> anyhow::Result<Config> {
    let key = dir.join("key");
    std::fs::write(&key, "sk-bench")?;
    let text = format!(
        "[nats]\nlisten = \"127.0.0.1:0\"\n[data]\ndir = {:?}\n[account.q]\nprovider = \"openai\"\nbase_url = {upstream:?}\n\
         keys = [{{ file = {key:?} }}]\nlimits = [{{ concurrent = {AT_ONCE} }}]\n\
         [pool.chat]\ntargets = [{{ account = \"q\", model = \"m\" }}]\n",
        dir.join("data")
    );
    Ok(Config::parse(&text)?)
}

/// Jobs a second of Forebay, from its being ready with a backlog to the last ack, and how often it stopped calls because
/// completions were not acknowledged.
async fn forebay(jobs: usize, upstream: &str) -> anyhow::Result<(f64, u64)> {
    let dir = tempfile::tempdir()?;
    let config = config(dir.path(), upstream)?;
    // A first start makes the streams; the backlog is published on a pool that nobody serves yet.
    let idle = Config {
        pools: [("idle".to_owned(), config.pools["chat"].clone())].into(),
        ..config.clone()
    };
    let Started::Here(app) = App::start(&idle, WhenHeld::GiveUp).await? else {
        anyhow::bail!("the directory is new")
    };
    let context = app.connection.context.clone();
    app.stop(Duration::ZERO).await;
    drop(context);
    let server = forebay::nats::server::NatsServer::start(
        &dir.path().join("data/nats"),
        config.nats.address(),
        config.nats.sync_interval,
    )
    .await?;
    let connection = Connection::open(server.url(), &config).await?;
    publish(&connection.context, "ai.jobs.chat", jobs).await?;
    drop(server);
    let started = Instant::now();
    let Started::Here(app) = App::start(&config, WhenHeld::GiveUp).await? else {
        anyhow::bail!("the directory is free")
    };
    let starting = started.elapsed();
    drained(&app.connection.context, "AI_JOBS").await?;
    let took = started.elapsed() - starting;
    let completions = app
        .connection
        .context
        .get_stream("AI_COMPLETIONS")
        .await?
        .cached_info()
        .state
        .messages;
    anyhow::ensure!(
        completions == jobs as u64,
        "{completions} completions of {jobs} jobs"
    );
    let stops = app.worker().snapshot().publishing_stops;
    app.stop(Duration::from_secs(5)).await;
    Ok((jobs as f64 / took.as_secs_f64(), stops))
}

async fn drained(context: &Context, stream: &str) -> anyhow::Result<()> {
    while context
        .get_stream(stream)
        .await?
        .cached_info()
        .state
        .messages
        > 0
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Jobs a second of the bare loop.
async fn bare(jobs: usize, upstream: &str) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir()?;
    let config = config(dir.path(), upstream)?;
    let server = forebay::nats::server::NatsServer::start(
        &dir.path().join("nats"),
        config.nats.address(),
        config.nats.sync_interval,
    )
    .await?;
    let connection = Connection::open(server.url(), &config).await?;
    let context = jetstream::new(connection.client.clone());
    let stream = context
        .create_stream(stream::Config {
            name: "AI_JOBS".to_owned(),
            subjects: vec!["ai.jobs.>".to_owned()],
            retention: RetentionPolicy::WorkQueue,
            ..stream::Config::default()
        })
        .await?;
    let completions = stream::Config {
        name: "DONE".to_owned(),
        subjects: vec!["done.>".to_owned()],
        ..stream::Config::default()
    };
    context.create_stream(completions).await?;
    publish(&context, "ai.jobs.chat", jobs).await?;
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("bare".to_owned()),
            max_ack_pending: 20_000,
            ..pull::Config::default()
        })
        .await?;
    let client = Arc::new(HttpUpstream::new(HttpConfig {
        timeout: Duration::from_secs(600),
        connect_timeout: Duration::from_secs(10),
        max_answer: 1 << 20,
    })?);
    let url = format!("{upstream}/chat/completions");
    let started = Instant::now();
    let messages = consumer
        .stream()
        .max_messages_per_batch(AT_ONCE)
        .messages()
        .await?;
    messages
        .take(jobs)
        .map_err(anyhow::Error::from)
        .try_for_each_concurrent(AT_ONCE, |message| {
            let (client, context, url) = (Arc::clone(&client), context.clone(), url.clone());
            async move {
                let mut headers = axum::http::HeaderMap::new();
                headers.insert(
                    "content-type",
                    axum::http::HeaderValue::from_static("application/json"),
                );
                let request = Request {
                    method: axum::http::Method::POST,
                    url,
                    headers,
                    body: message.payload.clone(),
                    account: String::new(),
                };
                let fence = CallFence::unlimited(Arc::new(SystemClock));
                let reply = client.send(request, fence, |_| {}).await?.reply;
                let sequence = message
                    .info()
                    .map_err(anyhow::Error::from_boxed)?
                    .stream_sequence;
                context
                    .publish(format!("done.{sequence}"), reply.body)
                    .await?
                    .await?;
                message
                    .double_ack_with(AckKind::Ack)
                    .await
                    .map_err(anyhow::Error::from_boxed)
            }
        })
        .await?;
    Ok(jobs as f64 / started.elapsed().as_secs_f64())
}
