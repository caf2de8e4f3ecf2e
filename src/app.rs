//! A running Forebay: its parts, in the order in which they start.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::fence::CallFence;
use forebay_workers::store::journal::Journal;
use forebay_workers::store::results::{ResultStore, Retention};
use forebay_workers::upstream::http::{Config as HttpConfig, HttpUpstream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cluster::account_state;
use crate::cluster::account_state::AccountStates;
use crate::cluster::lease_renewal::LeaseValidity;
use crate::cluster::worker_lease::{WhenHeld, WorkerLease};
use crate::config::Config;
use crate::config::key_files::ReadKey;
use crate::control::ControlServices;
use crate::control::controls::OrderBook;
use crate::control::events;
use crate::nats::connection::{Connection, Error};
use crate::nats::objects;
use crate::nats::{server, streams};
use crate::process::data_dir::{DataDir, DataHold, TakenBy, display_path};
use crate::process::disk_room;
use crate::upgrade;
use crate::worker::JetStreamWorker;

/// Number and interval of attempts to lock a data directory that a client may be holding for a
/// moment.
const DATA_DIR_RETRIES: u32 = 10;
const DATA_DIR_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The time for which a step of the start is repeated while NATS refuses it or does not answer. The leader of a stream that
/// was made a moment ago may not be known yet.
const START_PATIENCE: Duration = Duration::from_secs(10);
const START_RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The time that the last messages have to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// A running Forebay.
pub struct App {
    /// The connection to NATS.
    pub connection: Connection,
    worker: Arc<JetStreamWorker>,
    control: ControlServices,
    /// Ends the task that writes the state of accounts.
    stop_writing: CancellationToken,
    state_writing: tokio::task::JoinHandle<()>,
    events: tokio::task::JoinHandle<()>,
    lease: Option<WorkerLease>,
    validity: LeaseValidity,
    heartbeat: tokio::task::JoinHandle<()>,
    streams: tokio::task::JoinHandle<()>,
    controls_watch: tokio::task::JoinHandle<()>,
    sweeps: tokio::task::JoinHandle<()>,
    // These are dropped last, in this order: the server stops before the directory is free.
    server: Option<server::NatsServer>,
    dir: DataDir,
}

/// The result of a start.
pub enum Started {
    /// Forebay runs in this process.
    Here(Box<App>),
    /// Another process holds the data directory.
    Elsewhere(TakenBy),
}

impl App {
    /// Starts all parts: the data directory, NATS, the streams, the worker and the services. With
    /// [`WhenHeld::StandBy`], waits until no other process has the data directory or the work.
    ///
    /// # Errors
    /// Returns an error when a part cannot start. The managed server is then stopped, and the data
    /// directory is released.
    pub async fn start(config: &Config, when_held: WhenHeld) -> Result<Started, Error> {
        let path = &config.data.dir;
        let directory_error = |error: std::io::Error| {
            Error::Usage(anyhow!("data directory {}: {error}", display_path(path)))
        };
        let dir = match hold(path, when_held).await.map_err(directory_error)? {
            DataHold::Ours(dir) => dir,
            DataHold::Taken(by) => return Ok(Started::Elsewhere(by)),
        };
        let workers = config.workers()?;
        let (server, url) = match &config.nats.url {
            Some(url) => (None, url.clone()),
            None => {
                let server = server::NatsServer::start(
                    &dir.join("nats"),
                    config.nats.address(),
                    config.nats.sync_interval,
                )
                .await
                .map_err(|error| Error::Unreachable(error.into()))?;
                let url = server.url().to_owned();
                (Some(server), url)
            }
        };
        let connection = Connection::open(&url, config).await?;
        connection.secrets.keep_in(path);
        // The managed server belongs to this process alone. An external server may have another
        // worker.
        let (lease, fence) = match server {
            Some(_) => (None, CallFence::unlimited(Arc::new(SystemClock))),
            None => {
                let fence = CallFence::closed(Arc::new(SystemClock));
                let lease = WorkerLease::take(&connection, Arc::clone(&fence), when_held);
                let lease = lease.await?;
                (Some(lease), fence)
            }
        };
        patiently(async || establish(&connection, config).await).await?;
        // The upgrade happens once, so its future is boxed instead of enlarging that of every
        // start.
        Box::pin(patiently(async || upgrade::take_over(&connection).await)).await?;
        // Up to this point, an older Forebay could still use the directory.
        dir.begin_format().map_err(directory_error)?;
        let unknown = workers.unknown_states(SystemClock.now());
        let states =
            patiently(async || AccountStates::read(&connection, path, unknown.clone()).await)
                .await?;
        let book = patiently(async || OrderBook::read(&connection, path).await).await?;
        patiently(async || warn_of_single_replicas(&connection).await).await?;
        let workers = forebay_workers::Config {
            idle: dir.idle(),
            saved_states: states.known(),
            controls: book.controls().clone(),
            fence: Arc::clone(&fence),
            ..workers
        };
        let heartbeat = dir.keep_alive();
        let worker = Arc::new(start_worker(config, workers, &dir, &connection).await?);
        for name in states.unknown_names() {
            worker.note_unknown_state(&name);
        }
        let stop_writing = CancellationToken::new();
        let validity = lease
            .as_ref()
            .map_or_else(LeaseValidity::unlimited, WorkerLease::validity);
        let (writer, flush_requests) = account_state::writer();
        let state_writing = states.keep(
            Arc::clone(&worker),
            flush_requests,
            stop_writing.clone(),
            validity.clone(),
        );
        let state_writing = tokio::spawn(state_writing);
        let events = tokio::spawn(events::publish_changes(
            connection.clone(),
            Arc::clone(&worker),
        ));
        let controls_watch = book.keep();
        let control = ControlServices::start(&connection, Arc::clone(&worker), writer, book)
            .await
            .map_err(|error| Error::Unreachable(anyhow!("the services cannot start: {error}")))?;
        dir.announce(&url)
            .map_err(|error| Error::Usage(anyhow!(error)))?;
        let streams = streams::watch(connection.clone(), config.streams);
        let sweeps = objects::sweep(connection.clone());
        Ok(Started::Here(Box::new(App {
            connection,
            worker,
            control,
            stop_writing,
            state_writing,
            events,
            lease,
            validity,
            heartbeat,
            streams,
            controls_watch,
            sweeps,
            server,
            dir,
        })))
    }

    /// Returns the worker.
    pub fn worker(&self) -> &JetStreamWorker {
        &self.worker
    }

    /// Returns when another process took over the work. This worker must then stop.
    pub async fn lease_lost(&self) {
        self.validity.lost().await;
    }

    /// Fetches no more jobs, finishes those in flight within `grace`, and stops all parts.
    pub async fn stop(self, grace: Duration) {
        self.control.stop().await;
        let left = self.worker.stop(grace, !self.validity.is_lost()).await;
        if left > 0 {
            warn!(jobs = left, "still in flight; they will be delivered again");
        }
        self.stop_writing.cancel();
        if tokio::time::timeout(FLUSH_TIMEOUT, self.state_writing)
            .await
            .is_err()
        {
            warn!("NATS does not answer, so how far limits are spent is not written down exactly");
        }
        self.heartbeat.abort();
        self.streams.abort();
        self.controls_watch.abort();
        self.sweeps.abort();
        self.events.abort();
        if let Some(lease) = self.lease {
            lease.release().await;
        }
        // The last published messages must be sent before the server stops.
        let client = &self.connection.client;
        match tokio::time::timeout(FLUSH_TIMEOUT, client.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "NATS is gone before the last messages were sent"),
            Err(_) => warn!("NATS does not answer, so the last messages may not have been sent"),
        }
        self.connection.close();
        tokio::task::block_in_place(|| drop((self.server, self.dir)));
        info!("stopped");
    }

    /// Reads keys in files again. Calls that begin from now on use the new ones.
    pub fn read_keys_again(&self, config: &Config) {
        for ReadKey {
            account,
            key,
            secret,
        } in config.read_key_files()
        {
            let replaced = secret.map(|secret| self.worker.replace_key(&account, &key, secret));
            match replaced {
                Ok(true) => info!(account, key, "the key was read again, and is another one"),
                Ok(false) => info!(account, key, "the key was read again, and is the same"),
                Err(problem) => {
                    warn!(
                        account,
                        key, problem, "the key cannot be used; the old one stays"
                    );
                }
            }
        }
        let fixed = config.keys_of_environment().join(" ");
        if !fixed.is_empty() {
            info!(
                keys = fixed,
                "these keys come from the environment; a new value needs a restart"
            );
        }
    }
}

/// Creates or updates the streams.
async fn establish(connection: &Connection, config: &Config) -> Result<(), Error> {
    let Connection {
        context,
        names,
        secrets,
        ..
    } = connection;
    let established = streams::establish(context, names, &config.streams, secrets).await;
    established.map_err(stream_error)
}

async fn warn_of_single_replicas(connection: &Connection) -> Result<(), Error> {
    let Connection { context, names, .. } = connection;
    let warned = streams::warn_of_single_replicas(context, names).await;
    warned.map_err(stream_error)
}

fn stream_error(error: streams::Error) -> Error {
    match error {
        streams::Error::Server { .. } => Error::Unreachable(error.into()),
        streams::Error::Unfit { .. } => Error::Usage(error.into()),
    }
}

/// Repeats a step of the start until it succeeds, or has failed for [`START_PATIENCE`]. A step that the configuration
/// forbids is not repeated.
async fn patiently<T>(mut step: impl AsyncFnMut() -> Result<T, Error>) -> Result<T, Error> {
    let until = Instant::now() + START_PATIENCE;
    loop {
        match step().await {
            Err(Error::Unreachable(problem)) if Instant::now() < until => {
                debug!(%problem, "the start is not possible yet");
                tokio::time::sleep(START_RETRY_PAUSE).await;
            }
            ended => return ended,
        }
    }
}

/// Takes hold of the data directory. A client that looks up the holder has the lock for a moment
/// without naming a server; this waits for it. A process that stands by waits for any holder. While the disk is full, every
/// process waits.
async fn hold(path: &Path, when_held: WhenHeld) -> std::io::Result<DataHold> {
    let mut retries = 0;
    let mut is_reported = false;
    loop {
        let by = match DataDir::hold(path) {
            Ok(DataHold::Taken(by)) => by,
            Ok(DataHold::Ours(dir)) => {
                disk_room::wait_for_room(path).await?;
                return Ok(DataHold::Ours(dir));
            }
            Err(error) if disk_room::is_full(&error) => {
                if !std::mem::replace(&mut is_reported, true) {
                    warn!("the disk of {} is full: {error}", display_path(path));
                }
                tokio::time::sleep(disk_room::LOOK_INTERVAL).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let retry = by.holder.is_none() && retries < DATA_DIR_RETRIES;
        match when_held {
            WhenHeld::GiveUp if !retry => return Ok(DataHold::Taken(by)),
            WhenHeld::StandBy if !retry && !is_reported => {
                is_reported = true;
                info!(
                    pid = by.pid,
                    "standing by for the holder of {}",
                    display_path(path)
                );
            }
            _ => retries += 1,
        }
        tokio::time::sleep(DATA_DIR_RETRY_PAUSE).await;
    }
}

async fn start_worker(
    config: &Config,
    workers: forebay_workers::Config,
    dir: &DataDir,
    connection: &Connection,
) -> Result<JetStreamWorker, Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let unreachable = |error: forebay_workers::queue::Error| Error::Unreachable(error.into());
    let queue = connection.queue();
    let results = open_results(config, &dir.join("results"), &*clock).await?;
    let last = patiently(async || queue.last_completion().await.map_err(unreachable)).await?;
    let last = last
        .as_ref()
        .map(|(identity, published)| (identity.as_ref(), *published));
    let is_complete = tokio::task::block_in_place(|| results.is_complete(last, clock.now()));
    let results_are_complete = is_complete.map_err(|error| Error::Usage(error.into()))?;
    let journal = dir.join("journal");
    let journal = tokio::task::spawn_blocking(move || Journal::open(&journal)).await;
    let journal = journal.map_err(|error| Error::Usage(error.into()))?;
    let journal = journal.map_err(|error| Error::Usage(error.into()))?;
    let upstream = upstream(config)?;
    let workers = forebay_workers::Config {
        results_are_complete,
        ..workers
    };
    JetStreamWorker::start(workers, queue, upstream, (results, journal), clock)
        .await
        .map_err(unreachable)
}

/// Builds the HTTP client for providers.
///
/// # Errors
/// Returns an error when TLS cannot be set up.
pub fn upstream(config: &Config) -> Result<HttpUpstream, Error> {
    let config = HttpConfig {
        timeout: config.call.timeout,
        connect_timeout: config.call.connect_timeout,
        max_answer: config.call.max_answer,
    };
    HttpUpstream::new(config)
        .map_err(|error| Error::Usage(anyhow!("TLS cannot be set up: {error}")))
}

/// Opens the store of results.
///
/// # Errors
/// Returns an error when its directory cannot be created or read.
pub async fn open_results(
    config: &Config,
    path: &Path,
    clock: &dyn Clock,
) -> Result<ResultStore, Error> {
    let retention = Retention {
        keep_days: config.data.keep_days,
        horizon_days: config.data.dedupe_days,
    };
    let (path, now) = (path.to_owned(), clock.now());
    let opened =
        tokio::task::spawn_blocking(move || ResultStore::open(&path, retention, now)).await;
    opened
        .map_err(|error| Error::Usage(error.into()))?
        .map_err(|error| Error::Usage(error.into()))
}
