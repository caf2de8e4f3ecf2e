//! The process ends at every step of a job's way, and the next one goes on.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use forebay::nats::connection::Connection;
use forebay::nats::server::NatsServer;
use forebay::nats::streams;
use forebay_schemas::header::OBJECT_HEADER;
use forebay_schemas::{Completion, Identity, Status};
use forebay_simulator::Provider;
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::crash::{AT, CrashPoint};
use forebay_workers::store::results::{ResultStore, Retention};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::program::{self, Serve, command};
use crate::support::{Forebay, chat, eventually_within, install_crypto, provider, within};

/// Jobs of each kind: that succeed, that fail, and that wait for their time first.
const EACH: usize = 4;
/// All cases share a server, whose store must hold the most of every stream.
const SHARED_STREAMS: &str = "[streams]\njobs_max_bytes = \"16MiB\"\ncompletions_max_bytes = \"16MiB\"\n\
    objects_max_bytes = \"32MiB\"\n";
/// More than a message holds.
const LARGE: usize = 9 << 20;
/// A job that waits so long does so in the stream of scheduled jobs.
const WAIT: Duration = Duration::from_secs(20);
/// The same where a crash needs that stream, and a busy machine may take long to come there.
const LONG_WAIT: Duration = Duration::from_secs(60);
/// What a dead process held is delivered again after 30 s, and its place as the worker is free after 9 s.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(180);
/// The signal of `abort`.
const SIGABRT: i32 = 6;

/// What one case leaves.
struct Case {
    point: CrashPoint,
    name: String,
    connection: Connection,
    provider: Provider,
    dir: tempfile::TempDir,
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_at_any_step_every_job_has_one_completion_one_result_and_few_calls() {
    install_crypto();
    let dir = tempfile::tempdir().expect("a directory");
    let listen = "127.0.0.1:0".parse().expect("an address");
    let server = NatsServer::start(dir.path(), listen, Duration::from_millis(100))
        .await
        .expect("it starts");
    let one_by_one = CrashPoint::ALL.map(|point| (point, 1, 1));
    let several = CrashPoint::ALL.map(|point| (point, 3, 4));
    let cases = one_by_one.into_iter().chain(several);
    futures::future::join_all(cases.map(|(point, passage, at_once)| {
        let url = server.url().to_owned();
        // Boxed, or all of them would be moved over the stack of the test's thread.
        Box::pin(async move {
            let case = Case::new(&url, point, format!("{point:?}-{passage}"), at_once).await;
            case.crash(&format!("{point:?}:{passage}")).await;
            let rest = format!("{}: the rest", case.name);
            let (completions, unstored) = within(RECOVERY_TIMEOUT, &rest, case.recover()).await;
            case.check(&completions, unstored).await;
        })
    }))
    .await;
}

impl Case {
    async fn new(url: &str, point: CrashPoint, name: String, at_once: usize) -> Self {
        let provider = provider(&["name=one,key=sk-one"], "").await;
        let limits = format!("{{ concurrent = {at_once} }}");
        let builder = Forebay::limited(&provider, &limits)
            .nats(url)
            .config(&format!("[nats]\nprefix = {name:?}\n"))
            .config(SHARED_STREAMS);
        let config = builder.parse();
        let connection = Connection::open(url, &config).await.expect("connected");
        streams::establish(
            &connection.context,
            &connection.names,
            &config.streams,
            &connection.secrets,
        )
        .await
        .expect("streams");
        let case = Self {
            point,
            name,
            connection,
            provider,
            dir: builder.write(),
        };
        let wait = match point {
            CrashPoint::Postponing | CrashPoint::Scheduled | CrashPoint::Postponed => LONG_WAIT,
            _ => WAIT,
        };
        for index in 0..EACH {
            let text = if point == CrashPoint::Kept && index == 0 {
                "x".repeat(LARGE)
            } else {
                "hello".to_owned()
            };
            case.publish_object(&format!("good-{index}"), &text).await;
            case.publish(&json!({ "id": format!("bad-{index}"), "body": { "messages": [] } }))
                .await;
            let mut later = chat(&format!("later-{index}"), "hello");
            later["not_before"] = json!(
                SystemClock
                    .now()
                    .checked_add(wait)
                    .expect("soon")
                    .to_string()
            );
            case.publish(&later).await;
        }
        case
    }

    async fn publish(&self, job: &Value) {
        self.publish_with(job, HeaderMap::new()).await;
    }

    /// A job that its message only names.
    async fn publish_object(&self, id: &str, text: &str) {
        let object = format!("default/{id}");
        let job = chat(id, text).to_string().into();
        self.connection
            .requests()
            .put(&object, &job)
            .await
            .expect("put");
        let mut headers = HeaderMap::new();
        headers.insert(OBJECT_HEADER, object);
        self.publish_with(&json!({ "id": id }), headers).await;
    }

    async fn publish_with(&self, message: &Value, headers: HeaderMap) {
        let subject = format!("{}.jobs.chat", self.connection.names.prefix());
        let payload = message.to_string().into();
        let ack = self
            .connection
            .context
            .publish_with_headers(subject, headers, payload)
            .await;
        ack.expect("sent").await.expect("acknowledged");
    }

    /// Works until it crashes there.
    async fn crash(&self, at: &str) {
        let mut child = command(self.dir.path(), &["serve"]);
        let child = child.env(AT, at).stderr(std::process::Stdio::null());
        let ended = within(
            RECOVERY_TIMEOUT,
            &format!("a crash at {at}"),
            child.status(),
        )
        .await;
        let status = ended.expect("it ran");
        assert_eq!(status.signal(), Some(SIGABRT), "{at}: {status}");
    }

    /// Works until nothing is left to do; returns all completions, and how many calls had been made at the
    /// crash whose results were not stored.
    async fn recover(&self) -> (Vec<Completion>, usize) {
        let stored = self.stored();
        let mut serve = Serve::spawn(self.dir.path());
        // It works when the dead process's place is free, seconds later; whatever that one sent has arrived.
        serve.wait_for("connected to NATS").await;
        let unstored = self.provider.calls().len() - stored;
        serve.wait_for("ready:").await;
        let names = &self.connection.names;
        let stream = self
            .connection
            .context
            .get_stream(names.completions_stream())
            .await
            .expect("a stream");
        let mut messages = stream
            .create_consumer(OrderedConfig::default())
            .await
            .expect("a consumer")
            .messages()
            .await
            .expect("messages");
        let mut completions = Vec::new();
        while completions.len() < 3 * EACH {
            let message = messages.next().await.expect("open").expect("a message");
            let whole = self
                .connection
                .open_completion(&message.payload, message.headers.as_ref())
                .await;
            completions.push(whole.expect("a completion"));
        }
        for stream in [names.jobs_stream(), names.scheduled_stream()] {
            let is_empty = async || (self.messages_and_last(&stream).await.0 == 0).then_some(());
            eventually_within(RECOVERY_TIMEOUT, "an empty stream", is_empty).await;
        }
        self.check_stored_as_published(&completions).await;
        let (status, log) = serve.terminate().await;
        assert!(status.success(), "{}: {log}", self.name);
        (completions, unstored)
    }

    /// How many results are stored.
    fn stored(&self) -> usize {
        let dir = self.dir.path().join("data/results");
        let retention = Retention {
            keep_days: 30,
            horizon_days: 2,
        };
        let results =
            ResultStore::open(&dir, retention, SystemClock.now()).expect("the store opens");
        let kinds = ["good", "bad", "later"].into_iter();
        let ids = kinds.flat_map(|kind| (0..EACH).map(move |index| format!("{kind}-{index}")));
        let identities = ids.map(|id| Identity {
            team: "default".to_owned(),
            batch: None,
            id,
        });
        identities
            .filter(|identity| results.get(identity).expect("readable").is_some())
            .count()
    }

    async fn check_stored_as_published(&self, completions: &[Completion]) {
        for completion in completions {
            let got = program::run(self.dir.path(), &["results", "get", &completion.id]).await;
            let stored: Value = serde_json::from_str(&got.stdout).expect("JSON");
            assert!(
                stored == serde_json::to_value(completion).expect("JSON"),
                "{}",
                self.name
            );
        }
    }

    async fn messages_and_last(&self, stream: &str) -> (u64, u64) {
        let stream = self
            .connection
            .context
            .get_stream(stream)
            .await
            .expect("a stream");
        let state = &stream.cached_info().state;
        (state.messages, state.last_sequence)
    }

    async fn check(&self, completions: &[Completion], unstored: usize) {
        let name = &self.name;
        let names = &self.connection.names;
        let statuses: BTreeMap<_, _> = completions
            .iter()
            .map(|completion| (completion.id.as_str(), completion.status))
            .collect();
        assert_eq!(statuses.len(), 3 * EACH, "{name}: each once");
        for (id, status) in statuses {
            let expected = if id.starts_with("bad") {
                Status::Failed
            } else {
                Status::Succeeded
            };
            assert_eq!(status, expected, "{name}: {id}");
        }
        // Of a message that another replaces the sequence stays.
        let published = self.messages_and_last(&names.completions_stream()).await;
        assert_eq!(
            published,
            (3 * EACH as u64, 3 * EACH as u64),
            "{name}: no completion was replaced"
        );
        // After a clean stop nothing waits for the ack wait of what was delivered before it.
        for stream in [names.jobs_stream(), names.scheduled_stream()] {
            let stream = self
                .connection
                .context
                .get_stream(stream)
                .await
                .expect("a stream");
            assert_eq!(
                stream.cached_info().state.consumer_count,
                0,
                "{name}: consumers are left"
            );
        }
        assert_eq!(
            self.messages_and_last(&names.dead_stream()).await.0,
            EACH as u64,
            "{name}: dead letters"
        );
        let calls = self.provider.calls().len();
        let needed = 3 * EACH + unstored;
        // A large request may be on its way yet when the unstored calls are counted.
        let most = needed + usize::from(self.point == CrashPoint::Kept);
        assert!(
            (needed..=most).contains(&calls),
            "{name}: {calls} calls, {unstored} unstored at the crash"
        );
    }
}
