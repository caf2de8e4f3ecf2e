//! The process ends amid a call that is made for several jobs, and the next one goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use forebay::nats::connection::Connection;
use forebay::nats::server::NatsServer;
use forebay::nats::streams;
use forebay_schemas::{Completion, Status};
use forebay_workers::crash::{AT, CrashPoint};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::program::{Serve, command};
use crate::support::{
    Forebay, answer_text, chat, eventually_within, install_crypto, provider, within,
};

/// Jobs whose embeddings travel together, and as many that ask the same as each other.
const EACH: usize = 10;
/// What a dead process held is delivered again after 30 s, and its place as the worker is free after 9 s.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(180);
/// All cases share a server, whose store must hold the most of every stream.
const SHARED_STREAMS: &str = "[streams]\njobs_max_bytes = \"16MiB\"\ncompletions_max_bytes = \"16MiB\"\n\
    objects_max_bytes = \"32MiB\"\n";
const MODEL: &str = "text-embedding-3-small";

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_each_job_of_a_shared_call_has_its_own_completion() {
    install_crypto();
    let dir = tempfile::tempdir().expect("a directory");
    let listen = "127.0.0.1:0".parse().expect("an address");
    let server = NatsServer::start(dir.path(), listen, Duration::from_millis(100))
        .await
        .expect("it starts");
    // Some of them are passed once for each job, so that others of its call are before or after it.
    let points = [
        (CrashPoint::Permitted, 1),
        (CrashPoint::Sending, 1),
        (CrashPoint::Answered, 1),
        (CrashPoint::Decided, 1),
        (CrashPoint::Stored, 3),
        (CrashPoint::Completed, 4),
        (CrashPoint::Acked, 5),
    ];
    let cases = points.map(|(point, passage)| {
        let url = server.url().to_owned();
        let case = case(url, point, passage);
        // Boxed, or all of them would be moved over the stack of the test's thread.
        Box::pin(async move {
            within(RECOVERY_TIMEOUT, &format!("{point:?}"), case).await;
        })
    });
    futures::future::join_all(cases).await;
}

async fn case(url: String, point: CrashPoint, passage: usize) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let name = format!("together-{point:?}");
    let builder = Forebay::calling(&provider)
        .pool("vectors", MODEL, &["one"])
        .nats(&url)
        .config(&format!("[nats]\nprefix = {name:?}\n"))
        .config(SHARED_STREAMS)
        .config("[pool.chat]\ncache = \"1h\"\n");
    let config = builder.parse();
    let dir = builder.write();
    let connection = Connection::open(&url, &config).await.expect("connected");
    streams::establish(
        &connection.context,
        &connection.names,
        &config.streams,
        &connection.secrets,
    )
    .await
    .expect("streams");
    for index in 0..EACH {
        let (id, body) = (
            format!("vector-{index}"),
            json!({ "input": format!("text {index}") }),
        );
        let job = json!({ "id": id, "url": "/v1/embeddings", "body": body });
        publish(&connection, &format!("{name}.jobs.vectors"), &job).await;
        publish(
            &connection,
            &format!("{name}.jobs.chat"),
            &chat(&format!("chat-{index}"), "hello"),
        )
        .await;
    }
    let mut child = command(dir.path(), &["serve"]);
    let child = child
        .env(AT, format!("{point:?}:{passage}"))
        .stderr(std::process::Stdio::null());
    assert!(
        !child.status().await.expect("it ran").success(),
        "{point:?}: it was never reached"
    );
    let serve = Serve::spawn(dir.path());
    let completions = all(&connection).await;
    for index in 0..EACH {
        let vector = &completions[&format!("vector-{index}")];
        let body = &vector
            .response
            .as_ref()
            .unwrap_or_else(|| panic!("{point:?}: {vector:?}"))
            .body;
        let body: Value = serde_json::from_str(body.get()).expect("JSON");
        let expected = forebay_simulator::Provider::vector(&format!("text {index}"));
        assert_eq!(
            body["data"][0]["embedding"],
            json!(expected),
            "{point:?}: {index}"
        );
        assert_eq!(body["data"].as_array().map(Vec::len), Some(1));
        let chat = &completions[&format!("chat-{index}")];
        assert_eq!(
            (chat.status, answer_text(chat).as_str()),
            (Status::Succeeded, "You said: hello"),
            "{point:?}"
        );
    }
    drained(&connection).await;
    assert!(serve.terminate().await.0.success());
    let stream = connection
        .context
        .get_stream(connection.names.completions_stream())
        .await
        .expect("there");
    let state = &stream.cached_info().state;
    assert_eq!(
        (state.messages, state.last_sequence),
        (2 * EACH as u64, 2 * EACH as u64),
        "none was replaced"
    );
    let calls = provider.calls().len();
    assert!(calls < 2 * EACH, "{point:?}: {calls} calls");
}

async fn publish(connection: &Connection, subject: &str, job: &Value) {
    let sent = connection
        .context
        .publish(subject.to_owned(), job.to_string().into())
        .await;
    sent.expect("sent").await.expect("acknowledged");
}

async fn all(connection: &Connection) -> BTreeMap<String, Completion> {
    let stream = connection
        .context
        .get_stream(connection.names.completions_stream())
        .await
        .expect("there");
    let consumer = stream
        .create_consumer(OrderedConfig::default())
        .await
        .expect("a consumer");
    let mut messages = consumer.messages().await.expect("messages");
    let mut completions = BTreeMap::new();
    while completions.len() < 2 * EACH {
        let message = messages.next().await.expect("open").expect("a message");
        let completion: Completion =
            serde_json::from_slice(&message.payload).expect("a completion");
        completions.insert(completion.id.clone(), completion);
    }
    completions
}

async fn drained(connection: &Connection) {
    eventually_within(RECOVERY_TIMEOUT, "an empty stream of jobs", async || {
        let jobs = connection.names.jobs_stream();
        let stream = connection
            .context
            .get_stream(jobs)
            .await
            .expect("the stream");
        (stream.cached_info().state.messages == 0).then_some(())
    })
    .await;
}
