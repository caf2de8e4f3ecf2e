//! The streams. They are created or updated at the start, and refused if they would break a
//! guarantee.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, Republish, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{Context, ErrorCode};
use forebay_schemas::format::FORMAT_1_UNTIL;
use forebay_schemas::{Lane, Names};
use tracing::{debug, warn};

use crate::config::{SMALLEST_STREAM, StreamSize, StreamsConfig};

/// Maximum number of consumers of a stream. Each flow has a durable consumer, and the server's own
/// default is 1,000.
const MAX_CONSUMERS: i32 = 10_000;
/// The time for which dead letters and events are kept.
const DEAD_LETTER_MAX_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The duplicate window, which is the minimum that the server allows. Forebay itself recognises
/// duplicates: ids are unique within a team, but the server's window covers the whole stream.
const MIN_DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

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
) -> Result<(), Error> {
    let mut missing = Vec::new();
    for (wanted, size) in streams(names, sizes) {
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
    let mut metadata = found.config.metadata;
    for key in wanted.metadata.into_keys() {
        // A stream without this key was created by a Forebay with format 1 only. All its messages
        // have that format.
        let last_sequence = || found.state.last_sequence.to_string();
        metadata.entry(key).or_insert_with(last_sequence);
    }
    // Replicas and placement belong to the operator. Without a configured size, the size at
    // creation is kept.
    let max_bytes = match size {
        Some(StreamSize::Usual(_)) => found.config.max_bytes,
        _ => wanted.max_bytes,
    };
    Config {
        num_replicas: found.config.num_replicas,
        placement: found.config.placement,
        max_bytes,
        metadata,
        ..wanted
    }
}

async fn update(context: &Context, config: &Config) -> Result<(), Error> {
    let updated = context.update_stream(config).await;
    updated.map_err(|error| server_error(&config.name, error))?;
    Ok(())
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
/// not refused until the next start.
pub fn watch(context: Context, names: Names, sizes: StreamsConfig) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(STREAM_CHECK_INTERVAL).await;
            if let Err(error) = create_missing(&context, &names, &sizes).await {
                debug!(%error, "the streams cannot be looked at");
            }
        }
    })
}

async fn create_missing(
    context: &Context,
    names: &Names,
    sizes: &StreamsConfig,
) -> Result<(), Error> {
    let mut missing = Vec::new();
    for (wanted, size) in streams(names, sizes) {
        if existing(context, &wanted.name).await?.is_none() {
            warn!(
                stream = wanted.name,
                "the stream was deleted with all that it held; making it again"
            );
            missing.push((wanted, size));
        }
    }
    create(context, &missing).await
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
    for (index, stream) in missing.iter().enumerate() {
        while let Err(error) = context.create_stream(halved_config(stream, halved)).await {
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
                update(context, &halved_config(made, halved)).await?;
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

fn is_out_of_room(error: &async_nats::jetstream::context::CreateStreamError) -> bool {
    use async_nats::jetstream::context::CreateStreamErrorKind::JetStream;
    let of_room = [
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
    ];
    matches!(error.kind(), JetStream(error) if of_room.contains(&error.error_code()))
}

fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn is_not_found(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind::JetStream;
    matches!(error.kind(), JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// A stream and its maximum size. `None` means no limit.
type SizedStream = (Config, Option<StreamSize>);

/// Returns the streams with their intended settings.
fn streams(names: &Names, sizes: &StreamsConfig) -> Vec<SizedStream> {
    let base = |name: String, subjects: Vec<String>| Config {
        name,
        subjects,
        storage: StorageType::File,
        num_replicas: 1,
        max_consumers: MAX_CONSUMERS,
        duplicate_window: MIN_DUPLICATE_WINDOW,
        ..Config::default()
    };
    let sized = |size: StreamSize, config: Config| {
        (
            Config {
                max_bytes: to_i64(size.bytes()),
                ..config
            },
            Some(size),
        )
    };
    vec![
        sized(
            sizes.jobs_max_bytes,
            Config {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::New,
                // The jobs of a flow have one subject, so the server can count them.
                max_messages_per_subject: sizes.jobs_max_per_queue.map_or(-1, i64::from),
                discard_new_per_subject: sizes.jobs_max_per_queue.is_some(),
                republish: Some(Republish {
                    source: names.all_jobs(),
                    destination: names.all_seen(),
                    headers_only: true,
                }),
                metadata: HashMap::from([(FORMAT_1_UNTIL.to_owned(), "0".to_owned())]),
                ..base(names.jobs_stream(), job_subjects(names))
            },
        ),
        (
            Config {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::Old,
                allow_message_schedules: true,
                allow_rollup: true,
                allow_direct: true,
                republish: Some(Republish {
                    source: names.all_due(),
                    destination: names.all_seen_due(),
                    headers_only: true,
                }),
                ..base(names.scheduled_stream(), names.scheduled_subjects())
            },
            None,
        ),
        sized(
            sizes.completions_max_bytes,
            Config {
                max_age: sizes.completions_max_age,
                allow_direct: true,
                ..base(names.completions_stream(), vec![names.all_completions()])
            },
        ),
        (
            Config {
                max_age: DEAD_LETTER_MAX_AGE,
                duplicate_window: Duration::from_secs(120),
                ..base(names.dead_stream(), vec![names.all_dead()])
            },
            None,
        ),
        (
            Config {
                max_age: DEAD_LETTER_MAX_AGE,
                ..base(names.events_stream(), vec![names.all_events()])
            },
            None,
        ),
        // The jobs of dead letters must remain for a replay, for about as long as dead letters do.
        objects(
            &names.requests_bucket(),
            sizes.objects_max_bytes,
            DEAD_LETTER_MAX_AGE,
            DiscardPolicy::New,
        ),
        // The worker's store still has an answer whose object was deleted for lack of room.
        objects(
            &names.answers_bucket(),
            sizes.objects_max_bytes,
            sizes.completions_max_age,
            DiscardPolicy::Old,
        ),
    ]
}

/// Returns an object store with the settings that NATS clients use.
fn objects(
    bucket: &str,
    size: StreamSize,
    max_age: Duration,
    discard: DiscardPolicy,
) -> SizedStream {
    let stream = Config {
        name: Names::bucket_stream(bucket),
        subjects: Names::bucket_subjects(bucket).into(),
        storage: StorageType::File,
        num_replicas: 1,
        allow_rollup: true,
        allow_direct: true,
        max_age,
        max_bytes: to_i64(size.bytes()),
        discard,
        ..Config::default()
    };
    (stream, Some(size))
}

/// Returns the three forms of a job's subject. No stream takes a subject of another form, for
/// example with an unknown lane. Its publisher therefore gets an error at once.
fn job_subjects(names: &Names) -> Vec<String> {
    let prefix = names.prefix();
    let mut subjects = vec![format!("{prefix}.jobs.*"), format!("{prefix}.jobs.*.*")];
    subjects.extend(Lane::ALL.map(|lane| format!("{prefix}.jobs.*.*.{lane}")));
    subjects
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
