//! Acknowledgements that a team aims at every subject of every stream, while a second worker stands by.
//!
//! `cargo test --test it -- --nocapture aims` prints a table of what each aim did.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, HeaderMap};
use forebay::app::{App, Started};
use forebay::cluster::worker_lease::WhenHeld;
use forebay::control::messages::{AccountsReport, OrdersReply, SwitchRequest};
use forebay_schemas::header::OBJECT_HEADER;
use forebay_schemas::{Completion, Status};
use forebay_simulator::Provider;
use forebay_workers::PauseTarget;
use forebay_workers::clock::{Clock, SystemClock};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::process::Child;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::program;
use crate::support::{
    Account, Forebay, ForebayBuilder, answer_text, chat, control, install_crypto, nats_server,
    provider, soon, until,
};

/// Longer than a message of the test's server may be.
const LARGE: usize = 300_000;
/// The jobs of the team that must not notice anything.
const JOBS: [&str; 5] = ["done", "done-large", "parked", "parked-large", "later"];

/// A server with a user for Forebay and one for a hostile team, as they are printed.
async fn server(dir: &Path) -> (Child, String) {
    install_crypto();
    std::fs::write(dir.join("empty.toml"), "").expect("written");
    let mut users = String::new();
    for args in [["evil", "--shared-account"], ["--for", "forebay"]] {
        let args = [&["--config", "empty.toml", "nats-permissions"], &args[..]].concat();
        let printed = program::run(dir, &args).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        users.push_str(&printed.stdout);
    }
    users.push_str("{ user: watcher, password: secret }\n");
    let config = format!(
        "max_payload: 256KB\njetstream {{ store_dir: {store:?} }}\nauthorization {{ users: [\n{users}\n] }}\n",
        store = dir.join("store"),
    );
    let passwords = ["TEAM_evil_PASSWORD", "FOREBAY_PASSWORD"];
    let passwords = passwords.map(|name| (name.to_owned(), "secret".to_owned()));
    nats_server(dir, &config, &passwords).await
}

async fn connect(address: &str, user: &str, inbox: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.to_owned(), "secret".to_owned());
    let options = options.custom_inbox_prefix(inbox);
    options.connect(address).await.expect("connected")
}

/// A worker of the pools `chat`, `parked` and `off`, with an empty data directory.
fn worker(provider: &Provider, address: &str) -> ForebayBuilder {
    let limits = "{ requests = 1000, per = \"1d\" }, { concurrent = 8 }";
    Forebay::builder()
        .account(Account::at("one", provider).limits(limits))
        .account(Account::at("two", provider).limits(limits))
        .pool("chat", "gpt-4o-mini", &["one"])
        .pool("parked", "gpt-4o-mini", &["one"])
        .pool("off", "gpt-4o-mini", &["two"])
        .nats(&format!("forebay:secret@{address}"))
}

fn job(id: &str) -> Value {
    let text = if id.ends_with("large") {
        "x".repeat(LARGE)
    } else {
        id.to_owned()
    };
    let mut job = chat(id, &text);
    if id == "later" {
        job["not_before"] = json!(SystemClock.now() + Duration::from_secs(8));
    }
    job
}

/// Publishes a job of the good team, as an object where it is large.
async fn publish(forebay: &Forebay, id: &str, job: &Value) {
    let pool = if id.starts_with("parked") {
        "parked"
    } else {
        "chat"
    };
    let subject = format!("ai.jobs.{pool}.good");
    if !id.ends_with("large") {
        return forebay.publish(&subject, job).await;
    }
    let object = format!("good/{:032x}", rand::random::<u128>());
    let whole = job.to_string().into();
    let requests = forebay.connection.requests();
    requests.put(&object, &whole).await.expect("put");
    let mut headers = HeaderMap::new();
    headers.insert(OBJECT_HEADER, object.as_str());
    forebay
        .publish_with(&subject, &json!({ "id": id }), headers)
        .await;
}

/// The newest completion of a job of the good team that Forebay wrote, whole.
async fn completion(forebay: &Forebay, id: &str) -> Completion {
    let queue = forebay_workers::queue::jetstream::JetStreamQueue::new(
        forebay.connection.client.clone(),
        forebay.connection.names.clone(),
    );
    let subject = format!("ai.completions.good._.{id}");
    let message = crate::support::eventually(&subject, async || {
        queue.own_completion(&subject).await.expect("readable")
    })
    .await;
    let whole = forebay
        .connection
        .open_completion(&message.payload, Some(&message.headers));
    whole.await.expect("a completion")
}

/// The streams with the subjects at which a team may aim: those that hold messages, and one for each filter.
async fn targets(context: &Context) -> Vec<(String, Vec<String>)> {
    let streams = context
        .streams()
        .try_collect::<Vec<_>>()
        .await
        .expect("STREAM.LIST");
    let mut all = Vec::new();
    for info in streams {
        let filters = info.config.subjects.iter();
        let mut subjects: Vec<_> = filters
            .map(|filter| filter.replace('*', "aimed").replace('>', "aimed.x"))
            .collect();
        let stream = context.get_stream(&info.config.name).await.expect("there");
        let held = stream.info_with_subjects(">").await.expect("subjects");
        let held: Vec<_> = held.try_collect().await.expect("subjects");
        // The subject of a schedule ends with a code that no team can compute, so a team can only guess one.
        let guessed = |subject: String| match subject.strip_prefix("ai.scheduled.") {
            Some(_) => format!("{}.0123456789abcdef", &subject[..subject.len() - 17]),
            None => subject,
        };
        subjects.extend(held.into_iter().map(|(subject, _)| guessed(subject)));
        all.push((info.config.name, subjects));
    }
    all
}

async fn messages(context: &Context, stream: &str) -> (u64, u64) {
    let stream = context.get_stream(stream).await.expect("there");
    let state = &stream.cached_info().state;
    (state.messages, state.last_sequence)
}

/// Aims one acknowledgement, and waits until the server has published it. Returns the messages of the stream before and after.
async fn aim(evil: &Client, watcher: &Client, stream: &str, target: &str) -> [(u64, u64); 2] {
    let context = jetstream::new(watcher.clone());
    let subscribed = watcher.subscribe(target.to_owned()).await;
    let mut seen = subscribed.expect("subscribed");
    // The answer shows that the server has the subscription, too.
    let before = messages(&context, stream).await;
    let job = json!({ "body": {} }).to_string();
    let sent = evil.publish_with_reply("ai.jobs.nothing.evil", target.to_owned(), job.into());
    sent.await.expect("sent");
    evil.flush().await.expect("sent");
    soon(target, seen.next())
        .await
        .expect("the acknowledgement");
    [before, messages(&context, stream).await]
}

/// Pauses the pool and disables the account that no job may use.
async fn set_up(forebay: &Forebay, parked: &PauseTarget) {
    let _: OrdersReply = control(forebay, "pause", parked).await.expect("paused");
    let off = SwitchRequest {
        account: "two".to_owned(),
        key: None,
    };
    // The worker writes nothing down until its lease lets it call.
    until("a disabled account", async || {
        let disabled = control::<AccountsReport>(forebay, "accounts.disable", &off).await;
        disabled.is_ok()
    })
    .await;
}

/// Aims one acknowledgement at each subject, and prints what it did.
#[expect(clippy::print_stderr, reason = "the table of this experiment")]
async fn aim_at_all(address: &str) {
    let evil = connect(address, "evil", "_INBOX_evil").await;
    // Any subject may be watched here, so that each acknowledgement is seen.
    let watcher = connect(address, "watcher", "_INBOX.watcher").await;
    let context = jetstream::new(watcher.clone());
    eprintln!("{:<18} {:<62} before  after", "stream", "subject aimed at");
    let mut aimed = 0;
    for (stream, subjects) in targets(&context).await {
        for subject in subjects {
            let [(before, _), (after, last)] = aim(&evil, &watcher, &stream, &subject).await;
            eprintln!(
                "{stream:<18} {subject:<62.62} {before:>6} {after:>6} (last sequence {last})"
            );
            aimed += 1;
        }
    }
    eprintln!("{aimed} subjects aimed at");
}

async fn assert_one_completion_of_each_job(context: &Context) {
    for id in JOBS {
        let subject = format!("ai.completions.good._.{id}");
        let stream = context.get_stream("AI_COMPLETIONS").await.expect("there");
        let held = stream.info_with_subjects(&subject).await.expect("subjects");
        let held: Vec<_> = held.try_collect().await.expect("subjects");
        assert_eq!(held, [(subject, 1)], "one completion");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_aimed_at_every_subject_of_every_stream_change_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one", "name=two,key=sk-two"], "").await;
    let forebay = worker(&provider, &address).start().await;
    let parked = PauseTarget::Pool("parked".to_owned());
    set_up(&forebay, &parked).await;
    let jobs = JOBS.map(|id| (id, job(id)));
    for (id, job) in &jobs {
        publish(&forebay, id, job).await;
    }
    completion(&forebay, "done").await;
    completion(&forebay, "done-large").await;
    forebay.scheduled("ai.scheduled.good._.later").await;

    let standby = worker(&provider, &address);
    let config = standby.parse();
    let end_of_test = CancellationToken::new();
    let _guard = end_of_test.clone().drop_guard();
    let standing_by = tokio::task::spawn_blocking(move || {
        let starting = App::start(&config, WhenHeld::StandBy);
        Handle::current().block_on(end_of_test.run_until_cancelled(starting))
    });

    aim_at_all(&address).await;

    assert!(!standing_by.is_finished(), "the lease was lost");
    let shown: AccountsReport = control(&forebay, "accounts", &()).await.expect("accounts");
    let state = |shown: &AccountsReport, name: &str| {
        let account = shown.accounts.iter().find(|account| account.name == name);
        account.expect("an account").keys[0].state.clone()
    };
    assert_eq!(state(&shown, "two"), "disabled");
    assert_eq!(state(&shown, "one"), "ready");
    assert_eq!(provider.calls().len(), 2, "a paused pool was called");
    let _: OrdersReply = control(&forebay, "resume", &parked).await.expect("resumed");
    for (id, job) in &jobs {
        let completion = completion(&forebay, id).await;
        let text = job
            .pointer("/body/messages/0/content")
            .and_then(Value::as_str);
        let expected = format!("You said: {}", text.expect("a text"));
        assert!(answer_text(&completion) == expected, "{id}");
    }
    assert_eq!(provider.calls().len(), JOBS.len(), "one call for each job");
    let _: OrdersReply = control(&forebay, "pause", &parked).await.expect("paused");
    forebay.drained().await;

    // The other worker takes over, with a data directory of its own. It knows what the first one knew.
    let _first = forebay.stop().await;
    let app = match soon("the other worker", standing_by)
        .await
        .expect("it runs")
        .expect("the test goes on")
        .expect("it starts")
    {
        Started::Here(app) => app,
        Started::Elsewhere(by) => panic!("held by {by:?}"),
    };
    let forebay = Forebay::of(app, standby);
    let shown: AccountsReport = control(&forebay, "accounts", &()).await.expect("accounts");
    assert_eq!(state(&shown, "two"), "disabled");
    let resumed: OrdersReply = control(&forebay, "resume", &parked).await.expect("resumed");
    assert!(resumed.paused.is_empty(), "{resumed:?}");
    for (id, job) in &jobs {
        publish(&forebay, id, job).await;
    }
    let mut off = chat("off", "hello");
    off["deadline"] = json!(SystemClock.now() + Duration::from_secs(1));
    forebay.publish("ai.jobs.off.good", &off).await;
    assert_eq!(completion(&forebay, "off").await.status, Status::Expired);
    forebay.drained().await;
    assert_eq!(provider.calls().len(), JOBS.len(), "no job is called again");
    let context = &forebay.connection.context;
    assert_one_completion_of_each_job(context).await;
    // Of the store of jobs, nothing is left but what was aimed at.
    let stream = context.get_stream("OBJ_AI_REQUESTS").await.expect("there");
    until("an empty store of jobs", async || {
        let held = stream.info_with_subjects(">").await.expect("subjects");
        let held: Vec<_> = held.try_collect().await.expect("subjects");
        held.iter()
            .all(|(subject, _)| subject.ends_with(".aimed.x"))
    })
    .await;
}
