//! A running Forebay with a simulated provider, and what tests ask of them.

mod builder;
pub(crate) mod cluster;
pub(crate) mod shared_server;
mod stopwatch;
mod waits;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use forebay::app::App;
use forebay::nats::connection::Connection;
use forebay::worker::JetStreamWorker;
use forebay_schemas::Completion;
use forebay_simulator::Provider;
use forebay_simulator::fault::FaultPlan;
use forebay_workers::clock::{Clock, SystemClock};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

pub(crate) use builder::{Account, ForebayBuilder, SMALLEST_STREAMS, UNLIMITED};
pub(crate) use stopwatch::measure_this_test;
pub(crate) use waits::{eventually, eventually_within, soon, until, within};

/// The crypto provider that `main` installs for the program.
pub(crate) fn install_crypto() {
    measure_this_test();
    // Another test of this binary may have done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A simulated provider.
pub(crate) async fn provider(accounts: &[&str], faults: &str) -> Provider {
    let latency = (Duration::from_millis(5), Duration::from_millis(20));
    provider_within(accounts, faults, latency).await
}

/// A provider with one account that takes this long for each answer.
pub(crate) async fn slow_provider(latency: Duration) -> Provider {
    provider_within(&["name=one,key=sk-one"], "", (latency, latency)).await
}

async fn provider_within(
    accounts: &[&str],
    faults: &str,
    latency: (Duration, Duration),
) -> Provider {
    measure_this_test();
    let accounts = accounts
        .iter()
        .map(|text| text.parse().expect("an account"))
        .collect();
    let faults = if faults.is_empty() {
        FaultPlan::default()
    } else {
        faults.parse().expect("faults")
    };
    let config = forebay_simulator::Config {
        accounts,
        latency,
        faults,
        seed: 7,
        record: None,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    Provider::start(config, listener).expect("it starts")
}

/// How long the calls in flight may take when a Forebay is told to stop.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// A running Forebay. It stops when this is dropped.
pub(crate) struct Forebay {
    pub(crate) connection: Connection,
    /// None once it is told to stop.
    running: Option<(Box<App>, ForebayBuilder)>,
}

impl Forebay {
    /// One with a data directory of its own, without an account or a pool.
    pub(crate) fn builder() -> ForebayBuilder {
        ForebayBuilder::new()
    }

    /// One whose pool `chat` is served by the account `one` at this provider.
    pub(crate) fn calling(provider: &Provider) -> ForebayBuilder {
        Self::limited(provider, UNLIMITED)
    }

    /// The same, and the account has these limits.
    pub(crate) fn limited(provider: &Provider, limits: &str) -> ForebayBuilder {
        Self::builder()
            .account(Account::at("one", provider).limits(limits))
            .pool("chat", "gpt-4o-mini", &["one"])
    }

    /// Starts one whose pool `chat` is served by one account without limits.
    pub(crate) async fn simple() -> (Self, Provider) {
        let provider = provider(&["name=one,key=sk-one"], "").await;
        (Self::calling(&provider).start().await, provider)
    }

    /// One that was started in another way.
    pub(crate) fn of(app: Box<App>, builder: ForebayBuilder) -> Self {
        Self {
            connection: app.connection.clone(),
            running: Some((app, builder)),
        }
    }

    fn running(&self) -> &(Box<App>, ForebayBuilder) {
        self.running.as_ref().expect("it runs")
    }

    /// Its worker.
    pub(crate) fn worker(&self) -> &JetStreamWorker {
        self.running().0.worker()
    }

    /// Its directory, in which programs find its configuration.
    pub(crate) fn dir(&self) -> &Path {
        self.running().1.dir()
    }

    /// Stops it, and returns its configuration and directory, which can be started again.
    pub(crate) async fn stop(self) -> ForebayBuilder {
        self.stop_within(STOP_GRACE).await
    }

    /// Stops it, and leaves so much time to the calls that are in flight.
    pub(crate) async fn stop_within(mut self, grace: Duration) -> ForebayBuilder {
        let (app, builder) = self.running.take().expect("it runs");
        soon("the stop", app.stop(grace)).await;
        builder
    }

    /// Stops it and starts it again, with the same configuration in the same directory.
    pub(crate) async fn restart(self) -> Self {
        self.stop().await.start().await
    }

    pub(crate) async fn publish(&self, subject: &str, job: &Value) {
        self.publish_with(subject, job, HeaderMap::new()).await;
    }

    pub(crate) async fn publish_with(&self, subject: &str, job: &Value, headers: HeaderMap) {
        self.publish_bytes(subject, job.to_string().into_bytes(), headers)
            .await;
    }

    pub(crate) async fn publish_bytes(&self, subject: &str, payload: Vec<u8>, headers: HeaderMap) {
        let context = &self.connection.context;
        let ack = context
            .publish_with_headers(subject.to_owned(), headers, payload.into())
            .await;
        ack.expect("sent").await.expect("acknowledged");
    }

    /// The first message on a subject of a stream, whenever it comes.
    pub(crate) async fn message(
        &self,
        stream: String,
        subject: &str,
    ) -> async_nats::jetstream::Message {
        let stream = self
            .connection
            .context
            .get_stream(stream)
            .await
            .expect("the stream");
        let config = OrderedConfig {
            filter_subject: subject.to_owned(),
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        // A cluster that has just lost a server may choose that one for the consumer.
        let consumer = eventually("a consumer", async || {
            stream.create_consumer(config.clone()).await.ok()
        })
        .await;
        let mut messages = consumer.messages().await.expect("messages");
        soon(subject, messages.next())
            .await
            .expect("open")
            .expect("a message")
    }

    /// A job that waits for its time, as soon as it does. `subject` is without its code.
    pub(crate) async fn scheduled(
        &self,
        subject: &str,
    ) -> async_nats::jetstream::message::StreamMessage {
        let name = self.connection.names.scheduled_stream();
        let context = &self.connection.context;
        let stream = context.get_stream(name).await.expect("the stream");
        // A consumer would take it away, so there is no signal.
        let filter = format!("{subject}.*");
        eventually(subject, async || {
            let last = stream.get_last_raw_message_by_subject(&filter).await;
            last.ok()
        })
        .await
    }

    /// The completion of a job, whenever it comes.
    pub(crate) async fn completion(&self, team: &str, batch: Option<&str>, id: &str) -> Completion {
        let names = &self.connection.names;
        let message = self
            .message(
                names.completions_stream(),
                &names.completion(team, batch, id),
            )
            .await;
        serde_json::from_slice(&message.payload).expect("a completion")
    }

    /// Waits until no job is left in the stream.
    pub(crate) async fn drained(&self) {
        let jobs = self.connection.names.jobs_stream();
        until("an empty stream of jobs", async || {
            self.count(jobs.clone()).await == 0
        })
        .await;
    }

    /// How many messages a stream holds.
    pub(crate) async fn count(&self, stream: String) -> u64 {
        self.connection
            .context
            .get_stream(stream)
            .await
            .expect("the stream")
            .cached_info()
            .state
            .messages
    }
}

impl Drop for Forebay {
    fn drop(&mut self) {
        let Some((app, _builder)) = self.running.take() else {
            return;
        };
        // The test failed already; a second panic would end the whole run.
        if std::thread::panicking() {
            return;
        }
        let stop = soon("the stop", app.stop(STOP_GRACE));
        tokio::task::block_in_place(|| Handle::current().block_on(stop));
    }
}

/// A nats-server with a configuration of its own, on any free port unless that names one; and its address.
pub(crate) async fn nats_server(
    dir: &Path,
    config: &str,
    env: &[(String, String)],
) -> (Child, String) {
    measure_this_test();
    let port = if config.contains("port: ") {
        ""
    } else {
        "port: -1\n"
    };
    let text = format!("host: 127.0.0.1\n{port}ports_file_dir: {dir:?}\n{config}");
    std::fs::write(dir.join("server.conf"), text).expect("written");
    let mut command = Command::new(forebay::nats::server::find().expect("a nats-server"));
    command
        .arg("--config")
        .arg(dir.join("server.conf"))
        .kill_on_drop(true)
        .stderr(Stdio::null());
    let child = command
        .envs(env.iter().cloned())
        .spawn()
        .expect("it starts");
    let ports = dir.join(format!(
        "nats-server_{}.ports",
        child.id().expect("it runs")
    ));
    let address = eventually("the server's port", async || {
        let ports = std::fs::read_to_string(&ports).ok()?;
        let ports: Value = serde_json::from_str(&ports).ok()?;
        let url = ports["nats"][0].as_str()?;
        Some(url.trim_start_matches("nats://").to_owned())
    })
    .await;
    (child, address)
}

/// The answer of a service, or what it says is wrong.
pub(crate) async fn control<T: serde::de::DeserializeOwned>(
    forebay: &Forebay,
    verb: &str,
    request: &impl serde::Serialize,
) -> Result<T, String> {
    let request = serde_json::to_vec(request).expect("JSON");
    let client = &forebay.connection.client;
    let reply = client
        .request(format!("ai.ctl.{verb}"), request.into())
        .await
        .expect("an answer");
    if let Some(error) = reply
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Nats-Service-Error"))
    {
        return Err(error.to_string());
    }
    Ok(serde_json::from_slice(&reply.payload).expect("JSON"))
}

/// The next completion that is copied to an inbox.
pub(crate) async fn next_copy(inbox: &mut async_nats::Subscriber) -> Completion {
    let copy = soon("a copy", inbox.next()).await.expect("open");
    serde_json::from_slice(&copy.payload).expect("a completion")
}

/// Waits until a provider got so many calls.
pub(crate) async fn wait_for_calls(provider: &Provider, calls: usize) {
    until(&format!("{calls} calls"), async || {
        provider.calls().len() >= calls
    })
    .await;
}

/// A chat job.
pub(crate) fn chat(id: &str, text: &str) -> Value {
    json!({ "id": id, "body": { "messages": [{ "role": "user", "content": text }] } })
}

/// What a chat completion says.
pub(crate) fn answer_text(completion: &Completion) -> String {
    let response = completion
        .response
        .as_ref()
        .unwrap_or_else(|| panic!("an answer: {completion:?}"));
    let body: Value = serde_json::from_str(response.body.get()).expect("JSON");
    body.pointer("/choices/0/message/content")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// A job that has a second.
pub(crate) fn with_deadline_in_a_second(id: &str) -> Value {
    let mut job = chat(id, "hello");
    let deadline = SystemClock.now() + Duration::from_secs(1);
    job["deadline"] = json!(deadline);
    job
}
