//! Buckets of Forebay's own state, of which it believes only what it wrote.
//!
//! # Why
//!
//! The server publishes the acknowledgement of a message to whatever reply subject its publisher names, with its own
//! rights. One permitted publish of a team can so put a value under any key of any bucket. A value that is believed could
//! end the worker, make a spent limit unspent, or enable a disabled key.
//!
//! # How
//!
//! Each value carries a tag: an HMAC-SHA-256 over its subject, its operation and its bytes. The secret is in the `metadata`
//! of the bucket's stream. No message can write that, and no team can read it. Acknowledgements carry no headers at all. A
//! copy of an older value, as a direct get or a republish makes it, has the right tag. It also has headers that name its
//! origin, and is foreign too.
//!
//! The first start that finds a bucket without a secret takes over its values once: it tags those that can be read, and then
//! stores the secret. If it ends in between, the next start does the same again.
//!
//! # Invariants
//!
//! - A value is believed only if its tag fits its subject and its bytes, and it is no copy.
//! - A deletion is believed under the same rule.
//! - A bucket that exists keeps its replicas, placement and limits: these belong to the operator.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, Stream};
use bytes::Bytes;
use forebay_schemas::Names;
use forebay_schemas::header::TAG_HEADER;
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::tags::TagKey;
use futures::TryStreamExt;
use parking_lot::RwLock;
use tracing::{info, warn};

use crate::nats::connection::Connection;
use crate::nats::replicas::StreamCreator;
use crate::nats::streams;

/// The header of a deletion, as key-value clients write it, and its value.
const OPERATION_HEADER: &str = "KV-Operation";
const PURGE: &str = "PURGE";

/// The reason why a bucket cannot be used now.
#[derive(Debug, thiserror::Error)]
#[error("bucket {bucket}: {problem}")]
pub struct Error {
    bucket: String,
    problem: String,
}

/// The intended settings of a bucket that does not exist yet.
#[derive(Debug, Clone)]
pub struct BucketSettings {
    /// The name, without the `KV_` of its stream.
    pub name: String,
    /// The time for which a value is kept; zero for ever.
    pub max_age: Duration,
    /// True if single values have a time to live.
    pub has_ttl: bool,
}

/// The entry of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketEntry {
    /// There is no value.
    Missing {
        /// The revision of the deletion; 0 if there is none.
        revision: u64,
    },
    /// A value that Forebay wrote.
    Ours {
        /// The value.
        value: Bytes,
        /// Its revision.
        revision: u64,
    },
    /// A message that Forebay did not write.
    Foreign {
        /// Its revision.
        revision: u64,
    },
}

impl BucketEntry {
    /// Returns the revision that the next write must expect.
    pub fn revision(&self) -> u64 {
        match self {
            BucketEntry::Missing { revision }
            | BucketEntry::Ours { revision, .. }
            | BucketEntry::Foreign { revision } => *revision,
        }
    }
}

/// The outcome of a write that expected a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketWrite {
    /// It is stored, at this revision.
    Stored(u64),
    /// The key has another revision.
    Conflict,
}

/// An open bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    context: Context,
    stream: Stream,
    settings: BucketSettings,
    /// Shared by all clones, since another process may make the bucket again.
    origin: Arc<RwLock<BucketOrigin>>,
}

/// The facts that change when a bucket is made again.
#[derive(Debug)]
struct BucketOrigin {
    tags: TagKey,
    /// When the server made its stream.
    created: async_nats::datetime::DateTime,
}

/// Returns the tag of a value, or of a deletion.
fn tag_of(tags: &TagKey, subject: &str, operation: &str, value: &[u8]) -> String {
    tags.tag(&[subject.as_bytes(), operation.as_bytes(), value])
}

fn is_tagged(tags: &TagKey, message: &StreamMessage) -> bool {
    let operation = operation_of(&message.headers);
    let parts = [
        message.subject.as_bytes(),
        operation.as_bytes(),
        &message.payload,
    ];
    tags.is_tagged(&message.headers, &parts)
}

fn operation_of(headers: &HeaderMap) -> &str {
    headers
        .get(OPERATION_HEADER)
        .map_or("", |operation| operation.as_str())
}

impl Bucket {
    /// Opens a bucket. Creates it if it does not exist. `is_ours` decides which values of a bucket from before tags are
    /// taken over, by key and value.
    ///
    /// # Errors
    /// Returns an error when NATS refuses or does not answer.
    pub async fn open(
        connection: &Connection,
        settings: &BucketSettings,
        is_ours: impl Fn(&str, &[u8]) -> bool,
    ) -> Result<Self, Error> {
        let Connection {
            context, secrets, ..
        } = connection;
        let name = settings.name.clone();
        let failed = |problem: String| Error {
            bucket: name.clone(),
            problem,
        };
        let fresh = secrets.of_new_stream(&Names::key_value_stream(&name));
        let opened = open_stream(context, settings, &fresh).await;
        let stream = opened.map_err(failed)?;
        if let Some(bucket) = Self::with_secret(connection, &stream, settings) {
            return Ok(bucket);
        }
        let taken = take_over(context, &stream, settings, &fresh, is_ours).await;
        taken.map_err(failed)?;
        let opened = open_stream(context, settings, &fresh).await;
        let stream = opened.map_err(failed)?;
        // Another process may have stored its secret meanwhile. The one that is stored counts.
        Self::with_secret(connection, &stream, settings)
            .ok_or_else(|| failed("its stream keeps no metadata".to_owned()))
    }

    fn with_secret(
        connection: &Connection,
        stream: &Stream,
        settings: &BucketSettings,
    ) -> Option<Self> {
        let tags = TagKey::of_metadata(&stream.cached_info().config.metadata)?;
        let name = Names::key_value_stream(&settings.name);
        connection.secrets.remember(&name, &tags);
        Some(Self {
            context: connection.context.clone(),
            stream: stream.clone(),
            settings: settings.clone(),
            origin: Arc::new(RwLock::new(BucketOrigin {
                tags,
                created: stream.cached_info().created,
            })),
        })
    }

    /// Makes the bucket again if it was deleted, with the same secret. If another process made it again, this takes over
    /// that secret. Returns true if it was made again since the last call: all values are then lost.
    ///
    /// # Errors
    /// Returns an error when NATS refuses or does not answer.
    pub async fn ensure(&self) -> Result<bool, Error> {
        let tags = self.origin.read().tags.clone();
        let opened = open_stream(&self.context, &self.settings, &tags).await;
        let stream = opened.map_err(|problem| self.error(problem))?;
        let found = stream.cached_info();
        let mut origin = self.origin.write();
        if let Some(stored) = TagKey::of_metadata(&found.config.metadata) {
            origin.tags = stored;
        }
        let created = std::mem::replace(&mut origin.created, found.created);
        Ok(created != found.created)
    }

    /// Returns when the server made the bucket, in nanoseconds since the Unix epoch.
    pub fn made_at(&self) -> i128 {
        self.origin.read().created.unix_timestamp_nanos()
    }

    /// Returns the time since the server made the bucket. Of two clocks that differ, it is the difference.
    pub fn age(&self) -> Duration {
        let now = SystemClock.now().as_nanosecond();
        let nanos = now.abs_diff(self.made_at());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn error(&self, problem: impl ToString) -> Error {
        Error {
            bucket: self.settings.name.clone(),
            problem: problem.to_string(),
        }
    }

    fn subject(&self, key: &str) -> String {
        subject(&self.settings.name, key)
    }

    /// Returns the entry of a key.
    ///
    /// # Errors
    /// Returns an error when NATS does not answer.
    pub async fn get(&self, key: &str) -> Result<BucketEntry, Error> {
        let subject = self.subject(key);
        let message = match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                return Ok(BucketEntry::Missing { revision: 0 });
            }
            Err(error) => return Err(self.error(error)),
        };
        let revision = message.sequence;
        if !is_tagged(&self.origin.read().tags, &message) {
            return Ok(BucketEntry::Foreign { revision });
        }
        if !operation_of(&message.headers).is_empty() {
            return Ok(BucketEntry::Missing { revision });
        }
        let value = message.payload;
        Ok(BucketEntry::Ours { value, revision })
    }

    /// Returns the sequence of the last message of the bucket.
    ///
    /// # Errors
    /// Returns an error when NATS does not answer.
    pub async fn last_sequence(&self) -> Result<u64, Error> {
        let info = self.stream.get_info().await;
        let info = info.map_err(|error| self.error(error))?;
        Ok(info.state.last_sequence)
    }

    /// Returns the keys that have an entry, foreign ones included.
    ///
    /// # Errors
    /// Returns an error when NATS does not answer.
    pub async fn keys(&self) -> Result<Vec<String>, Error> {
        let keys = keys_of(&self.stream, &self.settings.name).await;
        keys.map_err(|problem| self.error(problem))
    }

    /// Writes a value if the key has the revision `expected`. With `ttl`, the server deletes it after that time.
    ///
    /// # Errors
    /// Returns an error when NATS does not answer or does not take it.
    pub async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl: Option<Duration>,
    ) -> Result<BucketWrite, Error> {
        let subject = self.subject(key);
        let mut message = tagged(&self.origin.read().tags, &subject, value)
            .expected_last_subject_sequence(expected);
        if let Some(ttl) = ttl {
            message = message.ttl(ttl);
        }
        self.write(subject, message).await
    }

    /// Deletes a key if it has the revision `expected`.
    ///
    /// # Errors
    /// Returns an error when NATS does not answer or does not take it.
    pub async fn purge(&self, key: &str, expected: u64) -> Result<BucketWrite, Error> {
        let subject = self.subject(key);
        let tag = tag_of(&self.origin.read().tags, &subject, PURGE, b"");
        let message = PublishMessage::build()
            .header(TAG_HEADER, tag)
            .header(OPERATION_HEADER, PURGE)
            .header("Nats-Rollup", "sub")
            .expected_last_subject_sequence(expected);
        self.write(subject, message).await
    }

    async fn write(&self, subject: String, message: PublishMessage) -> Result<BucketWrite, Error> {
        let sent = self.context.send_publish(subject, message).await;
        let sent = sent.map_err(|error| self.error(error))?;
        match sent.await {
            Ok(ack) => Ok(BucketWrite::Stored(ack.sequence)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Ok(BucketWrite::Conflict)
            }
            Err(error) => Err(self.error(error)),
        }
    }
}

fn subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

fn tagged(tags: &TagKey, subject: &str, value: Bytes) -> PublishMessage {
    let tag = tag_of(tags, subject, "", &value);
    PublishMessage::build()
        .header(TAG_HEADER, tag)
        .payload(value)
}

async fn keys_of(stream: &Stream, bucket: &str) -> Result<Vec<String>, String> {
    let all = stream.info_with_subjects(subject(bucket, ">")).await;
    let subjects = all.map_err(|error| error.to_string())?;
    let subjects: Vec<_> = subjects
        .try_collect()
        .await
        .map_err(|error| error.to_string())?;
    let prefix = subject(bucket, "");
    let key = |(subject, _): &(String, usize)| Some(subject.strip_prefix(&prefix)?.to_owned());
    Ok(subjects.iter().filter_map(key).collect())
}

/// Opens the stream of a bucket. Creates it with this secret if it does not exist.
async fn open_stream(
    context: &Context,
    settings: &BucketSettings,
    tags: &TagKey,
) -> Result<Stream, String> {
    let stream = Names::key_value_stream(&settings.name);
    let found = streams::existing(context, &stream).await;
    if found.map_err(|error| error.to_string())?.is_none() {
        let config = new_stream(stream.clone(), settings, tags);
        if let Err(error) = StreamCreator::new(context).create(&config).await {
            // Another process may have been faster.
            let found = streams::existing(context, &stream).await;
            if !matches!(found, Ok(Some(_))) {
                return Err(error.to_string());
            }
        }
    }
    let opened = context.get_stream(stream).await;
    opened.map_err(|error| error.to_string())
}

fn new_stream(name: String, settings: &BucketSettings, tags: &TagKey) -> Config {
    Config {
        name,
        subjects: vec![subject(&settings.name, ">")],
        max_messages_per_subject: 1,
        max_age: settings.max_age,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        allow_message_ttl: settings.has_ttl,
        metadata: [tags.metadata_entry()].into(),
        ..Config::default()
    }
}

/// Tags the values of a bucket from before tags, then stores the secret.
async fn take_over(
    context: &Context,
    stream: &Stream,
    settings: &BucketSettings,
    tags: &TagKey,
    is_ours: impl Fn(&str, &[u8]) -> bool,
) -> Result<(), String> {
    let bucket = &settings.name;
    let mut taken = 0;
    for key in keys_of(stream, bucket).await? {
        let subject = subject(bucket, &key);
        let message = stream.get_last_raw_message_by_subject(&subject).await;
        let message = message.map_err(|error| error.to_string())?;
        if !operation_of(&message.headers).is_empty() {
            continue;
        }
        if !is_ours(&key, &message.payload) {
            warn!(
                bucket,
                key, "a value that Forebay did not write is left out"
            );
            continue;
        }
        let tagged = tagged(tags, &subject, message.payload)
            .expected_last_subject_sequence(message.sequence);
        let sent = context.send_publish(subject, tagged).await;
        let sent = sent.map_err(|error| error.to_string())?;
        sent.await.map_err(|error| error.to_string())?;
        taken += 1;
    }
    let mut config = stream.cached_info().config.clone();
    config.metadata.extend([tags.metadata_entry()]);
    config.allow_message_ttl |= settings.has_ttl;
    // A value whose time to live is over leaves no untagged marker behind.
    config.subject_delete_marker_ttl = None;
    let updated = context.update_stream(config).await;
    updated.map_err(|error| error.to_string())?;
    info!(
        bucket,
        taken, "the values of the bucket carry tags from now on"
    );
    Ok(())
}
