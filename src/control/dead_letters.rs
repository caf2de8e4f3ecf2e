//! Dead letters: jobs that were given up, and messages that are no jobs. They are kept until an
//! operator replays or drops them.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use bytes::Bytes;
use forebay_schemas::format::FORMAT_1_DEAD_LETTER_HEADER;
use forebay_schemas::header::{DEAD_LETTER_HEADER, OBJECT_HEADER, SUBJECT_HEADER};
use forebay_schemas::{Flow, Format, Identity, Job};
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::queue::jetstream::JetStreamQueue;
use forebay_workers::queue::{DeadLetterMeta, PostponedJob, PostponedState, Queue};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::nats::connection::Connection;

/// Limits of a page of letters: their number, and their estimated size in bytes.
const PAGE_LETTERS: usize = 500;
const PAGE_BYTES: usize = 512 * 1024;

/// A dead letter without its message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(expecting = "struct DeadLetter")]
pub struct DeadLetterEntry {
    /// Its sequence number, by which it is shown, replayed and dropped.
    pub sequence: u64,
    /// The time at which the job was given up.
    pub at: Timestamp,
    /// The subject on which the message was published.
    pub subject: String,
    /// Size of the message in bytes.
    pub size: usize,
    /// The object that holds the job. `None` if the message holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The metadata beside the message.
    #[serde(flatten)]
    pub letter: DeadLetterMeta,
}

impl DeadLetterEntry {
    /// Returns an estimate of its size in a reply, in bytes.
    fn estimated_size(&self) -> usize {
        self.letter.attempts.len() * 512 + 4_096
    }
}

/// A filter of dead letters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LetterFilter {
    /// The pool of the letters. `None` means any.
    pub pool: Option<String>,
    /// The team of the letters. `None` means any.
    pub team: Option<String>,
    /// The sequence number after which letters are listed.
    #[serde(default)]
    pub after: u64,
    /// Maximum number of letters. `None` means the maximum of a page.
    pub limit: Option<usize>,
}

/// The reason why letters cannot be read or replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The letter does not exist or is not fit for the operation.
    #[error("{0}")]
    Unfit(String),
    /// NATS cannot do it now.
    #[error("{0}")]
    Unavailable(String),
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

/// The dead letters of a prefix.
#[derive(Debug)]
pub struct DeadLetters<'a> {
    connection: &'a Connection,
    stream: Stream<()>,
}

impl<'a> DeadLetters<'a> {
    /// Opens the stream of dead letters.
    ///
    /// # Errors
    /// Returns an error when NATS cannot be reached.
    pub async fn open(connection: &'a Connection) -> Result<Self, Error> {
        let stream = connection
            .context
            .get_stream_no_info(connection.names.dead_stream())
            .await;
        Ok(Self {
            connection,
            stream: stream.map_err(unavailable)?,
        })
    }

    /// Lists a page of letters, the oldest first.
    ///
    /// # Errors
    /// Returns an error when they cannot be read.
    pub async fn list(&self, filter: &LetterFilter) -> Result<Vec<DeadLetterEntry>, Error> {
        let LetterFilter {
            pool,
            team,
            after,
            limit,
        } = filter;
        let names = &self.connection.names;
        let subject = names.dead_of(pool.as_deref(), team.as_deref());
        let limit = limit.unwrap_or(PAGE_LETTERS).min(PAGE_LETTERS);
        let mut letters = Vec::new();
        let mut size = 0;
        let mut next = after.saturating_add(1);
        while letters.len() < limit {
            match self
                .stream
                .get_first_raw_message_by_subject(&subject, next)
                .await
            {
                Ok(message) => {
                    next = message.sequence + 1;
                    let letter = read(&message);
                    size += letter.as_ref().map_or(0, DeadLetterEntry::estimated_size);
                    letters.extend(letter);
                    if size > PAGE_BYTES {
                        break;
                    }
                }
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(unavailable(error)),
            }
        }
        Ok(letters)
    }

    /// Returns a letter, and its message unchanged.
    ///
    /// # Errors
    /// Returns an error when there is no letter with this number, or when NATS cannot be reached.
    pub async fn get(&self, sequence: u64) -> Result<(DeadLetterEntry, Bytes), Error> {
        let none = || Error::Unfit(format!("there is no dead letter {sequence}"));
        match self.stream.get_raw_message(sequence).await {
            Ok(message) => Ok((read(&message).ok_or_else(none)?, message.payload)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Err(none()),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Deletes a letter, and the object that holds its job.
    ///
    /// # Errors
    /// Returns an error when there is no letter with this number, or when NATS cannot be reached.
    pub async fn drop(&self, sequence: u64) -> Result<DeadLetterEntry, Error> {
        let (letter, _) = self.get(sequence).await?;
        self.stream
            .delete_message(sequence)
            .await
            .map_err(unavailable)?;
        if let Some(object) = &letter.object {
            self.connection
                .requests()
                .delete(object)
                .await
                .map_err(unavailable)?;
        }
        Ok(letter)
    }

    /// Schedules a letter's job as the next revision of its identity, in its own pool or in `pool`.
    /// The letter is deleted once the job is stored.
    ///
    /// # Errors
    /// Returns an error when the letter does not exist or its job cannot be called again. Returns an
    /// error when NATS does not store the job.
    pub async fn replay(
        &self,
        sequence: u64,
        pool: Option<&str>,
    ) -> Result<DeadLetterEntry, Error> {
        let (letter, payload) = self.get(sequence).await?;
        let queue = self.connection.queue();
        let job = self.job_for_replay(&queue, &letter, payload, pool).await?;
        if !queue.can_postpone(job.payload.len()) {
            let size = job.payload.len();
            return Err(Error::Unfit(format!(
                "the job of {size} bytes does not fit a message with what is known of it; publish it again"
            )));
        }
        if !queue.postpone(job).await.map_err(unavailable)? {
            let problem = "another request waits under its identity";
            return Err(Error::Unfit(problem.to_owned()));
        }
        self.stream
            .delete_message(sequence)
            .await
            .map_err(unavailable)?;
        Ok(letter)
    }

    /// Returns the flow of a replayed job.
    ///
    /// # Errors
    /// Returns why there is none.
    fn flow_for_replay(&self, dead: &DeadLetterEntry, pool: Option<&str>) -> Result<Flow, String> {
        let names = &self.connection.names;
        let Some(flow) = names.flow_of(&dead.subject) else {
            return Err(format!(
                "its subject {} names no pool and team",
                dead.subject
            ));
        };
        let flow = Flow {
            pool: pool.map_or(flow.pool, str::to_owned),
            ..flow
        };
        let is_valid_in_format_1 = dead.letter.format == Format::One && flow.has_names();
        match flow.problem() {
            Some(problem) if !is_valid_in_format_1 => Err(problem),
            _ => Ok(flow),
        }
    }

    async fn job_for_replay(
        &self,
        queue: &JetStreamQueue,
        dead: &DeadLetterEntry,
        payload: Bytes,
        pool: Option<&str>,
    ) -> Result<PostponedJob, Error> {
        let sequence = dead.sequence;
        let unfit = |problem: String| Error::Unfit(format!("dead letter {sequence}: {problem}"));
        if dead.letter.code == "id_conflict" {
            return Err(unfit(
                "its id is that of another request; publish it under another id".to_owned(),
            ));
        }
        let job = match &dead.object {
            None => payload.clone(),
            Some(object) => {
                let stored = self
                    .connection
                    .requests()
                    .get(object)
                    .await
                    .map_err(unavailable)?;
                stored.ok_or_else(|| {
                    unfit(format!("its object `{object}` is gone; publish it again"))
                })?
            }
        };
        let job = Job::parse_as(&job, dead.letter.format).map_err(|error| {
            unfit(format!(
                "it is not a job ({error}); publish it mended, and drop this"
            ))
        })?;
        let now = SystemClock.now();
        if let Some(deadline) = job.deadline.filter(|deadline| *deadline <= now) {
            return Err(unfit(format!(
                "its deadline {deadline} has passed; publish it again with another"
            )));
        }
        let flow = self.flow_for_replay(dead, pool).map_err(unfit)?;
        let meta = &dead.letter;
        let identity = Identity {
            team: flow.team.clone(),
            batch: meta.batch.clone(),
            id: meta.id.clone(),
        };
        let published = queue.completion(&identity).await.map_err(unavailable)?;
        let completion = published.and_then(|published| published.completion);
        let last_revision = completion.map_or(meta.revision, |completion| completion.revision);
        Ok(PostponedJob {
            state: PostponedState {
                id: meta.id.clone(),
                fingerprint: job.fingerprint(&meta.pool),
                revision: last_revision.saturating_add(1),
                published: now,
                attempts: Vec::new(),
                counted: 0,
                replies: Vec::new(),
                format: meta.format,
            },
            flow,
            identity,
            at: now,
            payload,
            object: dead.object.clone(),
            traceparent: None,
        })
    }
}

/// Reads a letter from a message of the stream. Returns `None` if Forebay did not write it.
fn read(message: &StreamMessage) -> Option<DeadLetterEntry> {
    let headers = &message.headers;
    let header = |name| headers.get(name).map(|value| value.as_str());
    let letter: DeadLetterMeta = match header(DEAD_LETTER_HEADER) {
        Some(letter) => serde_json::from_str(letter).ok()?,
        None => {
            let letter = serde_json::from_str(header(FORMAT_1_DEAD_LETTER_HEADER)?).ok()?;
            DeadLetterMeta {
                format: Format::One,
                ..letter
            }
        }
    };
    Some(DeadLetterEntry {
        sequence: message.sequence,
        at: Timestamp::from_nanosecond(message.time.unix_timestamp_nanos()).ok()?,
        subject: header(SUBJECT_HEADER)?.to_owned(),
        size: message.payload.len(),
        object: header(OBJECT_HEADER).map(str::to_owned),
        letter,
    })
}
