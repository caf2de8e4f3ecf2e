//! The streams: made or updated at the start, and refused where they would break a promise.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use forebay_schemas::{Lane, Names};
use tracing::{debug, warn};

use crate::config::Streams;

/// Flows that a stream may have: each is a durable consumer, and the server's own default is 1,000.
const MAX_CONSUMERS: i32 = 10_000;
/// Dead letters and events are kept this long.
const LONG: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// Publishes with the same Nats-Msg-Id are told apart by Forebay: ids are unique within a team, and
/// the server's window is not. This is the least that the server allows.
const NO_WINDOW: Duration = Duration::from_millis(100);

/// How often it is looked whether all streams are there.
const LOOK: Duration = Duration::from_secs(5);

/// Why the streams cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server said no, or nothing.
    #[error("stream {stream}: {problem}")]
    Server {
        /// The stream.
        stream: String,
        /// What went wrong.
        problem: String,
    },
    /// A stream is there and is made so that it would break a promise.
    #[error(
        "stream {stream} has {field} = {found}, and Forebay needs {needed} ({why}); change the stream or set [nats] prefix to another"
    )]
    Unfit {
        /// The stream.
        stream: String,
        /// What does not fit.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        needed: String,
        /// Which promise it would break.
        why: &'static str,
    },
}

/// Makes or updates all streams.
///
/// # Errors
/// When the server refuses, or a stream that is there cannot keep a promise.
pub async fn establish(context: &Context, names: &Names, sizes: &Streams) -> Result<(), Error> {
    for wanted in streams(names, sizes) {
        match existing(context, &wanted.name).await? {
            Some(existing) => {
                if let Some(unfit) = unfit(&existing, &wanted) {
                    return Err(unfit);
                }
                let stream = wanted.name.clone();
                // Replicas and placement are the operator's.
                let updated =
                    Config { num_replicas: existing.num_replicas, placement: existing.placement, ..wanted };
                let updated = context.update_stream(updated).await;
                updated.map_err(|error| Error::Server { stream, problem: error.to_string() })?;
            }
            None => create(context, wanted).await?,
        }
    }
    Ok(())
}

/// Makes a stream that somebody deletes while it is served again, so that publishers and completions are
/// not turned away until the next start.
pub fn watch(context: Context, names: Names, sizes: Streams) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = make_missing(&context, &names, &sizes).await {
                debug!(%error, "the streams cannot be looked at");
            }
        }
    })
}

async fn make_missing(context: &Context, names: &Names, sizes: &Streams) -> Result<(), Error> {
    for wanted in streams(names, sizes) {
        if existing(context, &wanted.name).await?.is_none() {
            warn!(stream = wanted.name, "the stream was deleted with all that it held; making it again");
            create(context, wanted).await?;
        }
    }
    Ok(())
}

async fn existing(context: &Context, stream: &str) -> Result<Option<Config>, Error> {
    match context.get_stream(stream).await {
        Ok(found) => Ok(Some(found.cached_info().config.clone())),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(Error::Server { stream: stream.to_owned(), problem: error.to_string() }),
    }
}

async fn create(context: &Context, wanted: Config) -> Result<(), Error> {
    let stream = wanted.name.clone();
    let created = context.create_stream(wanted).await;
    created.map(|_| ()).map_err(|error| Error::Server { stream, problem: error.to_string() })
}

fn is_not_found(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    use async_nats::jetstream::context::GetStreamErrorKind::JetStream;
    matches!(error.kind(), JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// The streams as they should be.
fn streams(names: &Names, sizes: &Streams) -> Vec<Config> {
    let base = |name: String, subjects: Vec<String>| Config {
        name,
        subjects,
        storage: StorageType::File,
        num_replicas: 1,
        max_consumers: MAX_CONSUMERS,
        duplicate_window: NO_WINDOW,
        ..Config::default()
    };
    let bytes = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
    vec![
        Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_bytes: bytes(sizes.jobs_max_bytes),
            // A flow's jobs have one subject, so the server can count them.
            max_messages_per_subject: sizes.jobs_max_per_flow.map_or(-1, i64::from),
            discard_new_per_subject: sizes.jobs_max_per_flow.is_some(),
            republish: Some(Republish {
                source: names.all_jobs(),
                destination: names.all_seen(),
                headers_only: true,
            }),
            ..base(names.jobs_stream(), job_subjects(names))
        },
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
            ..base(names.later_stream(), names.later_subjects())
        },
        Config {
            max_age: sizes.completions_max_age,
            max_bytes: bytes(sizes.completions_max_bytes),
            allow_direct: true,
            ..base(names.completions_stream(), vec![names.all_completions()])
        },
        Config {
            max_age: LONG,
            duplicate_window: Duration::from_secs(120),
            ..base(names.dead_stream(), vec![names.all_dead()])
        },
        Config { max_age: LONG, ..base(names.events_stream(), vec![names.all_events()]) },
        // Jobs wait, and can be replayed, for about as long as there are dead letters.
        Config {
            max_age: LONG,
            max_bytes: bytes(sizes.objects_max_bytes),
            discard: DiscardPolicy::New,
            ..bucket(&names.requests_bucket())
        },
        // The store has what is pushed out.
        Config {
            max_age: sizes.completions_max_age,
            max_bytes: bytes(sizes.objects_max_bytes),
            discard: DiscardPolicy::Old,
            ..bucket(&names.answers_bucket())
        },
    ]
}

/// An object store as NATS clients make one.
fn bucket(bucket: &str) -> Config {
    Config {
        name: Names::bucket_stream(bucket),
        subjects: Names::bucket_subjects(bucket).into(),
        storage: StorageType::File,
        num_replicas: 1,
        allow_rollup: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// The three forms of a job's subject. A subject of another form, an unknown lane among them, is taken
/// by no stream, so that its publisher is told at once.
fn job_subjects(names: &Names) -> Vec<String> {
    let prefix = names.prefix();
    let mut subjects = vec![format!("{prefix}.jobs.*"), format!("{prefix}.jobs.*.*")];
    subjects.extend(Lane::ALL.map(|lane| format!("{prefix}.jobs.*.*.{lane}")));
    subjects
}

/// Whether two subjects have the first two tokens in common, which are prefix and kind.
fn same_prefix(left: &str, right: &str) -> bool {
    left.split('.').take(2).eq(right.split('.').take(2))
}

fn unfit(found: &Config, wanted: &Config) -> Option<Error> {
    let unless = |fits: bool, field, found: String, needed: String, why| {
        (!fits).then(|| Error::Unfit { stream: wanted.name.clone(), field, found, needed, why })
    };
    let debug = |value: &dyn std::fmt::Debug| format!("{value:?}").to_lowercase();
    let keeps = wanted.retention == RetentionPolicy::WorkQueue;
    let jobs_alone = wanted.discard == DiscardPolicy::New && keeps;
    let ours = |subject: &String| wanted.subjects.iter().any(|own| same_prefix(own, subject));
    unless(
        found.subjects.iter().all(ours),
        "subjects",
        found.subjects.join(" "),
        wanted.subjects.join(" "),
        "its messages are those of another prefix",
    )
    .or_else(|| {
        unless(
            found.retention == wanted.retention,
            "retention",
            debug(&found.retention),
            debug(&wanted.retention),
            "a job must stay until it is acked, and a completion after it was read",
        )
    })
    .or_else(|| {
        let why = "an acknowledged publish must survive a restart";
        unless(found.storage == wanted.storage, "storage", debug(&found.storage), debug(&wanted.storage), why)
    })
    .or_else(|| {
        let why = "a job must be refused, not pushed out, when there is no room";
        let fits = !jobs_alone || found.discard == wanted.discard;
        unless(fits, "discard", debug(&found.discard), debug(&wanted.discard), why)
    })
    .or_else(|| {
        let fits = !keeps || found.max_age.is_zero();
        let why = "a job must not vanish with time";
        unless(fits, "max_age", debug(&found.max_age), "0".to_owned(), why)
    })
    .or_else(|| {
        let fits = !jobs_alone || (!found.allow_rollup && !found.allow_message_schedules);
        let why = "a publisher could erase or move other people's jobs";
        unless(fits, "allow_rollup or allow_msg_schedules", "true".to_owned(), "false".to_owned(), why)
    })
    .or_else(|| {
        let why = "a publish without an acknowledgement can be lost";
        unless(!found.no_ack, "no_ack", "true".to_owned(), "false".to_owned(), why)
    })
}
