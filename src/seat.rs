//! One worker per prefix: a key with a time to live, which its owner renews.
//!
//! Two workers would each spend the whole of every limit. Until limits are shared between nodes, the
//! second one is told to stay away.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::kv::{self, CreateErrorKind, Store};
use async_nats::jetstream::message::PublishMessage;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::app::{Connection, Error};

/// The key.
const KEY: &str = "worker";
/// Without renewal the seat is free after this; servers count in whole seconds.
const TTL: Duration = Duration::from_secs(9);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// How long a seat that seems to be left is waited for.
const PATIENCE: Duration = Duration::from_secs(12);

/// Who sits there, for the message to whoever comes second.
#[derive(Debug, Serialize, Deserialize)]
struct Occupant {
    host: String,
    pid: u32,
}

/// The right to be the worker.
#[derive(Debug)]
pub struct Seat {
    store: Store,
    lost: CancellationToken,
    renewal: tokio::task::JoinHandle<()>,
}

impl Seat {
    /// Takes the seat, waiting for one whose owner has died.
    ///
    /// # Errors
    /// When another worker has it, or NATS does not answer.
    pub async fn take(connection: &Connection) -> Result<Self, Error> {
        let failed = |problem: String| Error::Unreachable(anyhow!("the worker's seat: {problem}"));
        let config = kv::Config {
            bucket: connection.names.nodes_bucket(),
            history: 1,
            limit_markers: Some(TTL),
            ..kv::Config::default()
        };
        let store = connection
            .context
            .create_or_update_key_value(config)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let me = Occupant { host, pid: std::process::id() };
        let value = serde_json::to_vec(&me).map_err(|error| failed(error.to_string()))?;
        let give_up = tokio::time::Instant::now() + PATIENCE;
        let revision = loop {
            match store.create_with_ttl(KEY, value.clone().into(), TTL).await {
                Ok(revision) => break revision,
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                    let other = store.get(KEY).await.ok().flatten();
                    let other = other.and_then(|value| serde_json::from_slice::<Occupant>(&value).ok());
                    if tokio::time::Instant::now() > give_up {
                        return Err(taken(connection, other));
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        };
        let lost = CancellationToken::new();
        let renewal = tokio::spawn(renew(connection.clone(), value, revision, lost.clone()));
        Ok(Self { store, lost, renewal })
    }

    /// Returns when the seat is lost: this process must work no more.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Leaves the seat to the next one.
    pub async fn leave(self) {
        self.renewal.abort();
        if let Err(error) = self.store.purge(KEY).await {
            warn!(%error, "the worker's seat stays taken for some seconds");
        }
    }
}

fn taken(connection: &Connection, by: Option<Occupant>) -> Error {
    let by = by.map_or_else(String::new, |by| format!(" (host {}, process {})", by.host, by.pid));
    Error::Usage(anyhow!(
        "another worker serves the prefix `{}`{by}; one process at a time may spend its limits",
        connection.names.prefix()
    ))
}

/// Renews by a compare-and-set publish, which keeps the time to live; a plain update would drop it.
async fn renew(connection: Connection, value: Vec<u8>, mut revision: u64, lost: CancellationToken) {
    let subject = format!("$KV.{}.{KEY}", connection.names.nodes_bucket());
    let value = Arc::<[u8]>::from(value);
    let mut last = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(RENEW).await;
        let message = PublishMessage::build()
            .payload(bytes::Bytes::copy_from_slice(&value))
            .expected_last_subject_sequence(revision)
            .ttl(TTL);
        let published = async { connection.context.send_publish(subject.clone(), message).await?.await };
        match published.await {
            Ok(ack) => {
                revision = ack.sequence;
                last = tokio::time::Instant::now();
            }
            Err(problem) if last.elapsed() + RENEW > TTL => {
                error!(%problem, "the worker's seat is lost");
                lost.cancel();
                return;
            }
            Err(problem) => warn!(%problem, "the worker's seat cannot be renewed yet"),
        }
    }
}
