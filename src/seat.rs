//! One worker per prefix: a key with a time to live, which its owner renews.
//!
//! Two workers would each spend the whole of every limit. Until limits are shared between nodes, the
//! second one is told to stay away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::kv::{self, CreateErrorKind, Store};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::connection::{Connection, Error};

/// The key.
const KEY: &str = "worker";
/// Without renewal the seat is free after this; servers count in whole seconds.
const TTL: Duration = Duration::from_secs(9);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(3);
/// How long a seat that seems to be left is waited for.
const PATIENCE: Duration = Duration::from_secs(12);

/// Who sits there: for the message to whoever comes second, and to know one's own key again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Occupant {
    host: String,
    pid: u32,
    /// Tells two processes with the same host name and number apart.
    nonce: u64,
}

/// The right to be the worker.
#[derive(Debug)]
pub struct Seat {
    store: Store,
    lost: CancellationToken,
    renewal: tokio::task::JoinHandle<()>,
    /// The key's revision, as far as it is known.
    revision: Arc<AtomicU64>,
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
        let me = Occupant { host, pid: std::process::id(), nonce: rand::rng().random() };
        let value = Bytes::from(serde_json::to_vec(&me).map_err(|error| failed(error.to_string()))?);
        let give_up = Instant::now() + PATIENCE;
        let revision = loop {
            match store.create_with_ttl(KEY, value.clone(), TTL).await {
                Ok(revision) => break revision,
                Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                    if Instant::now() > give_up {
                        return Err(taken(connection, occupant(&store).await.ok().flatten()));
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => return Err(failed(error.to_string())),
            }
        };
        let (lost, revision) = (CancellationToken::new(), Arc::new(AtomicU64::new(revision)));
        let renewal = Renewal {
            connection: connection.clone(),
            store: store.clone(),
            me,
            value,
            revision: Arc::clone(&revision),
        };
        let renewal = tokio::spawn(renewal.run(lost.clone()));
        Ok(Self { store, lost, renewal, revision })
    }

    /// Whether somebody has the seat, as far as it can be told.
    pub async fn is_taken(connection: &Connection) -> bool {
        match connection.context.get_key_value(connection.names.nodes_bucket()).await {
            Ok(store) => !matches!(store.get(KEY).await, Ok(None)),
            Err(_) => false,
        }
    }

    /// Returns when the seat is lost: this process must work no more.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Leaves the seat to the next one, unless another has it already.
    pub async fn leave(self) {
        self.renewal.abort();
        if self.lost.is_cancelled() {
            return;
        }
        let revision = self.revision.load(Ordering::Relaxed);
        let purged = self.store.purge_expect_revision(KEY, Some(revision));
        match tokio::time::timeout(RENEW, purged).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the worker's seat stays taken for some seconds"),
            Err(_) => warn!("NATS does not answer, so the worker's seat stays taken for some seconds"),
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

async fn occupant(store: &Store) -> Result<Option<Occupant>, kv::EntryError> {
    let value = store.get(KEY).await?;
    Ok(value.and_then(|value| serde_json::from_slice(&value).ok()))
}

struct Renewal {
    connection: Connection,
    store: Store,
    me: Occupant,
    value: Bytes,
    revision: Arc<AtomicU64>,
}

impl Renewal {
    /// Renews until another has the seat. While NATS is away nobody can take it, so this one stays; when
    /// it is back and the key has gone meanwhile, the key is made anew unless somebody was faster.
    async fn run(self, lost: CancellationToken) {
        loop {
            tokio::time::sleep(RENEW).await;
            match self.renew().await {
                Ok(revision) => self.revision.store(revision, Ordering::Relaxed),
                Err(problem) => {
                    warn!(%problem, "the worker's seat cannot be renewed yet");
                    if self.is_anothers().await {
                        error!("another worker has the seat");
                        lost.cancel();
                        return;
                    }
                }
            }
        }
    }

    /// Renews by a compare-and-set publish, which keeps the time to live; a plain update would drop it.
    async fn renew(&self) -> Result<u64, String> {
        let subject = format!("$KV.{}.{KEY}", self.connection.names.nodes_bucket());
        let message = PublishMessage::build()
            .payload(self.value.clone())
            .expected_last_subject_sequence(self.revision.load(Ordering::Relaxed))
            .ttl(TTL);
        let published = async { self.connection.context.send_publish(subject, message).await?.await };
        published.await.map(|ack| ack.sequence).map_err(|error| error.to_string())
    }

    /// Looks who has the key. Our own, renewed by a publish whose acknowledgement was lost, is adopted;
    /// where there is none, it is made.
    async fn is_anothers(&self) -> bool {
        let Ok(entry) = self.store.entry(KEY).await else { return false };
        let entry = entry.filter(|entry| entry.operation == kv::Operation::Put);
        if let Some(entry) = entry {
            let mine = serde_json::from_slice::<Occupant>(&entry.value).is_ok_and(|other| other == self.me);
            if mine {
                self.revision.store(entry.revision, Ordering::Relaxed);
            }
            return !mine;
        }
        if let Ok(revision) = self.store.create_with_ttl(KEY, self.value.clone(), TTL).await {
            self.revision.store(revision, Ordering::Relaxed);
        }
        false
    }
}
