//! The settings that Forebay's streams need.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Republish, RetentionPolicy, StorageType,
};
use forebay_schemas::format::FORMAT_1_UNTIL;
use forebay_schemas::{Lane, Names};
use forebay_workers::queue::jetstream::UNTAGGED_UNTIL;

use crate::config::{StreamSize, StreamsConfig};
use crate::nats::stream_secrets::StreamSecrets;

/// Maximum number of consumers of a stream. Each flow has a durable consumer, and the server's own
/// default is 1,000.
const MAX_CONSUMERS: i32 = 10_000;
/// The time for which dead letters and events are kept.
const DEAD_LETTER_MAX_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The duplicate window, which is the minimum that the server allows. Forebay itself recognises
/// duplicates: ids are unique within a team, but the server's window covers the whole stream.
const MIN_DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// A stream and its maximum size. `None` means no limit.
pub(super) type SizedStream = (Config, Option<StreamSize>);

/// Returns the streams with their intended settings. Each stream whose messages carry tags has a secret.
pub(super) fn streams(
    names: &Names,
    sizes: &StreamsConfig,
    secrets: &StreamSecrets,
) -> Vec<SizedStream> {
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
                metadata: HashMap::from([secrets.metadata_entry(&names.scheduled_stream())]),
                ..base(names.scheduled_stream(), names.scheduled_subjects())
            },
            None,
        ),
        sized(
            sizes.completions_max_bytes,
            Config {
                max_age: sizes.completions_max_age,
                allow_direct: true,
                metadata: HashMap::from([
                    secrets.metadata_entry(&names.completions_stream()),
                    (UNTAGGED_UNTIL.to_owned(), "0".to_owned()),
                ]),
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
        (
            Config {
                max_messages_per_subject: 1,
                max_age: DEAD_LETTER_MAX_AGE,
                ..base(names.attempts_stream(), vec![names.all_attempts()])
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

/// Returns a size as the server takes it.
pub(super) fn to_i64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
