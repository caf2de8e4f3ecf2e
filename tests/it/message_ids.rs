//! `Nats-Msg-Id`, by which one team can make the server drop the jobs of another.

use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, HeaderMap};
use tokio_util::task::AbortOnDropHandle;

use crate::program;
use crate::support::{Forebay, chat, install_crypto, nats_server, provider, until};

/// Jobs of each client, whose message ids the hostile team publishes all the time.
const JOBS: usize = 100;

/// A server with a user for Forebay and two for teams, as they are printed.
async fn server(dir: &Path) -> (tokio::process::Child, String) {
    install_crypto();
    std::fs::write(dir.join("empty.toml"), "").expect("written");
    let mut users = String::new();
    for args in [
        ["evil", "--shared-account"],
        ["good", "--shared-account"],
        ["--for", "forebay"],
    ] {
        let args = [&["--config", "empty.toml", "nats-permissions"], &args[..]].concat();
        let printed = program::run(dir, &args).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        users.push_str(&printed.stdout);
    }
    let config = format!(
        "jetstream {{ store_dir: {store:?} }}\nauthorization {{ users: [\n{users}\n] }}\n",
        store = dir.join("store"),
    );
    let passwords = [
        "TEAM_evil_PASSWORD",
        "TEAM_good_PASSWORD",
        "FOREBAY_PASSWORD",
    ];
    let passwords = passwords.map(|name| (name.to_owned(), "secret".to_owned()));
    nats_server(dir, &config, &passwords).await
}

async fn connect(address: &str, team: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(team.to_owned(), "secret".to_owned());
    let options = options.custom_inbox_prefix(format!("_INBOX_{team}"));
    options.connect(address).await.expect("connected")
}

fn message_id(index: usize) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("order-{index}"));
    headers
}

/// Publishes the message ids of the other team again and again.
async fn squat(client: Client) {
    loop {
        for index in 0..2 * JOBS {
            let job = chat("z", "hello").to_string();
            let sent =
                client.publish_with_headers("ai.jobs.nothing.evil", message_id(index), job.into());
            sent.await.expect("sent");
        }
        client.flush().await.expect("sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes one job, and returns true if the server acknowledged it as a duplicate.
async fn publish(context: &Context, id: &str, headers: HeaderMap) -> bool {
    let job = chat(id, "hello").to_string();
    let sent = context.publish_with_headers("ai.jobs.chat.good", headers, job.into());
    sent.await
        .expect("sent")
        .await
        .expect("acknowledged")
        .duplicate
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stderr, reason = "the figures of this experiment")]
async fn a_client_that_publishes_duplicates_again_without_their_id_loses_no_job() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = server(dir.path()).await;
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let forebay = Forebay::calling(&provider)
        .nats(&format!("forebay:secret@{address}"))
        .start()
        .await;
    let squatting = AbortOnDropHandle::new(tokio::spawn(squat(connect(&address, "evil").await)));
    let good = jetstream::new(connect(&address, "good").await);
    let (mut swallowed, mut repeated, mut of_plain) = (0, 0, 0);
    for index in 0..JOBS {
        // One client sets the header and does not look. One publishes again as told. One sets no header.
        swallowed += usize::from(publish(&good, &format!("a{index}"), message_id(index)).await);
        if publish(&good, &format!("b{index}"), message_id(JOBS + index)).await {
            repeated += 1;
            assert!(!publish(&good, &format!("b{index}"), HeaderMap::new()).await);
        }
        of_plain += usize::from(publish(&good, &format!("c{index}"), HeaderMap::new()).await);
    }
    eprintln!(
        "of {JOBS} jobs each, acknowledged as duplicates: {swallowed} that are lost, {repeated} that were published again, \
         {of_plain} without the header"
    );
    drop(squatting);
    assert_eq!(of_plain, 0);
    assert!(repeated > 0, "the test shows nothing");
    let stream = forebay
        .connection
        .context
        .get_stream("AI_COMPLETIONS")
        .await
        .expect("there");
    let answered = async || {
        let filter = "ai.completions.good.>";
        let subjects = stream.info_with_subjects(filter).await.expect("subjects");
        futures::StreamExt::count(subjects).await
    };
    until("all jobs that were stored", async || {
        answered().await == 3 * JOBS - swallowed
    })
    .await;
    let jobs = forebay.connection.context.get_stream("AI_JOBS").await;
    let jobs = jobs.expect("there");
    until("no waiting job of the team", async || {
        let waiting = jobs.info_with_subjects("ai.jobs.*.good").await;
        futures::StreamExt::count(waiting.expect("subjects")).await == 0
    })
    .await;
    assert_eq!(answered().await, 3 * JOBS - swallowed);
}
