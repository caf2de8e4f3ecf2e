//! What `forebay nats-permissions` prints for each role, at a real server: what its user may do, and what not.

use std::path::Path;
use std::sync::Arc;

use async_nats::{Client, ConnectOptions, Event};
use forebay_schemas::Completion;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::process::Child;

use crate::program::{self, Output};
use crate::support::{
    Account, Forebay, answer_text, chat, install_crypto, nats_server, provider, until,
};

/// The users: the name, the arguments that print it, and the environment variable of its password.
const USERS: [(&str, &[&str], &str); 6] = [
    (
        "acme.reader",
        &["acme", "--role", "reader", "--shared-account"],
        "TEAM_acme_reader_PASSWORD",
    ),
    ("acme", &["acme", "--shared-account"], "TEAM_acme_PASSWORD"),
    (
        "acme.owner",
        &["acme", "--role", "owner", "--shared-account"],
        "TEAM_acme_owner_PASSWORD",
    ),
    ("forebay", &["--for", "forebay"], "FOREBAY_PASSWORD"),
    ("operator", &["--for", "operator"], "OPERATOR_PASSWORD"),
    ("reader", &["--for", "reader"], "READER_PASSWORD"),
];
const TEAM: [&str; 3] = ["acme.reader", "acme", "acme.owner"];
const WRITERS: [&str; 4] = ["acme", "acme.owner", "forebay", "operator"];

/// Subjects, and who may publish on them.
fn publishes() -> Vec<(&'static str, Vec<&'static str>)> {
    let with = |team: &[&'static str], more: &[&'static str]| [team, more].concat();
    vec![
        (
            "ai.team.acme.read.results",
            with(&TEAM, &["forebay", "operator", "reader"]),
        ),
        ("ai.team.acme.write.cancel", WRITERS.into()),
        (
            "ai.team.acme.manage.prompts",
            vec!["acme.owner", "forebay", "operator"],
        ),
        (
            "ai.team.acme2.read.results",
            vec!["forebay", "operator", "reader"],
        ),
        ("ai.jobs.chat.acme", WRITERS.into()),
        ("ai.jobs.chat.acme.bulk", WRITERS.into()),
        ("ai.ask.chat.acme", WRITERS.into()),
        ("ai.jobs.chat.acme2", vec!["forebay", "operator"]),
        ("ai.ctl.queues", vec!["forebay", "operator", "reader"]),
        ("ai.ctl.dead.show", vec!["forebay", "operator", "reader"]),
        ("ai.ctl.cancel", vec!["forebay", "operator"]),
        ("ai.ctl.accounts.enable", vec!["forebay", "operator"]),
        ("$SRV.PING", vec!["forebay", "operator"]),
        ("$JS.API.STREAM.INFO.AI_JOBS", vec!["forebay", "operator"]),
        ("$O.AI_REQUESTS.M.x", vec!["forebay", "operator"]),
        ("$O.AI_ANSWERS.M.x", vec!["forebay"]),
        ("$KV.AI_NODES.worker", vec!["forebay"]),
        ("ai.completions.acme._.x", vec!["forebay"]),
        ("ai.due.chat.acme.normal", vec!["forebay"]),
        ("_INBOX_acme.x", vec!["forebay"]),
    ]
}

/// Filters, and who may subscribe to them.
fn subscriptions() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        ("ai.completions.acme.>", USERS.map(|(name, ..)| name).into()),
        ("_INBOX_acme.>", TEAM.into()),
        ("ai.completions.>", vec!["forebay", "operator", "reader"]),
        ("ai.events.>", vec!["forebay", "operator", "reader"]),
        ("ai.dead.>", vec!["forebay", "operator", "reader"]),
        ("_INBOX.reader.>", vec!["forebay", "operator", "reader"]),
        ("_INBOX.>", vec!["forebay", "operator"]),
        ("ai.jobs.>", vec!["forebay"]),
        ("$SRV.>", vec!["forebay"]),
        ("$KV.>", vec![]),
        (">", vec![]),
    ]
}

async fn printed(dir: &Path, args: &[&str]) -> Output {
    std::fs::write(dir.join("empty.toml"), "").expect("written");
    let args = [&["--config", "empty.toml", "nats-permissions"], args].concat();
    program::run(dir, &args).await
}

/// A server with all of the users.
async fn server(dir: &Path) -> (Child, String) {
    install_crypto();
    let mut users = Vec::new();
    for (_, args, _) in USERS {
        let output = printed(dir, args).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        users.push(output.stdout);
    }
    let config = format!(
        "jetstream {{ store_dir: {store:?} }}\nauthorization {{ users: [\n{users}\n] }}\n",
        store = dir.join("store"),
        users = users.join("\n"),
    );
    let passwords = USERS.map(|(name, _, variable)| (variable.to_owned(), format!("of-{name}")));
    nats_server(dir, &config, &passwords).await
}

/// A user's connection, and what the server refused it.
struct User {
    client: Client,
    refused: Arc<Mutex<Vec<String>>>,
}

impl User {
    async fn connect(address: &str, name: &str, inbox: &str) -> Self {
        let refused = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&refused);
        let options = ConnectOptions::with_user_and_password(name.to_owned(), format!("of-{name}"));
        let options = options
            .custom_inbox_prefix(inbox)
            .event_callback(move |event| {
                let noted = Arc::clone(&noted);
                async move {
                    if let Event::ServerError(error) = event {
                        noted.lock().push(error.to_string().to_lowercase());
                    }
                }
            });
        let client = options.connect(address).await.expect("connected");
        Self { client, refused }
    }

    fn was_refused(&self, words: &str) -> bool {
        let words = words.to_lowercase();
        self.refused
            .lock()
            .iter()
            .any(|error| error.contains(&words))
    }

    /// Returns those of the subjects on which it may not publish.
    async fn refused_publishes(&self, subjects: &[&'static str]) -> Vec<&'static str> {
        // Every user is refused the last one, after all others.
        for subject in subjects.iter().chain(&["$SYS.last"]) {
            let sent = self.client.publish((*subject).to_owned(), "{}".into());
            sent.await.expect("sent");
        }
        self.client.flush().await.expect("sent");
        until("the last refusal", async || {
            self.was_refused("to \"$sys.last\"")
        })
        .await;
        let refused = |subject: &&&str| self.was_refused(&format!("publish to \"{subject}\""));
        subjects.iter().filter(refused).copied().collect()
    }

    async fn refused_subscriptions(&self, filters: &[&'static str]) -> Vec<&'static str> {
        for filter in filters.iter().chain(&["$SYS.last"]) {
            let _ = self
                .client
                .subscribe((*filter).to_owned())
                .await
                .expect("asked");
        }
        self.client.flush().await.expect("sent");
        let last = "subscription to \"$sys.last\"";
        until("the last refusal", async || self.was_refused(last)).await;
        let refused = |filter: &&&str| self.was_refused(&format!("subscription to \"{filter}\""));
        filters.iter().filter(refused).copied().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_its_table_says_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = server(dir.path()).await;
    let (publishes, subscriptions) = (publishes(), subscriptions());
    let without = |table: &[(&'static str, Vec<&'static str>)], name: &str| {
        let others = table.iter().filter(|(_, users)| !users.contains(&name));
        others.map(|(subject, _)| *subject).collect::<Vec<_>>()
    };
    let subjects: Vec<_> = publishes.iter().map(|(subject, _)| *subject).collect();
    let filters: Vec<_> = subscriptions.iter().map(|(filter, _)| *filter).collect();
    for (name, ..) in USERS {
        let user = User::connect(&address, name, "_INBOX").await;
        // Forebay may publish everything, so no subject is refused last.
        if name != "forebay" {
            let refused = user.refused_publishes(&subjects).await;
            assert_eq!(refused, without(&publishes, name), "{name} publishes");
        }
        let refused = user.refused_subscriptions(&filters).await;
        assert_eq!(refused, without(&subscriptions, name), "{name} subscribes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forebay_its_operators_and_a_team_work_with_the_rights_that_are_printed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let at = |user: &str| {
        Forebay::builder()
            .account(Account::at("one", &provider))
            .pool("chat", "gpt-4o-mini", &["one"])
            .nats(&format!("{user}:of-{user}@{address}"))
    };
    let forebay = at("forebay").start().await;
    let acme = User::connect(&address, "acme", "_INBOX_acme").await;
    let mut job = chat("mine", "hello");
    job["reply_to"] = json!("_INBOX_acme.copies");
    let asked = acme
        .client
        .request("ai.jobs.chat.acme", job.to_string().into())
        .await;
    asked.expect("acknowledged");
    let asked = acme.client.request(
        "ai.ask.chat.acme",
        chat("asked", "hello").to_string().into(),
    );
    let answer: Completion =
        serde_json::from_slice(&asked.await.expect("an answer").payload).expect("JSON");
    assert_eq!(answer_text(&answer), "You said: hello");
    let completion = forebay.completion("acme", None, "mine").await;
    assert_eq!(answer_text(&completion), "You said: hello");

    let (operator, reader) = (at("operator").write(), at("reader").write());
    let reading: [&[&str]; 4] = [
        &["queues"],
        &["accounts"],
        &["dead", "list"],
        &["results", "get", "mine", "--team", "acme"],
    ];
    for args in reading {
        for dir in [&operator, &reader] {
            let output = program::run(dir.path(), args).await;
            assert_eq!(output.code, Some(0), "{args:?} {output:?}");
        }
    }
    std::fs::write(
        operator.path().join("jobs.jsonl"),
        chat("ours", "hello").to_string(),
    )
    .expect("written");
    let changing: [&[&str]; 3] = [
        &["publish", "jobs.jsonl", "--pool", "chat"],
        &["pause", "pool", "chat"],
        &["accounts", "disable", "one"],
    ];
    for args in changing {
        let output = program::run(operator.path(), args).await;
        assert_eq!(output.code, Some(0), "{args:?} {output:?}");
    }
    let refused = program::run(reader.path(), &["resume", "pool", "chat"]).await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_request_makes_forebay_publish_to_inboxes_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .nats(&format!("forebay:of-forebay@{address}"))
        .start()
        .await;
    forebay
        .publish("ai.jobs.chat", &chat("kept", "hello"))
        .await;
    forebay.completion("default", None, "kept").await;
    let reader = User::connect(&address, "reader", "_INBOX.reader").await;
    for target in [
        "$JS.API.STREAM.DELETE.AI_COMPLETIONS",
        "ai.jobs.chat",
        "$KV.AI_CONTROLS.x",
    ] {
        let aimed = reader
            .client
            .publish_with_reply("ai.ctl.queues", target, "".into());
        aimed.await.expect("sent");
    }
    let answered = reader.client.request("ai.ctl.queues", "".into()).await;
    answered.expect("an answer to the inbox");
    // The requests before it were handled beside it; nothing that they could write is there.
    assert_eq!(forebay.count("AI_COMPLETIONS".to_owned()).await, 1);
    assert_eq!(forebay.count("KV_AI_CONTROLS".to_owned()).await, 0);
    assert_eq!(forebay.count("AI_JOBS".to_owned()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_of_a_team_differ_in_a_nats_account_of_its_own_too() {
    install_crypto();
    let dir = tempfile::tempdir().expect("a directory");
    let parts = "# Goes into `accounts { … }`:";
    let mut printed_parts = Vec::new();
    for role in ["reader", "member", "owner"] {
        let output = printed(dir.path(), &["acme", "--role", role]).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        let (exports, account) = output.stdout.split_once(parts).expect("two parts");
        printed_parts.push((exports.to_owned(), account.to_owned()));
    }
    let users = |account: &str| {
        let (_, rest) = account.split_once("users: [").expect("users");
        let (users, rest) = rest.split_once("\n  ]\n  imports").expect("imports");
        (users.to_owned(), rest.to_owned())
    };
    let (exports, owner) = printed_parts.pop().expect("three");
    let mut all = users(&owner).0;
    for (others, account) in &printed_parts {
        assert_eq!(others, &exports, "the account is the same for each role");
        assert_eq!(users(account).1, users(&owner).1);
        all.push_str(&users(account).0);
    }
    let owner = owner.replace(&users(&owner).0, &all);
    let config = format!(
        "accounts {{\nFOREBAY: {{ jetstream: enabled\nusers: [{{ user: any, password: any }}]\nexports: [\n{exports}\n] }}\n\
         {owner}\n}}\njetstream {{ store_dir: {store:?} }}\n",
        store = dir.path().join("store"),
    );
    let passwords = [USERS[0], USERS[1], USERS[2]]
        .map(|(name, _, variable)| (variable.to_owned(), format!("of-{name}")));
    let (_server, address) = nats_server(dir.path(), &config, &passwords).await;
    let subjects = [
        "ai.team.acme.read.results",
        "ai.jobs.chat.acme",
        "ai.team.acme.write.cancel",
        "ai.team.acme.manage.prompts",
        "ai.jobs.chat.acme2",
        "$SRV.PING",
    ];
    for (name, allowed) in [("acme.reader", 1), ("acme", 3), ("acme.owner", 4)] {
        let user = User::connect(&address, name, "_INBOX").await;
        let refused = user.refused_publishes(&subjects).await;
        assert_eq!(refused, subjects[allowed..], "{name}");
        let refused = user
            .refused_subscriptions(&["_INBOX.>", "ai.completions.acme.>", ">"])
            .await;
        assert_eq!(refused, [">"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_as_json_has_the_same_rights_and_wrong_words_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let json = async |args: &[&str]| {
        let output = printed(dir.path(), args).await;
        serde_json::from_str::<Value>(&output.stdout).expect("JSON")
    };
    let account = json(&["acme", "--role", "owner", "--json"]).await;
    let user = json(&["acme", "--role", "owner", "--shared-account", "--json"]).await;
    let publishes = "/permissions/publish/allow";
    assert_eq!(account["account"], "acme");
    assert_eq!(account["users"][0]["user"], "acme.owner");
    assert_eq!(
        account["users"][0].pointer(publishes),
        user.pointer(publishes)
    );
    let operator = json(&["--for", "operator", "--json"]).await;
    assert_eq!(operator["user"], "operator");

    let wrong: [(&[&str], &str); 5] = [
        (&[], "TEAM"),
        (&["acme", "--for", "reader"], "--for"),
        (&["--for", "reader", "--role", "owner"], "--role"),
        (&["acme", "--role", "king"], "reader, member, owner"),
        (
            &["acme", "--beside", "FOREBAY"],
            "prints a NATS account of the team's own without it",
        ),
    ];
    for (args, words) in wrong {
        let output = printed(dir.path(), args).await;
        assert_eq!(output.code, Some(2), "{args:?} {output:?}");
        assert!(output.stderr.contains(words), "{args:?} {output:?}");
    }
}
