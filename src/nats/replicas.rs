//! The replicas of the streams that Forebay creates: three on a cluster, one on a single server.
//!
//! The replicas of a stream that exists belong to the operator. No start changes them.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::stream::{Config, Info};
use async_nats::jetstream::{self, Context, ErrorCode};
use tokio::time::Instant;

/// The replicas of a stream on a cluster. The loss of one server then stops nothing.
const CLUSTER_REPLICAS: usize = 3;
/// The time for which servers of the cluster that are offline are waited for.
const PEERS_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts while a server is offline.
const PEERS_RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The reason why the server cannot place three replicas.
#[derive(Debug, PartialEq, Eq)]
enum TooFewPeers {
    /// It is no cluster, or the cluster has fewer than three servers.
    ForGood,
    /// A server is offline.
    Now,
}

/// Creates streams. Waits for servers that are offline for ten seconds in all.
#[derive(Debug)]
pub struct StreamCreator<'a> {
    context: &'a Context,
    until: Instant,
}

impl<'a> StreamCreator<'a> {
    /// Returns a creator of streams whose wait for offline servers begins now.
    pub fn new(context: &'a Context) -> Self {
        Self {
            context,
            until: Instant::now() + PEERS_TIMEOUT,
        }
    }

    /// Creates a stream. Where `config` has one replica, a cluster of three servers or more makes three.
    ///
    /// # Errors
    /// Returns an error when the server refuses or does not answer.
    pub async fn create(&self, config: &Config) -> Result<(), CreateStreamError> {
        if config.num_replicas <= 1 {
            let replicated = Config {
                num_replicas: CLUSTER_REPLICAS,
                ..config.clone()
            };
            if self.create_replicated(&replicated).await? {
                return Ok(());
            }
        }
        self.context.create_stream(config).await.map(drop)
    }

    /// Creates a stream. Returns false if there are too few servers for its replicas.
    async fn create_replicated(&self, config: &Config) -> Result<bool, CreateStreamError> {
        loop {
            let Err(error) = self.context.create_stream(config).await else {
                return Ok(true);
            };
            match too_few_peers(&error) {
                Some(TooFewPeers::Now) if Instant::now() < self.until => {
                    tokio::time::sleep(PEERS_RETRY_PAUSE).await;
                }
                Some(_) => return Ok(false),
                None => return Err(error),
            }
        }
    }
}

/// Returns the server's own error, if it answered with one.
fn of_server(error: &CreateStreamError) -> Option<jetstream::Error> {
    match error.kind() {
        CreateStreamErrorKind::JetStream(error) => Some(error),
        _ => None,
    }
}

/// Returns true if the server has too little storage for a stream.
pub fn is_out_of_room(error: &CreateStreamError) -> bool {
    let of_room = [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ];
    of_server(error).is_some_and(|error| {
        of_room.contains(&error.error_code())
            || (error.error_code() == ErrorCode::CLUSTER_NO_PEERS && lacks_storage(&error))
    })
}

/// The server names the reasons for which it found no place in its text alone.
fn lacks_storage(error: &jetstream::Error) -> bool {
    error.to_string().contains("insufficient storage")
}

fn too_few_peers(error: &CreateStreamError) -> Option<TooFewPeers> {
    let error = of_server(error)?;
    match error.error_code() {
        // The last one means that the account may have streams of one replica only.
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED | ErrorCode::NO_LIMITS => {
            Some(TooFewPeers::ForGood)
        }
        ErrorCode::CLUSTER_NO_PEERS if lacks_storage(&error) => None,
        ErrorCode::CLUSTER_NO_PEERS if error.to_string().contains("offline") => {
            Some(TooFewPeers::Now)
        }
        ErrorCode::CLUSTER_NO_PEERS => Some(TooFewPeers::ForGood),
        _ => None,
    }
}

/// Returns true if the loss of one server of a cluster stops the stream.
pub fn has_one_replica_on_a_cluster(found: &Info) -> bool {
    let is_on_cluster = found
        .cluster
        .as_ref()
        .is_some_and(|cluster| cluster.name.is_some());
    is_on_cluster && found.config.num_replicas <= 1
}
