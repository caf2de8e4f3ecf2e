//! The connection of a command to a worker: to a running one, or to one that the command runs
//! itself.

use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use async_nats::RequestErrorKind;
use bytes::Bytes;
use tracing::warn;

use crate::app::{App, Started};
use crate::cluster::worker_lease::WhenHeld;
use crate::cluster::worker_lease::WorkerLease;
use crate::config::Config;
use crate::nats::connection::{Connection, Error};
use crate::process::data_dir::{DataDir, DataHold, TakenBy, display_path};

/// The interval of checks that the worker still runs.
const WORKER_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Number of failed checks after which the worker is gone for good, and is not being restarted.
const GONE_CHECKS: u32 = 5;

/// Connects as a client: to `[nats] url`, or to the process that holds the data directory.
pub(super) async fn connect(config: &Config) -> Result<Connection, Error> {
    if let Some(url) = &config.nats.url {
        return Connection::open(url, config).await;
    }
    let dir = &config.data.dir;
    let not_running = || {
        Error::Unreachable(anyhow!(
            "nothing runs on the data directory {}: start `forebay serve`, or name the configuration of the one that runs \
             with --config",
            display_path(dir)
        ))
    };
    if !dir.exists() {
        return Err(not_running());
    }
    match hold(dir)? {
        DataHold::Ours(_) => Err(not_running()),
        DataHold::Taken(by) => connect_to(config, by).await,
    }
}

/// Takes hold of the data directory, or finds its holder.
pub(super) fn hold(dir: &Path) -> Result<DataHold, Error> {
    let unusable = |error: std::io::Error| anyhow!("data directory {}: {error}", display_path(dir));
    DataDir::hold(dir).map_err(|error| Error::Usage(unusable(error)))
}

/// Connects to the process that holds the data directory.
pub(super) async fn connect_to(config: &Config, by: TakenBy) -> Result<Connection, Error> {
    let mut by = by;
    // That process may be starting. Its URL is known once its server runs.
    for _ in 0..100 {
        if let Some(holder) = &by.holder {
            return Connection::open(&holder.url, config).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        match hold(&config.data.dir)? {
            DataHold::Ours(_) => break,
            DataHold::Taken(again) => by = again,
        }
    }
    Err(Error::Unreachable(anyhow!(
        "the process that holds the data directory {} does not come up",
        display_path(&config.data.dir)
    )))
}

/// Sends a request to a running worker and parses the reply.
pub(super) async fn ask<T: serde::de::DeserializeOwned>(
    connection: &Connection,
    verb: &str,
    request: Vec<u8>,
) -> Result<T, Error> {
    let reply = reply(connection, verb, request).await?;
    serde_json::from_slice(&reply.payload).map_err(|error| unreadable(&error))
}

/// Returns the error of a reply that cannot be parsed.
pub(super) fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::Unreachable(anyhow!("the worker's answer cannot be read: {error}"))
}

/// Sends a request to a running worker and returns the reply. An error that the worker reports is
/// returned as an error.
pub(super) async fn reply(
    connection: &Connection,
    verb: &str,
    request: Vec<u8>,
) -> Result<async_nats::Message, Error> {
    let unreachable = |problem: String| Error::Unreachable(anyhow!(problem));
    let reply = connection.request_control(verb, request.into()).await;
    let reply = reply.map_err(|error| unreachable(format!("no worker answers: {error}")))?;
    let headers = reply.headers.as_ref();
    let header = |name| headers.and_then(|headers| headers.get(name));
    if let Some(problem) = header("Nats-Service-Error") {
        let code = header("Nats-Service-Error-Code").map(|code| code.as_str());
        if let Some("400" | "404") = code {
            return Err(Error::Usage(anyhow!("{problem}")));
        }
        return Err(unreachable(format!("the worker says: {problem}")));
    }
    Ok(reply)
}

/// Runs `work` with a worker: a running one, or one that is started for this and stopped
/// afterwards.
///
/// If the running worker stops, this process takes its place and calls `work` again. `work` must
/// then resume.
pub(super) async fn with_worker<T>(
    config: &Config,
    mut work: impl AsyncFnMut(Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        let connection = match start(config).await? {
            RunningWorker::Here(app) => {
                let result = tokio::select! {
                    result = work(app.connection.clone()) => result,
                    () = app.lease_lost() => Err(Error::Unreachable(anyhow!(
                        "another worker has taken over; run the same command again to go on"
                    ))),
                };
                app.stop(config.call.grace).await;
                return result;
            }
            RunningWorker::Elsewhere(connection) => connection,
        };
        tokio::select! {
            result = work((*connection).clone()) => match result {
                Err(Error::Unreachable(_)) if !connection.is_up() || !answers(&connection).await => {}
                result => return result,
            },
            () = worker_lost(config, &connection) => {}
        }
        warn!(
            "the worker that ran does not answer any more; looking for another, or taking its place"
        );
        tokio::time::sleep(WORKER_CHECK_INTERVAL).await;
    }
}

enum RunningWorker {
    Here(Box<App>),
    Elsewhere(Box<Connection>),
}

async fn start(config: &Config) -> Result<RunningWorker, Error> {
    let other = match config.nats.url {
        Some(_) => Some(Box::new(connect(config).await?)),
        None => None,
    };
    if let Some(connection) = &other
        && is_served(config, connection).await
    {
        return Ok(RunningWorker::Elsewhere(connection.clone()));
    }
    match (App::start(config, WhenHeld::GiveUp).await, other) {
        (Ok(Started::Here(app)), _) => Ok(RunningWorker::Here(app)),
        (Ok(Started::Elsewhere(by)), _) => Ok(RunningWorker::Elsewhere(Box::new(
            connect_to(config, by).await?,
        ))),
        // Another process was faster.
        (Err(_), Some(connection)) if is_served(config, &connection).await => {
            Ok(RunningWorker::Elsewhere(connection))
        }
        (Err(error), _) => Err(error),
    }
}

/// Returns when no worker serves any more, or when it has another address.
async fn worker_lost(config: &Config, connection: &Connection) {
    let is_external = config.nats.url.is_some();
    let (mut unserved, mut moved) = (0, 0);
    while unserved < GONE_CHECKS && moved < GONE_CHECKS {
        tokio::time::sleep(WORKER_CHECK_INTERVAL).await;
        let served = is_served(config, connection).await;
        unserved = if served { 0 } else { unserved + 1 };
        // An external server has a fixed address, so it is waited for.
        moved = if connection.is_up() || !served || is_external {
            0
        } else {
            moved + 1
        };
    }
}

/// Returns true if a worker runs or is stopping, as far as that is known.
async fn is_served(config: &Config, connection: &Connection) -> bool {
    match config.nats.url {
        Some(_) => answers(connection).await || WorkerLease::is_taken(connection).await,
        None => !matches!(DataDir::hold(&config.data.dir), Ok(DataHold::Ours(_))),
    }
}

/// Returns false if NATS reports that no worker listens. A late reply counts as true.
async fn answers(connection: &Connection) -> bool {
    let request = connection.request_control("accounts", Bytes::new());
    let reply = tokio::time::timeout(WORKER_CHECK_INTERVAL, request).await;
    !matches!(reply, Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders)
}
