//! Teams at a server with users: each has its own, and cannot cross over.

use std::path::Path;
use std::sync::Arc;

use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Event, HeaderMap};
use forebay_schemas::Completion;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::json;
use tokio::process::Child;

use crate::program;
use crate::support::{
    Forebay, answer_text, chat, control, install_crypto, nats_server, next_copy, provider, until,
    wait_for_calls,
};

/// Subjects that are not a team's to publish on.
const FOREIGN: [&str; 30] = [
    "ai.jobs.chat",
    "ai.jobs.chat.acme2",
    "ai.jobs.chat.acme2.interactive",
    "ai.ask.chat.acme2",
    "ai.scheduled.acme._.intruder",
    "ai.due.chat.acme.normal",
    "ai.completions.acme._.forged",
    "ai.completions.acme2._.forged",
    "ai.dead.chat.acme",
    "ai.events.accounts.one",
    "ai.ctl.cancel",
    "ai.ctl.accounts.disable",
    "ai.ctl.dead.drop",
    "$KV.AI_CONTROLS.pause.x",
    "$JS.API.STREAM.PURGE.AI_JOBS",
    "$JS.API.STREAM.DELETE.AI_COMPLETIONS",
    "$JS.API.STREAM.MSG.GET.AI_COMPLETIONS",
    "$JS.API.DIRECT.GET.AI_COMPLETIONS",
    "$JS.API.DIRECT.GET.AI_COMPLETIONS.ai.completions.acme2._.x",
    "$JS.API.CONSUMER.CREATE.AI_COMPLETIONS.mine.ai.completions.acme.>",
    "$JS.API.DIRECT.GET.AI_COMPLETIONS.ai.completions.acme._.x",
    "$JS.API.CONSUMER.INFO.AI_COMPLETIONS.x",
    "$JS.ACK.AI_COMPLETIONS.x.1.1.1.1.1",
    "$JS.API.CONSUMER.MSG.NEXT.AI_JOBS.chat+acme+normal",
    "$JS.API.CONSUMER.DELETE.AI_JOBS.chat+acme+normal",
    "$JS.ACK.AI_JOBS.chat+acme2+normal.1.1.1.1.1",
    "$O.AI_REQUESTS.C.x",
    "$O.AI_REQUESTS.M.x",
    "$O.AI_ANSWERS.M.x",
    "$JS.API.CONSUMER.CREATE.OBJ_AI_ANSWERS.x.$O.AI_ANSWERS.C.x",
];
/// Where a team could have others' answers published.
const TARGETS: [&str; 9] = [
    "$JS.API.STREAM.DELETE.AI_COMPLETIONS",
    "$JS.API.STREAM.PURGE.AI_COMPLETIONS",
    "$JS.API.CONSUMER.DELETE.AI_JOBS.chat+acme2+normal",
    "ai.completions.acme2._.order-1",
    "ai.completions.acme2._.order-2",
    "ai.jobs.chat.acme2",
    "ai.ctl.cancel",
    "ai.scheduled.acme2._.order-2",
    "ai.due.chat.acme2.normal",
];

/// A server whose users are an operator and the teams.
async fn server(dir: &Path, teams: &[&str]) -> (Child, String) {
    let mut users = vec!["{ user: operator, password: secret }".to_owned()];
    std::fs::write(dir.join("empty.toml"), "").expect("written");
    for team in teams {
        let args = [
            "--config",
            "empty.toml",
            "nats-permissions",
            team,
            "--shared-account",
        ];
        let printed = program::run(dir, &args).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        users.push(printed.stdout);
    }
    let config = format!(
        "jetstream {{ store_dir: {store:?} }}\nauthorization {{ users: [\n{users}\n] }}\n",
        store = dir.join("store"),
        users = users.join("\n"),
    );
    nats_server(dir, &config, &passwords(teams)).await
}

/// A server at which each team has an account of its own, beside that of the operator.
async fn server_with_accounts(dir: &Path, teams: &[&str]) -> (Child, String) {
    let (mut exports, mut accounts) = (String::new(), String::new());
    std::fs::write(dir.join("empty.toml"), "").expect("written");
    for team in teams {
        let args = ["--config", "empty.toml", "nats-permissions", team];
        let printed = program::run(dir, &args).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        let (export, account) = printed
            .stdout
            .split_once("# Goes into `accounts { … }`:")
            .expect("two parts");
        exports.push_str(export);
        // One user more, whose permissions limit nothing: the account alone must keep it from others.
        let any = format!("users: [\n    {{ user: any-{team}, password: of-any-{team} }}\n");
        accounts.push_str(&account.replace("users: [\n", &any));
    }
    let config = format!(
        "jetstream {{ store_dir: {store:?} }}\naccounts {{\nFOREBAY: {{ jetstream: enabled\n\
         users: [{{ user: operator, password: secret }}]\nexports: [\n{exports}\n] }}\n{accounts}\n}}\n",
        store = dir.join("store"),
    );
    nats_server(dir, &config, &passwords(teams)).await
}

fn passwords(teams: &[&str]) -> Vec<(String, String)> {
    teams
        .iter()
        .map(|team| (format!("TEAM_{team}_PASSWORD"), format!("of-{team}")))
        .collect()
}

/// A team's connection, and what the server refused it.
struct Team {
    client: Client,
    context: Context,
    refused: Arc<Mutex<Vec<String>>>,
}

impl Team {
    async fn connect(address: &str, team: &str) -> Self {
        let refused = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&refused);
        let options = ConnectOptions::with_user_and_password(team.to_owned(), format!("of-{team}"));
        let options = options.custom_inbox_prefix(format!("_INBOX_{team}"));
        let options = options.event_callback(move |event| {
            let noted = Arc::clone(&noted);
            async move {
                if let Event::ServerError(error) = event {
                    noted.lock().push(error.to_string());
                }
            }
        });
        let client = options.connect(address).await.expect("connected");
        Self {
            context: jetstream::new(client.clone()),
            client,
            refused,
        }
    }

    /// Waits until the server has refused something that names `subject`.
    async fn is_refused(&self, subject: &str) {
        let subject = subject.to_lowercase();
        until(&format!("a refusal of {subject}"), async || {
            let refused = self.refused.lock().join("\n").to_lowercase();
            refused.contains(&subject)
        })
        .await;
    }

    async fn publish(&self, subject: &str, payload: String, headers: HeaderMap) {
        self.client
            .publish_with_headers(subject.to_owned(), headers, payload.into())
            .await
            .expect("sent");
        self.client.flush().await.expect("sent");
    }
}

/// A Forebay at that server, and the simulated provider.
async fn forebay(dir: tempfile::TempDir, address: &str) -> (Forebay, forebay_simulator::Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .in_dir(dir)
        .nats(&format!("operator:secret@{address}"))
        .start()
        .await;
    (forebay, provider)
}

/// Two teams at a server, and a Forebay that serves them.
struct Site {
    // Dropped first, since it needs the server to stop.
    forebay: Forebay,
    provider: forebay_simulator::Provider,
    acme: Team,
    _server: Child,
}

async fn site() -> Site {
    let dir = tempfile::tempdir().expect("a directory");
    let started = server(dir.path(), &["acme", "acme2"]).await;
    site_at(dir, started).await
}

async fn site_with_accounts() -> Site {
    let dir = tempfile::tempdir().expect("a directory");
    let started = server_with_accounts(dir.path(), &["acme", "acme2"]).await;
    site_at(dir, started).await
}

async fn site_at(dir: tempfile::TempDir, (server, address): (Child, String)) -> Site {
    install_crypto();
    let (forebay, provider) = forebay(dir, &address).await;
    let acme = Team::connect(&address, "acme").await;
    Site {
        forebay,
        provider,
        acme,
        _server: server,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_publishes_its_jobs_and_reads_its_completions() {
    publishes_and_reads(site().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_with_its_own_nats_account_publishes_and_reads_too() {
    publishes_and_reads(site_with_accounts().await).await;
}

async fn publishes_and_reads(site: Site) {
    let (forebay, acme, provider) = (&site.forebay, &site.acme, &site.provider);
    let mut copies = acme
        .client
        .subscribe("_INBOX_acme.copies")
        .await
        .expect("subscribed");
    let mut job = chat("copied", "hello");
    job["reply_to"] = json!("_INBOX_acme.copies");
    acme.context
        .publish("ai.jobs.chat.acme", job.to_string().into())
        .await
        .expect("sent")
        .await
        .expect("kept");
    assert_eq!(
        answer_text(&next_copy(&mut copies).await),
        "You said: hello"
    );
    let mut live = acme
        .client
        .subscribe("ai.completions.acme.>")
        .await
        .expect("subscribed");
    for subject in ["ai.jobs.chat.acme", "ai.jobs.chat.acme.bulk"] {
        let job = chat(subject, "hello").to_string();
        acme.context
            .publish(subject, job.into())
            .await
            .expect("sent")
            .await
            .expect("kept");
        let came = tokio::time::timeout(std::time::Duration::from_secs(5), live.next()).await;
        let came = came
            .unwrap_or_else(|_| {
                panic!("{subject} {:?} {:?}", acme.refused.lock(), provider.calls())
            })
            .expect("open");
        assert!(
            came.subject.starts_with("ai.completions.acme._."),
            "{}",
            came.subject
        );
    }
    acme.context
        .publish(
            "ai.jobs.chat.acme",
            chat("mine", "hello").to_string().into(),
        )
        .await
        .expect("sent")
        .await
        .expect("kept");
    assert_eq!(
        answer_text(&forebay.completion("acme", None, "mine").await),
        "You said: hello"
    );
    let asked = acme
        .client
        .request(
            "ai.ask.chat.acme",
            chat("asked", "hello").to_string().into(),
        )
        .await;
    assert!(
        String::from_utf8_lossy(&asked.expect("an answer").payload).contains("You said: hello")
    );
    let wrong = acme
        .client
        .request("ai.ask.a:b.acme", "{}".into())
        .await
        .expect("an answer");
    let problem = wrong
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Nats-Service-Error"));
    assert!(
        problem.is_some_and(|problem| problem.as_str().contains("names no pool")),
        "{problem:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_cannot_use_the_subjects_of_others() {
    let site = site().await;
    let (acme, provider) = (&site.acme, &site.provider);
    let job = chat("intruder", "hello").to_string();
    for subject in FOREIGN {
        acme.publish(subject, job.clone(), HeaderMap::new()).await;
        acme.is_refused(&format!("publish to \"{subject}\"")).await;
    }
    for subject in [
        "ai.completions.acme2.>",
        "ai.completions.>",
        "_INBOX.>",
        "_INBOX_acme2.>",
        "ai.jobs.>",
        "ai.seen.>",
        "ai.events.>",
        ">",
    ] {
        let _ = acme.client.subscribe(subject).await.expect("asked");
        acme.client.flush().await.expect("sent");
        acme.is_refused(&format!("subscription to \"{subject}\""))
            .await;
    }
    assert!(provider.calls().is_empty(), "no call for an intruder");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_headers_give_a_team_no_power() {
    let site = site().await;
    let (forebay, acme, provider) = (&site.forebay, &site.acme, &site.provider);
    let job = chat("intruder", "hello").to_string();
    forebay
        .publish("ai.jobs.chat.acme2", &chat("stays", "hello"))
        .await;
    assert_eq!(
        answer_text(&forebay.completion("acme2", None, "stays").await),
        "You said: hello"
    );
    for (name, value) in [
        ("Nats-Rollup", "all"),
        ("Nats-Rollup", "sub"),
        ("Nats-TTL", "1s"),
        ("Nats-Schedule", "@every 1s"),
        ("Nats-Expected-Stream", "AI_SCHEDULED"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        headers.insert("Nats-Schedule-Target", "ai.jobs.chat.acme2");
        let ack = acme
            .context
            .publish_with_headers("ai.jobs.chat.acme", headers, job.clone().into())
            .await;
        assert!(ack.expect("sent").await.is_err(), "{name} was taken");
    }
    // What only Forebay may say of a job is not believed.
    let mut headers = HeaderMap::new();
    headers.insert("Forebay-State", r#"{"id":"stays","published":"2026-01-01T00:00:00Z","attempts":[],"counted":0,"replies":["ai.jobs.chat.acme2"]}"#);
    let ack = acme
        .context
        .publish_with_headers(
            "ai.jobs.chat.acme",
            headers,
            chat("own", "hello").to_string().into(),
        )
        .await;
    ack.expect("sent").await.expect("kept");
    assert_eq!(
        answer_text(&forebay.completion("acme", None, "own").await),
        "You said: hello"
    );
    forebay.drained().await;
    assert_eq!(provider.calls().len(), 2, "no call for an intruder");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_reply_subject_makes_nobody_publish_harmful_messages() {
    let site = site().await;
    let (forebay, acme, provider) = (&site.forebay, &site.acme, &site.provider);
    forebay
        .publish("ai.jobs.chat.acme2", &chat("order-1", "hello"))
        .await;
    let theirs = forebay.completion("acme2", None, "order-1").await;
    let streams = [
        "AI_JOBS",
        "AI_SCHEDULED",
        "AI_COMPLETIONS",
        "AI_DEAD",
        "AI_EVENTS",
        "KV_AI_CONTROLS",
    ];
    for (index, target) in TARGETS.into_iter().enumerate() {
        // Asked well and asked badly, and what the server answers to a publish.
        for (subject, id) in [
            ("ai.ask.chat.acme", "asked"),
            ("ai.ask.a:b.acme", "odd"),
            ("ai.jobs.chat.acme", "job"),
        ] {
            let job = chat(&format!("{id}-{index}"), "of acme").to_string();
            acme.client
                .publish_with_reply(subject, target, job.into())
                .await
                .expect("sent");
        }
    }
    acme.client.flush().await.expect("sent");
    let last = chat("last", "of acme").to_string();
    acme.context
        .publish("ai.jobs.chat.acme", last.into())
        .await
        .expect("sent")
        .await
        .expect("kept");
    assert_eq!(
        answer_text(&forebay.completion("acme", None, "last").await),
        "You said: of acme"
    );
    forebay.drained().await;
    for stream in streams {
        forebay
            .connection
            .context
            .get_stream(stream)
            .await
            .expect(stream);
    }
    // Another team's job has its own answer, whatever was put in its place before.
    for id in ["order-1", "order-2"] {
        forebay
            .publish("ai.jobs.chat.acme2", &chat(id, "hello"))
            .await;
        forebay.drained().await;
        let request = json!({ "team": "acme2", "batch": null, "id": id });
        let stored: Option<Completion> = control(forebay, "results", &request)
            .await
            .expect("an answer");
        let stored = stored.expect("a result");
        assert_eq!(
            (stored.team.as_str(), answer_text(&stored).as_str()),
            ("acme2", "You said: hello"),
            "{id}"
        );
    }
    assert_eq!(theirs.revision, 1);
    let of_acme = provider.calls().len() - 2;
    assert!(of_acme <= 1 + 2 * TARGETS.len(), "{of_acme}");
}

#[tokio::test(flavor = "multi_thread")]
async fn separate_nats_accounts_leak_nothing_not_even_server_replies() {
    let site = site_with_accounts().await;
    let (forebay, provider) = (&site.forebay, &site.provider);
    let port = forebay.connection.client.server_info().port;
    let acme = &Team::connect(&format!("127.0.0.1:{port}"), "any-acme").await;
    for subject in FOREIGN {
        let job = chat("intruder", "hello").to_string();
        match acme.client.request(subject, job.into()).await {
            Err(error) => assert_eq!(
                error.kind(),
                async_nats::RequestErrorKind::NoResponders,
                "{subject}"
            ),
            // The server's own subjects mean the streams of the account that asks.
            Ok(answer) => {
                let text = String::from_utf8_lossy(&answer.payload).into_owned();
                assert!(text.contains("\"error\":{"), "{subject}: {text}");
            }
        }
    }
    for (index, target) in TARGETS.into_iter().enumerate() {
        for (subject, id) in [("ai.ask.chat.acme", "asked"), ("ai.jobs.chat.acme", "job")] {
            let job = chat(&format!("{id}-{index}"), "of acme").to_string();
            acme.client
                .publish_with_reply(subject, target, job.into())
                .await
                .expect("sent");
        }
    }
    let last = chat("last", "of acme").to_string();
    acme.context
        .publish("ai.jobs.chat.acme", last.into())
        .await
        .expect("sent")
        .await
        .expect("kept");
    let jobs = 2 * TARGETS.len() + 1;
    wait_for_calls(provider, jobs).await;
    forebay.drained().await;
    // Every message in a stream is of the team's own jobs.
    assert_eq!(
        forebay.count("AI_COMPLETIONS".to_owned()).await,
        jobs as u64
    );
    let stream = forebay
        .connection
        .context
        .get_stream("AI_JOBS")
        .await
        .expect("the stream");
    assert_eq!(stream.cached_info().state.last_sequence, jobs as u64);
    for stream in [
        "AI_SCHEDULED",
        "AI_DEAD",
        "OBJ_AI_REQUESTS",
        "OBJ_AI_ANSWERS",
    ] {
        assert_eq!(forebay.count(stream.to_owned()).await, 0, "{stream}");
    }
    assert_eq!(provider.calls().len(), jobs);
}
