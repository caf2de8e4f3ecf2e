//! A NATS server that a team shares with Forebay, and the acknowledgements that the team has it write.

use std::path::Path;

use async_nats::Client;
use async_nats::jetstream::Context;
use forebay::control::messages::AccountsReport;
use forebay_schemas::header::TAG_HEADER;
use serde_json::json;
use tokio::process::Child;

use super::{Forebay, control, install_crypto, nats_server, until};

/// A server that Forebay does not manage, and a client of it, as a team has one.
pub(crate) async fn server(dir: &Path) -> (Child, String, Client) {
    install_crypto();
    let config = format!("jetstream {{ store_dir: {:?} }}\n", dir.join("store"));
    let (child, address) = nats_server(dir, &config, &[]).await;
    let client = async_nats::connect(&address).await.expect("connected");
    (child, address, client)
}

/// Publishes one job whose acknowledgement the server writes to `subject`.
pub(crate) async fn aim(client: &Client, subject: &str) {
    let job = json!({ "body": { "messages": [] } }).to_string();
    let jobs = "ai.jobs.nothing.evil".to_owned();
    let aimed = client.publish_with_reply(jobs, subject.to_owned(), job.into());
    aimed.await.expect("sent");
    client.flush().await.expect("sent");
}

/// Returns true if the last message on a bucket's subject carries a tag and is no copy.
pub(crate) async fn is_tagged(context: &Context, bucket: &str, subject: &str) -> bool {
    let stream = context.get_stream(format!("KV_{bucket}")).await;
    let stream = stream.expect("the bucket");
    let last = stream.get_last_raw_message_by_subject(subject).await;
    last.is_ok_and(|last| {
        last.headers.get(TAG_HEADER).is_some() && last.headers.get("Nats-Stream").is_none()
    })
}

/// Waits until the last message on a bucket's subject is foreign, or is tagged again.
pub(crate) async fn until_tagged(context: &Context, bucket: &str, subject: &str, tagged: bool) {
    until("the bucket's value", async || {
        is_tagged(context, bucket, subject).await == tagged
    })
    .await;
}

/// What `forebay accounts` shows.
pub(crate) async fn accounts(forebay: &Forebay) -> AccountsReport {
    let shown = control(forebay, "accounts", &()).await;
    shown.expect("the accounts")
}
