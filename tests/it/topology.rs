//! Streams that are there already.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use forebay::app::App;
use forebay::cluster::worker_lease::WhenHeld;
use forebay::config::Config;
use forebay::nats::server::NatsServer;
use forebay::nats::stream_secrets::StreamSecrets;
use forebay::nats::streams;
use forebay_schemas::Names;

use crate::support::{
    Account, Forebay, answer_text, chat, control, install_crypto, nats_server, provider, until,
};

async fn server(dir: &std::path::Path) -> (NatsServer, jetstream::Context) {
    install_crypto();
    let listen = "127.0.0.1:0".parse().expect("an address");
    let server = NatsServer::start(dir, listen, Duration::from_millis(100))
        .await
        .expect("it starts");
    let (credential, address) = server
        .url()
        .strip_prefix("nats://")
        .and_then(|rest| rest.split_once('@'))
        .expect("a credential");
    let (user, password) = credential.split_once(':').expect("user and password");
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
    let client = options.connect(address).await.expect("connected");
    (server, jetstream::new(client))
}

fn config() -> Config {
    Config::parse("").expect("the defaults")
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_made_once_and_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, context) = server(dir.path()).await;
    for _ in 0..2 {
        streams::establish(
            &context,
            &Names::default(),
            &config().streams,
            &StreamSecrets::default(),
        )
        .await
        .expect("established");
    }
    let jobs = context
        .get_stream("AI_JOBS")
        .await
        .expect("there")
        .cached_info()
        .config
        .clone();
    assert_eq!(jobs.retention, stream::RetentionPolicy::WorkQueue);
    assert_eq!(jobs.discard, stream::DiscardPolicy::New);
    assert!(!jobs.allow_rollup && !jobs.allow_message_schedules && !jobs.allow_message_ttl);
    let later = context
        .get_stream("AI_SCHEDULED")
        .await
        .expect("there")
        .cached_info()
        .config
        .clone();
    assert!(later.allow_message_schedules);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_stream_with_unsafe_settings_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, context) = server(dir.path()).await;
    let breaking = [
        (
            "retention",
            stream::Config {
                retention: stream::RetentionPolicy::Limits,
                ..work_queue()
            },
        ),
        (
            "discard",
            stream::Config {
                discard: stream::DiscardPolicy::Old,
                ..work_queue()
            },
        ),
        (
            "max_age",
            stream::Config {
                max_age: Duration::from_secs(60),
                ..work_queue()
            },
        ),
        (
            "storage",
            stream::Config {
                storage: stream::StorageType::Memory,
                ..work_queue()
            },
        ),
        (
            "allow_rollup",
            stream::Config {
                allow_rollup: true,
                ..work_queue()
            },
        ),
    ];
    for (index, (field, config_of_stream)) in breaking.into_iter().enumerate() {
        let names = Names::new(&format!("p{index}")).expect("a name");
        let (name, subjects) = (names.jobs_stream(), vec![format!("p{index}.jobs.*")]);
        let made = stream::Config {
            name: name.clone(),
            subjects,
            ..config_of_stream
        };
        context.create_stream(made).await.expect("made");
        let error = streams::establish(
            &context,
            &names,
            &config().streams,
            &StreamSecrets::default(),
        )
        .await;
        let error = error.expect_err(field).to_string();
        assert!(
            error.contains(&name) && error.contains(field),
            "{field}: {error}"
        );
    }
}

fn work_queue() -> stream::Config {
    stream::Config {
        retention: stream::RetentionPolicy::WorkQueue,
        discard: stream::DiscardPolicy::New,
        ..stream::Config::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_at_a_time_serves_a_prefix() {
    let dir = tempfile::tempdir().expect("a directory");
    let (server, context) = server(dir.path()).await;
    let worker = || {
        Forebay::builder()
            .account(Account::at_url("one", "http://127.0.0.1:1/v1"))
            .pool("chat", "m", &["one"])
            .nats(server.url())
    };
    let first = worker().start().await;
    let second = worker();
    let refused = App::start(&second.parse(), WhenHeld::GiveUp)
        .await
        .err()
        .expect("another worker is there")
        .to_string();
    assert!(
        refused.contains("another worker serves the prefix `ai`"),
        "{refused}"
    );
    assert!(
        refused.contains(&std::process::id().to_string()),
        "{refused}"
    );
    first.stop().await;
    let _second = second.start().await;
    // The key goes by itself, also if its owner dies before it has renewed it once.
    let nodes = context.get_key_value("AI_NODES").await.expect("the bucket");
    let entry = nodes.entry("worker").await.expect("asked").expect("taken");
    let subject = "$KV.AI_NODES.worker";
    let stream = context.get_stream("KV_AI_NODES").await.expect("the stream");
    let message = stream
        .direct_get_last_for_subject(subject)
        .await
        .expect("the key");
    assert_eq!(message.sequence, entry.revision);
    assert!(
        message.headers.get("Nats-TTL").is_some(),
        "{:?}",
        message.headers
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_deleted_while_serving_are_recreated_and_read() {
    let (forebay, provider) = Forebay::simple().await;
    forebay
        .publish("ai.jobs.chat", &chat("before", "hello"))
        .await;
    forebay.drained().await;
    let context = &forebay.connection.context;
    for stream in ["AI_JOBS", "AI_COMPLETIONS"] {
        context.delete_stream(stream).await.expect("deleted");
    }
    until("the streams", async || {
        context.get_stream("AI_JOBS").await.is_ok()
            && context.get_stream("AI_COMPLETIONS").await.is_ok()
    })
    .await;
    forebay
        .publish("ai.jobs.chat", &chat("after", "hello again"))
        .await;
    assert_eq!(
        answer_text(&forebay.completion("default", None, "after").await),
        "You said: hello again"
    );
    assert_eq!(provider.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_refuses_its_publishers_with_the_reason_and_no_others() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .config("[streams]\njobs_max_bytes = \"16MiB\"\njobs_max_per_queue = 2\n")
        .start()
        .await;
    let what = forebay_workers::PauseTarget::Pool("chat".to_owned());
    let _: forebay::control::messages::OrdersReply =
        control(&forebay, "pause", &what).await.expect("paused");
    let publish = async |subject: &'static str, id: usize, text: &str| {
        let job = chat(&id.to_string(), text).to_string();
        let ack = forebay
            .connection
            .context
            .publish(subject, job.into())
            .await
            .expect("sent");
        ack.await.map_err(|error| error.to_string())
    };
    for id in 0..2 {
        publish("ai.jobs.chat.acme", id, "hello")
            .await
            .expect("kept");
    }
    let refused = publish("ai.jobs.chat.acme", 2, "hello")
        .await
        .expect_err("one too many");
    assert!(
        refused.contains("maximum messages per subject exceeded"),
        "{refused}"
    );
    publish("ai.jobs.chat.widgets", 2, "hello")
        .await
        .expect("another team's");
    let large = "x".repeat(7 << 20);
    publish("ai.jobs.chat.large", 3, &large)
        .await
        .expect("kept");
    publish("ai.jobs.chat.large", 4, &large)
        .await
        .expect("kept");
    let refused = publish("ai.jobs.chat.larger", 5, &large)
        .await
        .expect_err("too much");
    assert!(refused.contains("maximum bytes exceeded"), "{refused}");
    let _: forebay::control::messages::OrdersReply =
        control(&forebay, "resume", &what).await.expect("resumed");
    forebay.drained().await;
    publish("ai.jobs.chat.acme", 2, "hello")
        .await
        .expect("there is room again");
    forebay.drained().await;
    assert_eq!(provider.calls().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_little_room_has_smaller_streams_unless_their_size_is_given() {
    install_crypto();
    let dir = tempfile::tempdir().expect("a directory");
    let jetstream = format!(
        "jetstream {{ store_dir: {:?}, max_file_store: 1GB }}\n",
        dir.path()
    );
    let (_server, address) = nats_server(dir.path(), &jetstream, &[]).await;
    let context = jetstream::new(async_nats::connect(address).await.expect("connected"));
    let given = Config::parse("[streams]\njobs_max_bytes = \"2GiB\"\n")
        .expect("a configuration")
        .streams;
    let error = streams::establish(
        &context,
        &Names::default(),
        &given,
        &StreamSecrets::default(),
    )
    .await
    .expect_err("no room");
    assert!(
        error
            .to_string()
            .contains("AI_JOBS: the server has no room for 2147483648 bytes"),
        "{error}"
    );
    // Twice: what was made small stays so.
    for _ in 0..2 {
        streams::establish(
            &context,
            &Names::default(),
            &config().streams,
            &StreamSecrets::default(),
        )
        .await
        .expect("established");
        let mut all = 0;
        for name in [
            "AI_JOBS",
            "AI_COMPLETIONS",
            "OBJ_AI_REQUESTS",
            "OBJ_AI_ANSWERS",
        ] {
            let size = context
                .get_stream(name)
                .await
                .expect(name)
                .cached_info()
                .config
                .max_bytes;
            assert!(size >= 16 << 20, "{name}: {size}");
            all += size;
        }
        assert!(all <= 1_000_000_000, "{all}");
    }
}
