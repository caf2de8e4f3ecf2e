//! The streams. They are created or updated at the start, and refused if they would break a
//! guarantee.

mod settings;

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy};
use async_nats::jetstream::{Context, ErrorCode};
use forebay_schemas::Names;
use forebay_schemas::format::FORMAT_1_UNTIL;
use forebay_workers::queue::jetstream::UNTAGGED_UNTIL;
use forebay_workers::tags::TagKey;
use tracing::{debug, warn};

use self::settings::{SizedStream, streams, to_i64};
use crate::config::{SMALLEST_STREAM, StreamSize, StreamsConfig};
use crate::nats::connection::Connection;
use crate::nats::replicas::{StreamCreator, has_one_replica_on_a_cluster, is_out_of_room};
use crate::nats::stream_secrets::StreamSecrets;

/// The interval of checks that all streams exist.
const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The reason why the streams cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused, or did not answer.
    #[error("stream {stream}: {problem}")]
    Server {
        /// The stream.
        stream: String,
        /// The cause.
        problem: String,
    },
    /// A stream exists with a setting that would break a guarantee.
    #[error(
        "stream {stream} has {field} = {found}, and Forebay needs {needed} ({why}); change the stream or set [nats] prefix to another"
    )]
    Unfit {
        /// The stream.
        stream: String,
        /// The wrong setting.
        field: &'static str,
        /// The value that was found.
        found: String,
        /// The value that is needed.
        needed: String,
        /// The guarantee that would be broken.
        why: &'static str,
    },
}

/// Creates or updates all streams.
///
/// # Errors
/// Returns an error when the server refuses, or when an existing stream would break a guarantee.
pub async fn establish(
    context: &Context,
    names: &Names,
    sizes: &StreamsConfig,
    secrets: &StreamSecrets,
) -> Result<(), Error> {
    let mut missing = Vec::new();
    for (wanted, size) in streams(names, sizes, secrets) {
        match existing(context, &wanted.name).await? {
            Some(found) => {
                if let Some(misfit) = misfit(&found.config, &wanted) {
                    return Err(misfit);
                }
                update(context, &updated(found, (wanted, size))).await?;
            }
            None => missing.push((wanted, size)),
        }
    }
    // This comes last, when no existing stream was refused. Up to here an older Forebay could still
    // work.
    if let Some((wanted, _)) = missing
        .iter_mut()
        .find(|(wanted, _)| wanted.name == names.scheduled_stream())
        && let Some(former) = existing(context, &names.format_1_scheduled_stream()).await?
    {
        *wanted = replace_former(former.config, context, names, wanted.clone()).await?;
    }
    create(context, &missing).await
}

/// Returns the intended settings of a stream, with those of the existing one that stay.
fn updated(found: Info, (wanted, size): SizedStream) -> Config {
    let has_secret = TagKey::of_metadata(&found.config.metadata).is_some();
    let mut metadata = found.config.metadata;
    for (key, value) in wanted.metadata {
        let last = || found.state.last_sequence.to_string();
        if key == UNTAGGED_UNTIL && !has_secret {
            // Its messages have no tags, or those of a secret that is lost.
            metadata.insert(key, last());
            continue;
        }
        // A stream of jobs without this key was created by a Forebay with format 1 only. All its
        // messages have that format.
        let value = if key == FORMAT_1_UNTIL { last() } else { value };
        metadata.entry(key).or_insert(value);
    }
    // All that no guarantee and no field of the configuration needs belongs to the operator.
    let (max_bytes, max_age) = match size {
        Some(StreamSize::Given(_)) => (wanted.max_bytes, wanted.max_age),
        Some(StreamSize::Usual(_)) => (found.config.max_bytes, wanted.max_age),
        None => (found.config.max_bytes, found.config.max_age),
    };
    Config {
        subjects: wanted.subjects,
        republish: wanted.republish,
        retention: wanted.retention,
        discard: wanted.discard,
        discard_new_per_subject: wanted.discard_new_per_subject,
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_consumers: wanted.max_consumers,
        max_bytes,
        max_age,
        duplicate_window: wanted.duplicate_window,
        allow_rollup: wanted.allow_rollup,
        allow_direct: wanted.allow_direct,
        allow_message_schedules: wanted.allow_message_schedules,
        metadata,
        ..found.config
    }
}

async fn update(context: &Context, config: &Config) -> Result<(), Error> {
    let updated = context.update_stream(config).await;
    updated.map_err(|error| server_error(&config.name, error))?;
    Ok(())
}

/// Gives a stream that was made a moment ago a smaller size. It keeps the replicas that the server gave it.
async fn shrink(context: &Context, wanted: Config) -> Result<(), Error> {
    let found = existing(context, &wanted.name).await?;
    let num_replicas = found.map_or(wanted.num_replicas, |found| found.config.num_replicas);
    let smaller = Config {
        num_replicas,
        ..wanted
    };
    update(context, &smaller).await
}

fn server_error(stream: &str, problem: impl ToString) -> Error {
    Error::Server {
        stream: stream.to_owned(),
        problem: problem.to_string(),
    }
}

/// Narrows the stream in which 0.1 scheduled jobs, so that today's stream can take the subjects of
/// both. Returns today's stream with the replicas and the placement of the former one.
async fn replace_former(
    former: Config,
    context: &Context,
    names: &Names,
    wanted: Config,
) -> Result<Config, Error> {
    let narrowed = Config {
        subjects: vec![names.format_1_scheduled_subjects()],
        republish: None,
        ..former
    };
    update(context, &narrowed).await?;
    Ok(Config {
        num_replicas: narrowed.num_replicas,
        placement: narrowed.placement,
        ..wanted
    })
}

/// Creates streams again that are deleted while Forebay runs. Publishers and completions are then
/// not refused until the next start. A stream whose messages carry tags keeps its secret.
pub fn watch(connection: Connection, sizes: StreamsConfig) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            if let Err(error) = create_missing(&connection, &sizes).await {
                debug!(%error, "the streams cannot be looked at");
            }
            tokio::time::sleep(STREAM_CHECK_INTERVAL).await;
        }
    })
}

/// Creates the streams that do not exist.
async fn create_missing(connection: &Connection, sizes: &StreamsConfig) -> Result<(), Error> {
    let Connection {
        context,
        names,
        secrets,
        ..
    } = connection;
    let mut missing = Vec::new();
    for (wanted, size) in streams(names, sizes, secrets) {
        if let Some(found) = existing(context, &wanted.name).await? {
            if let Some(stored) = TagKey::of_metadata(&found.config.metadata) {
                secrets.remember(&wanted.name, &stored);
            }
            continue;
        }
        warn!(
            stream = wanted.name,
            "the stream was deleted with all that it held; making it again"
        );
        missing.push((wanted, size));
    }
    create(context, &missing).await
}

/// Warns of streams that the loss of one server of a cluster stops.
///
/// # Errors
/// Returns an error when the server does not answer.
pub async fn warn_of_single_replicas(context: &Context, names: &Names) -> Result<(), Error> {
    let mut single = Vec::new();
    for stream in names.all_streams() {
        let found = existing(context, &stream).await?;
        if found.is_some_and(|found| has_one_replica_on_a_cluster(&found)) {
            single.push(stream);
        }
    }
    if !single.is_empty() {
        warn!(
            streams = single.join(" "),
            "these streams have one replica on a cluster, so the loss of one server stops Forebay; raise each with \
             `nats stream edit STREAM --replicas 3`"
        );
    }
    Ok(())
}

/// Returns the server's information about a stream. `None` means that it does not exist.
pub(crate) async fn existing(context: &Context, stream: &str) -> Result<Option<Info>, Error> {
    match context.get_stream(stream).await {
        Ok(found) => Ok(Some(found.cached_info().clone())),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(server_error(stream, error)),
    }
}

/// Creates streams. The server reserves the maximum size of each. Where it has too little room, all
/// default sizes are halved, as often as necessary.
async fn create(context: &Context, missing: &[SizedStream]) -> Result<(), Error> {
    let mut halved = 0;
    let creator = StreamCreator::new(context);
    for (index, stream) in missing.iter().enumerate() {
        while let Err(error) = creator.create(&halved_config(stream, halved)).await {
            let wanted = halved_config(stream, halved);
            if !is_out_of_room(&error) {
                return Err(server_error(&wanted.name, error));
            }
            halved += 1;
            let smaller = |stream: &&SizedStream| {
                halved_config(stream, halved).max_bytes
                    < halved_config(stream, halved - 1).max_bytes
            };
            if !missing[..=index].iter().any(|stream| smaller(&stream)) {
                let message = format!(
                    "the server has no room for {} bytes: free some of its disk, or set smaller sizes in [streams]",
                    wanted.max_bytes
                );
                return Err(server_error(&wanted.name, message));
            }
            for made in missing[..index].iter().filter(smaller) {
                shrink(context, halved_config(made, halved)).await?;
            }
        }
    }
    if halved > 0 {
        let parts = 1u64 << halved;
        warn!(
            "the server's disk has little room, so that streams hold 1/{parts} of what they usually do"
        );
    }
    Ok(())
}

/// Returns a stream's configuration with its default size halved `halved` times.
fn halved_config((wanted, size): &SizedStream, halved: u32) -> Config {
    let max_bytes = match size {
        Some(StreamSize::Usual(bytes)) => to_i64((bytes >> halved).max(SMALLEST_STREAM)),
        Some(StreamSize::Given(_)) | None => wanted.max_bytes,
    };
    Config {
        max_bytes,
        ..wanted.clone()
    }
}

fn is_not_found(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind::JetStream;
    matches!(error.kind(), JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Returns true if two subjects have the same first two tokens, which are prefix and kind.
fn same_prefix(left: &str, right: &str) -> bool {
    fn first_tokens(subject: &str) -> impl Iterator<Item = &str> {
        subject.split('.').take(2)
    }
    first_tokens(left).eq(first_tokens(right))
}

/// Returns the first setting of an existing stream that would break a guarantee.
fn misfit(found: &Config, wanted: &Config) -> Option<Error> {
    let debug = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let keeps_until_ack = wanted.retention == RetentionPolicy::WorkQueue;
    let is_of_jobs = wanted.discard == DiscardPolicy::New && keeps_until_ack;
    let is_ours = |subject: &String| wanted.subjects.iter().any(|own| same_prefix(own, subject));
    let checks = [
        (
            found.subjects.iter().all(is_ours),
            "subjects",
            found.subjects.join(" "),
            wanted.subjects.join(" "),
            "its messages are those of another prefix",
        ),
        (
            found.retention == wanted.retention,
            "retention",
            debug(&found.retention),
            debug(&wanted.retention),
            "a job must stay until it is acked, and a completion after it was read",
        ),
        (
            found.storage == wanted.storage,
            "storage",
            debug(&found.storage),
            debug(&wanted.storage),
            "an acknowledged publish must survive a restart",
        ),
        (
            !is_of_jobs || found.discard == wanted.discard,
            "discard",
            debug(&found.discard),
            debug(&wanted.discard),
            "a job must be refused, not pushed out, when there is no room",
        ),
        (
            !keeps_until_ack || found.max_age.is_zero(),
            "max_age",
            debug(&found.max_age),
            "0".to_owned(),
            "a job must not vanish with time",
        ),
        (
            !is_of_jobs || (!found.allow_rollup && !found.allow_message_schedules),
            "allow_rollup or allow_msg_schedules",
            "true".to_owned(),
            "false".to_owned(),
            "a publisher could erase or move other people's jobs",
        ),
        (
            !found.no_ack,
            "no_ack",
            "true".to_owned(),
            "false".to_owned(),
            "a publish without an acknowledgement can be lost",
        ),
    ];
    let (_, field, found, needed, why) = checks.into_iter().find(|(fits, ..)| !fits)?;
    Some(Error::Unfit {
        stream: wanted.name.clone(),
        field,
        found,
        needed,
        why,
    })
}
