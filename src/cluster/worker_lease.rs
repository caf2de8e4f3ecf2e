//! The lease of the worker: one process per prefix works, and the others stay away.
//!
//! # Why
//!
//! Two workers would each spend the whole of every limit, and the provider would refuse half of their calls. Until limits
//! are shared between nodes, a second process must learn that there is a first.
//!
//! # How
//!
//! The lease is a key in a bucket, with a time to live of 9 seconds. Its holder writes it again every 3 seconds. Each write
//! names the revision that it expects, so that two holders cannot overwrite each other. The time to live is part of the
//! same publish as the value.
//!
//! A process that finds the key waits. If the key is renewed meanwhile, its holder lives, and the process ends with a
//! message that names the host and the process. If it is not renewed for 12 seconds, the key is taken over although it still
//! exists: servers that ignore the time to live would otherwise keep it for ever.
//!
//! # Invariants
//!
//! - The lease is lost when another process holds the key, and only then. While NATS is away no process can take
//!   it, so the holder goes on. If the key is gone afterwards, the holder creates it again.
//! - A process that has lost the lease stops its work.
//! - A lease is taken or renewed only at the expected revision.
//! - A process that ends in order releases the lease, but only its own revision of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::kv::{self, Store};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::nats::connection::{Connection, Error};

/// The key of the lease.
const KEY: &str = "worker";
/// Time to live of the key. Without renewal the lease is free after it. Servers count in whole
/// seconds.
const TTL: Duration = Duration::from_secs(9);
/// The interval at which the holder renews the lease.
const RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// The time without renewal after which a lease is taken over, even if its key still exists.
const LEASE_TIMEOUT: Duration = Duration::from_secs(12);

/// The holder of a lease. It is named in the message of a second process, and identifies one's own
/// key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseHolder {
    host: String,
    pid: u32,
    /// Distinguishes two processes with the same host name and process number.
    nonce: u64,
}

/// The lease of the worker, held by this process.
#[derive(Debug)]
pub struct WorkerLease {
    store: Store,
    lost: CancellationToken,
    renewal: tokio::task::JoinHandle<()>,
    /// The key's revision, as far as it is known.
    revision: Arc<AtomicU64>,
}

impl WorkerLease {
    /// Takes the lease. Waits for a lease whose holder has died.
    ///
    /// # Errors
    /// Returns an error when another worker holds it, or when NATS does not answer.
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
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let me = LeaseHolder {
            host,
            pid: std::process::id(),
            nonce: rand::rng().random(),
        };
        let value =
            Bytes::from(serde_json::to_vec(&me).map_err(|error| failed(error.to_string()))?);
        let mut others = None;
        let revision = loop {
            match claim(connection, &store, &value, others)
                .await
                .map_err(&failed)?
            {
                LeaseClaim::Ours(revision) => break revision,
                LeaseClaim::Taken(revision) => match others {
                    None => others = Some((revision, Instant::now())),
                    // A living holder has renewed it meanwhile.
                    Some((seen, _)) if seen != revision => {
                        return Err(taken_error(connection, holder(&store).await.ok().flatten()));
                    }
                    Some(_) => {}
                },
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        let (lost, revision) = (CancellationToken::new(), Arc::new(AtomicU64::new(revision)));
        let renewal = LeaseRenewal {
            connection: connection.clone(),
            store: store.clone(),
            me,
            value,
            revision: Arc::clone(&revision),
        };
        let renewal = tokio::spawn(renewal.run(lost.clone()));
        Ok(Self {
            store,
            lost,
            renewal,
            revision,
        })
    }

    /// Returns true if a process holds the lease, or if its key cannot be read. Returns false if
    /// the bucket cannot be opened.
    pub async fn is_taken(connection: &Connection) -> bool {
        match connection
            .context
            .get_key_value(connection.names.nodes_bucket())
            .await
        {
            Ok(store) => !matches!(store.get(KEY).await, Ok(None)),
            Err(_) => false,
        }
    }

    /// Returns when the lease is lost. This process must then stop its work.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Returns a token that is cancelled when the lease is lost.
    pub fn loss_token(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Releases the lease, unless another process holds it already.
    pub async fn release(self) {
        self.renewal.abort();
        if self.lost.is_cancelled() {
            return;
        }
        let revision = self.revision.load(Ordering::Relaxed);
        let purged = self.store.purge_expect_revision(KEY, Some(revision));
        match tokio::time::timeout(RENEW_INTERVAL, purged).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the worker's seat stays taken for some seconds"),
            Err(_) => {
                warn!("NATS does not answer, so the worker's seat stays taken for some seconds")
            }
        }
    }
}

/// The result of claiming the lease.
enum LeaseClaim {
    /// This process holds it, at this revision.
    Ours(u64),
    /// Another process holds it, at this revision.
    Taken(u64),
}

/// Takes the lease if it is free, or if its holder has not renewed it for longer than
/// `LEASE_TIMEOUT` since `seen`.
///
/// The same publish sets the time to live. The client's own `create` falls back to an update
/// without one where a marker of an earlier holder is stored.
async fn claim(
    connection: &Connection,
    store: &Store,
    value: &Bytes,
    seen: Option<(u64, Instant)>,
) -> Result<LeaseClaim, String> {
    let entry = store.entry(KEY).await;
    let entry = entry.map_err(|error| error.to_string())?;
    let held = entry
        .as_ref()
        .filter(|entry| entry.operation == kv::Operation::Put);
    if let Some(held) = held {
        let is_expired =
            seen.is_some_and(|(seen, at)| seen == held.revision && at.elapsed() > LEASE_TIMEOUT);
        if !is_expired {
            return Ok(LeaseClaim::Taken(held.revision));
        }
    }
    let expected = entry.map_or(0, |entry| entry.revision);
    match put(connection, value.clone(), expected).await {
        Ok(revision) => Ok(LeaseClaim::Ours(revision)),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
            Ok(LeaseClaim::Taken(0))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Writes the key with its time to live, if it still has the expected revision.
async fn put(connection: &Connection, value: Bytes, expected: u64) -> Result<u64, PublishError> {
    let subject = format!("$KV.{}.{KEY}", connection.names.nodes_bucket());
    let message = PublishMessage::build()
        .payload(value)
        .expected_last_subject_sequence(expected)
        .ttl(TTL);
    let ack = connection
        .context
        .send_publish(subject, message)
        .await?
        .await?;
    Ok(ack.sequence)
}

fn taken_error(connection: &Connection, by: Option<LeaseHolder>) -> Error {
    let by = by.map_or_else(String::new, |by| {
        format!(" (host {}, process {})", by.host, by.pid)
    });
    Error::Usage(anyhow!(
        "another worker serves the prefix `{}`{by}; one process at a time may spend its limits",
        connection.names.prefix()
    ))
}

async fn holder(store: &Store) -> Result<Option<LeaseHolder>, kv::EntryError> {
    let value = store.get(KEY).await?;
    Ok(value.and_then(|value| serde_json::from_slice(&value).ok()))
}

struct LeaseRenewal {
    connection: Connection,
    store: Store,
    me: LeaseHolder,
    value: Bytes,
    revision: Arc<AtomicU64>,
}

impl LeaseRenewal {
    /// Renews the lease until another process holds it.
    ///
    /// While NATS is away no process can take the lease, so this one keeps it. If the key is gone
    /// afterwards, it is created again unless another process was faster.
    async fn run(self, lost: CancellationToken) {
        loop {
            tokio::time::sleep(RENEW_INTERVAL).await;
            match self.renew().await {
                Ok(revision) => self.revision.store(revision, Ordering::Relaxed),
                Err(problem) => {
                    warn!(%problem, "the worker's seat cannot be renewed yet");
                    if self.is_held_by_other().await {
                        error!("another worker has the seat");
                        lost.cancel();
                        return;
                    }
                }
            }
        }
    }

    /// Renews the lease by a compare-and-set publish, which sets the time to live. A plain update
    /// would drop it.
    async fn renew(&self) -> Result<u64, String> {
        let revision = self.revision.load(Ordering::Relaxed);
        put(&self.connection, self.value.clone(), revision)
            .await
            .map_err(|error| error.to_string())
    }

    /// Returns true if another process holds the key. One's own key is adopted: it was renewed by a
    /// publish whose acknowledgement was lost. A missing key is created.
    async fn is_held_by_other(&self) -> bool {
        let Ok(entry) = self.store.entry(KEY).await else {
            return false;
        };
        let entry = entry.filter(|entry| entry.operation == kv::Operation::Put);
        if let Some(entry) = entry {
            let mine = serde_json::from_slice::<LeaseHolder>(&entry.value)
                .is_ok_and(|other| other == self.me);
            if mine {
                self.revision.store(entry.revision, Ordering::Relaxed);
            }
            return !mine;
        }
        let Self {
            connection,
            store,
            value,
            ..
        } = self;
        if let Ok(LeaseClaim::Ours(revision)) = claim(connection, store, value, None).await {
            self.revision.store(revision, Ordering::Relaxed);
        }
        false
    }
}
