//! The command `forebay results`.

use std::time::Duration;

use anyhow::anyhow;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::message::StreamMessage;
use forebay_schemas::flow::DEFAULT_TEAM;
use forebay_schemas::format::is_of_format_1;
use forebay_schemas::header::IN_PROGRESS_HEADER;
use forebay_schemas::{Completion, Identity};
use forebay_workers::clock::SystemClock;
use forebay_workers::queue::jetstream::{CompletionTags, object_of};
use futures::StreamExt;
use tracing::warn;

use super::client::{self, connect, connect_to, hold, reply};
use super::{GlobalOptions, SOME_FAILED, print};
use crate::app::open_results;
use crate::config::Config;
use crate::control::messages::{ResultsReply, ResultsRequest};
use crate::nats::connection::{Connection, Error};
use crate::process::data_dir::{DataHold, display_path};
use crate::process::shutdown::{self, Hangup};

/// The pause before lost completions are requested again.
const RESUBSCRIBE_PAUSE: Duration = Duration::from_secs(1);

/// The interval of checks that the stream is still the same.
const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Read results.
#[derive(Debug, clap::Subcommand)]
pub(super) enum ResultsCommand {
    /// Print the stored completion of a job, as JSON.
    Get {
        /// The job's id.
        id: String,
        /// The job's team.
        #[arg(long, default_value = DEFAULT_TEAM)]
        team: String,
        /// The job's batch, if it belongs to one.
        #[arg(long)]
        batch: Option<String>,
    },
    /// Print completions as they arrive, one JSON object per line.
    Tail {
        /// Only completions of this team.
        #[arg(long)]
        team: Option<String>,
        /// Only completions of this batch. Needs --team.
        #[arg(long, requires = "team")]
        batch: Option<String>,
        /// Begin with the completions that are still in the stream.
        #[arg(long)]
        all: bool,
    },
}

pub(super) async fn results(global: &GlobalOptions, command: ResultsCommand) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    match command {
        ResultsCommand::Get { id, team, batch } => get(&config, Identity { team, batch, id }).await,
        ResultsCommand::Tail { team, batch, all } => tail(&config, team, batch, all).await,
    }
}

async fn get(config: &Config, identity: Identity) -> Result<u8, Error> {
    match find(config, &identity).await? {
        FoundResult::Result(completion) => {
            print::json(&completion);
            Ok(0)
        }
        FoundResult::None(why) => {
            print::error(&format!(
                "there is no result for {identity} (team/batch/id): {why}"
            ));
            Ok(SOME_FAILED)
        }
    }
}

enum FoundResult {
    Result(Box<Completion>),
    /// There is no result; the text has what is known of the job.
    None(String),
}

/// Requests the result from the worker. Without a worker, reads it from the store.
async fn find(config: &Config, identity: &Identity) -> Result<FoundResult, Error> {
    let result = |completion| FoundResult::Result(Box::new(completion));
    let has_own_server = config.nats.url.is_none();
    let path = &config.data.dir;
    if has_own_server && !path.exists() {
        let why = format!("there is no data directory {}", display_path(path));
        return Ok(FoundResult::None(why));
    }
    let connection = match hold(path)? {
        DataHold::Taken(by) => connect_to(config, by).await?,
        DataHold::Ours(_) if !has_own_server => connect(config).await?,
        DataHold::Ours(dir) => {
            let results = open_results(config, &dir.join("results"), &SystemClock).await?;
            let wanted = identity.clone();
            let found = tokio::task::spawn_blocking(move || results.get(&wanted)).await;
            let found = found.map_err(|error| Error::Usage(error.into()))?;
            let found = found.map_err(|error| Error::Usage(error.into()))?;
            let none = || FoundResult::None(format!("{}; no worker runs", not_known(identity)));
            return Ok(found.map_or_else(none, |record| result(record.completion)));
        }
    };
    let Identity { team, batch, id } = identity.clone();
    let request = serde_json::to_vec(&ResultsRequest { team, batch, id });
    let request = request.map_err(|error| Error::Usage(error.into()))?;
    let reply = reply(&connection, "results", request).await?;
    match serde_json::from_slice(&reply.payload) {
        Ok(ResultsReply::None) => Ok(FoundResult::None(
            why_none(&connection, identity, &reply).await,
        )),
        _ => {
            let whole = connection.open_message(&reply).await;
            whole
                .map(result)
                .map_err(|error| client::unreadable(&error))
        }
    }
}

/// Returns why there is no result, as far as that is known without reading all waiting jobs.
async fn why_none(
    connection: &Connection,
    identity: &Identity,
    reply: &async_nats::Message,
) -> String {
    let headers = reply.headers.as_ref();
    if headers.is_some_and(|headers| headers.get(IN_PROGRESS_HEADER).is_some()) {
        return "it is not answered yet: it waits for its call, or is being called".to_owned();
    }
    let Identity { team, batch, id } = identity;
    let names = &connection.names;
    let scheduled = names.scheduled_of_job(team, batch.as_deref(), id);
    let scheduled = last_of(connection, names.scheduled_stream(), &scheduled).await;
    // Another message, without headers, can have come on a subject of this form.
    if scheduled.is_some_and(|message| message.headers.get("Nats-Schedule").is_some()) {
        return "it is not answered yet: it waits for its time".to_owned();
    }
    let of_any = names.completion(team, Some("*"), id);
    let elsewhere = last_of(connection, names.completions_stream(), &of_any).await;
    // An acknowledgement that was aimed at a subject of this form is no completion.
    let elsewhere =
        elsewhere.and_then(|message| serde_json::from_slice::<Completion>(&message.payload).ok());
    let other_batch = elsewhere.map(|completion| completion.batch);
    match other_batch.filter(|other| other != batch) {
        Some(Some(other)) => format!("batch {other} has a job of this id: say --batch {other}"),
        Some(None) => "a job of this id is of no batch: leave --batch out".to_owned(),
        None => not_known(identity),
    }
}

fn not_known(identity: &Identity) -> String {
    let batch = if identity.batch.is_none() {
        "; a job of a batch needs --batch"
    } else {
        ""
    };
    format!("it is not answered yet, or was never published{batch}")
}

/// Returns the last message on a subject of a stream, if there is one.
async fn last_of(connection: &Connection, stream: String, subject: &str) -> Option<StreamMessage> {
    let stream = connection.context.get_stream_no_info(stream).await;
    let stream = stream.ok()?;
    let last = stream.get_last_raw_message_by_subject(subject).await;
    last.ok()
}

async fn tail(
    config: &Config,
    team: Option<String>,
    batch: Option<String>,
    all: bool,
) -> Result<u8, Error> {
    let stop =
        shutdown::on_signal(Hangup::Ends, None).map_err(|error| Error::Usage(error.into()))?;
    let mut connection = connect(config).await?;
    let filter = match team {
        Some(team) => connection.names.completions_of(&team, batch.as_deref()),
        None => connection.names.all_completions(),
    };
    // The sequence number of the next message to print.
    let mut next = if all {
        1
    } else {
        last_sequence(&connection).await? + 1
    };
    let (mut messages, mut tags) = completions(&connection, &filter, next).await?;
    let mut checks = tokio::time::interval(STREAM_CHECK_INTERVAL);
    loop {
        let problem = tokio::select! {
            message = messages.next() => match message {
                Some(Ok(message)) => {
                    let sequence = message.info().map_or(next, |info| info.stream_sequence);
                    let (subject, headers) = (message.subject.as_str(), message.headers.as_ref());
                    let is_own = tags.is_own(subject, headers, &message.payload, sequence);
                    // After a restart, the client may begin with the first message again.
                    if is_own && sequence >= next {
                        next = sequence + 1;
                        let text = text_of(&connection, &message).await.map_err(|error| unreadable(&error))?;
                        if !print::line(&text) {
                            return Ok(0);
                        }
                    }
                    continue;
                }
                Some(Err(error)) => error.to_string(),
                None => "it ended".to_owned(),
            },
            _ = checks.tick() => match stream_problem(&connection, &mut next).await {
                Some(problem) => problem.to_owned(),
                None => continue,
            },
            () = stop.cancelled() => return Ok(0),
        };
        warn!(
            problem,
            "the stream of completions cannot be read on, reading it again"
        );
        tokio::select! {
            reconnected = reconnect(config, &filter, next) => (connection, messages, tags) = reconnected,
            () = stop.cancelled() => return Ok(0),
        }
    }
}

/// Returns a published completion as text. It is whole if its message names an object, and always
/// in today's words.
async fn text_of(connection: &Connection, message: &Message) -> anyhow::Result<String> {
    let names_object = object_of(message.headers.as_ref()).is_some();
    if !names_object && !is_of_format_1(&message.payload) {
        return Ok(String::from_utf8_lossy(&message.payload).into_owned());
    }
    let completion = connection.open_message(message).await?;
    Ok(serde_json::to_string(&completion)?)
}

/// Returns why the stream can no longer be read, or `None` if it can. A stream that was created
/// again begins with 1.
async fn stream_problem(connection: &Connection, next: &mut u64) -> Option<&'static str> {
    if !connection.is_up() {
        // The connection may come back by itself at the same address.
        tokio::time::sleep(STREAM_CHECK_INTERVAL).await;
        return (!connection.is_up()).then_some("the connection is lost");
    }
    let recreated = last_sequence(connection)
        .await
        .is_ok_and(|last| last + 1 < *next);
    if recreated {
        *next = 1;
    }
    recreated.then_some("it was made again")
}

/// Connects again and reads from `next` on. The server may have another address.
async fn reconnect(
    config: &Config,
    filter: &str,
    next: u64,
) -> (Connection, Ordered, CompletionTags) {
    loop {
        tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
        let Ok(connection) = connect(config).await else {
            continue;
        };
        if let Ok((messages, tags)) = completions(&connection, filter, next).await {
            return (connection, messages, tags);
        }
    }
}

/// Returns the sequence number of the last completion of the stream, even if that one is deleted.
async fn last_sequence(connection: &Connection) -> Result<u64, Error> {
    let stream = connection
        .context
        .get_stream(connection.names.completions_stream())
        .await;
    let stream = stream.map_err(|error| unreadable(&error))?;
    Ok(stream.cached_info().state.last_sequence)
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::Unreachable(anyhow!("the stream of completions cannot be read: {error}"))
}

/// Returns the messages on `filter` from `next` on, and what distinguishes completions among them.
async fn completions(
    connection: &Connection,
    filter: &str,
    next: u64,
) -> Result<(Ordered, CompletionTags), Error> {
    let stream = connection
        .context
        .get_stream(connection.names.completions_stream())
        .await;
    let config = OrderedConfig {
        filter_subject: filter.to_owned(),
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: next,
        },
        ..OrderedConfig::default()
    };
    let stream = stream.map_err(|error| unreadable(&error))?;
    let tags = CompletionTags::of_metadata(&stream.cached_info().config.metadata);
    let consumer = stream.create_consumer(config).await;
    let consumer = consumer.map_err(|error| unreadable(&error))?;
    let messages = consumer.messages().await;
    let messages = messages.map_err(|error| unreadable(&error))?;
    Ok((messages, tags))
}
