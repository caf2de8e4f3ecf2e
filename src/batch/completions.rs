//! The completions of a batch as they arrive, across restarts of the server.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use forebay_schemas::Completion;
use forebay_schemas::header::FINGERPRINT_HEADER;
use forebay_schemas::subjects::REJECTED;
use forebay_workers::queue;
use forebay_workers::queue::jetstream::CompletionTags;
use futures::StreamExt;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::batch::input::Batch;
use crate::nats::connection::Connection;

/// The time to wait for a completion that should be in the stream.
pub(crate) const COMPLETION_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the stream is read again.
const REREAD_PAUSE: Duration = Duration::from_millis(500);

/// A completion with the metadata of its message.
#[derive(Debug)]
pub(crate) struct FoundCompletion {
    pub(crate) completion: Completion,
    /// The fingerprint of the request that it answers. `None` if the message has none.
    pub(crate) fingerprint: Option<String>,
    /// Its sequence number in the stream.
    pub(crate) sequence: u64,
    /// Number of the batch's completions behind it in the stream.
    pub(crate) pending: u64,
    /// True if it rejects a request whose identity is another's. The identity's own completion is another one.
    pub(crate) is_rejection: bool,
}

/// The completions of a batch, beginning with those in the stream.
pub(crate) struct BatchCompletions {
    connection: Connection,
    filters: Vec<String>,
    messages: Ordered,
    tags: CompletionTags,
    /// True if the stream must be read again.
    is_lost: bool,
    /// The last message, while its completion is opened.
    opening: Option<AbortOnDropHandle<anyhow::Result<Option<FoundCompletion>>>>,
    /// Number of completions in the stream when it was opened.
    pub(crate) stored: u64,
    /// The creation times of the streams of jobs and of completions.
    created: [i64; 2],
}

impl BatchCompletions {
    /// Starts to read.
    ///
    /// # Errors
    /// Returns an error when the stream cannot be read.
    pub(crate) async fn open(connection: &Connection, batch: &Batch) -> anyhow::Result<Self> {
        let names = &connection.names;
        let filters = vec![
            names.completions_of(&batch.team, Some(&batch.name)),
            names.rejections_of(&batch.team, &batch.name),
        ];
        let created = created(connection).await?;
        let (messages, tags, stored) = subscribe(connection, &filters).await?;
        Ok(Self {
            connection: connection.clone(),
            filters,
            messages,
            tags,
            is_lost: false,
            opening: None,
            stored,
            created,
        })
    }

    /// Returns the next completion. After a loss, the stream is read from the first one again, so
    /// completions can come twice.
    ///
    /// This is cancel-safe: no completion is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> FoundCompletion {
        loop {
            if self.is_lost {
                tokio::time::sleep(REREAD_PAUSE).await;
                let Ok((messages, tags, _)) = subscribe(&self.connection, &self.filters).await
                else {
                    continue;
                };
                (self.messages, self.tags, self.is_lost) = (messages, tags, false);
            }
            match self.open_next().await {
                Ok(Some(found)) => return found,
                Ok(None) => {}
                Err(problem) => {
                    warn!(
                        problem,
                        "the stream of completions is lost, reading it again"
                    );
                    self.is_lost = true;
                }
            }
        }
    }

    /// Opens the next message. Returns `None` if it holds no completion.
    async fn open_next(&mut self) -> Result<Option<FoundCompletion>, String> {
        let opening = match &mut self.opening {
            Some(opening) => opening,
            None => {
                let message = self
                    .messages
                    .next()
                    .await
                    .ok_or("it ended")?
                    .map_err(|error| error.to_string())?;
                // Fetching the object that the message names may take long.
                let (connection, tags) = (self.connection.clone(), self.tags.clone());
                self.opening
                    .insert(AbortOnDropHandle::new(tokio::spawn(async move {
                        let found = opened_message(&connection, &tags, &message).await;
                        found.map_err(|error| {
                            error.context(format!("the message on {}", message.subject))
                        })
                    })))
            }
        };
        let opened = opening.await;
        self.opening = None;
        match opened.map_err(|error| error.to_string())? {
            Ok(found) => Ok(found),
            Err(error) if error.is::<queue::Error>() => Err(format!("{error:#}")),
            Err(error) => {
                warn!("a completion cannot be read: {error:#}");
                Ok(None)
            }
        }
    }

    /// Returns true if the streams were deleted and created again since the last call. They are
    /// then read from the start, and the jobs in them are lost.
    pub(crate) async fn were_recreated(&mut self) -> bool {
        if !self.connection.is_up() {
            return false;
        }
        let Ok(created) = created(&self.connection).await else {
            return false;
        };
        if created == self.created {
            return false;
        }
        let Ok((messages, tags, _)) = subscribe(&self.connection, &self.filters).await else {
            return false;
        };
        (self.messages, self.tags) = (messages, tags);
        (self.created, self.is_lost) = (created, false);
        self.opening = None;
        true
    }
}

/// Returns the number of completions of a batch in the stream.
///
/// # Errors
/// Returns an error when the stream cannot be read.
pub(crate) async fn stored(
    connection: &Connection,
    team: &str,
    batch: &str,
) -> anyhow::Result<u64> {
    let filter = connection.names.completions_of(team, Some(batch));
    let (_, _, stored) = subscribe(connection, &[filter]).await?;
    Ok(stored)
}

async fn created(connection: &Connection) -> anyhow::Result<[i64; 2]> {
    let mut created = [0; 2];
    let names = [
        connection.names.jobs_stream(),
        connection.names.completions_stream(),
    ];
    for (created, name) in created.iter_mut().zip(names) {
        let stream = connection.context.get_stream(&name).await;
        let stream = stream.with_context(|| format!("the stream {name} cannot be read"))?;
        *created = stream.cached_info().created.unix_timestamp();
    }
    Ok(created)
}

/// Returns the completions on `filters`, what distinguishes them from other messages, and their number in the stream.
async fn subscribe(
    connection: &Connection,
    filters: &[String],
) -> anyhow::Result<(Ordered, CompletionTags, u64)> {
    let unreadable = "the stream of completions cannot be read";
    let name = connection.names.completions_stream();
    let stream = connection.context.get_stream(name).await;
    let stream = stream.context(unreadable)?;
    let tags = CompletionTags::of_metadata(&stream.cached_info().config.metadata);
    let config = OrderedConfig {
        filter_subjects: filters.to_vec(),
        // If a line was called again, the last answer counts.
        deliver_policy: DeliverPolicy::LastPerSubject,
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.context(unreadable)?;
    let stored = consumer.cached_info().num_pending;
    let messages = consumer.messages().await.context(unreadable)?;
    Ok((messages, tags, stored))
}

/// Returns the completion of a message. If Forebay did not write the message, returns the completion that it hides; `None` if
/// there is none.
async fn opened_message(
    connection: &Connection,
    tags: &CompletionTags,
    message: &Message,
) -> anyhow::Result<Option<FoundCompletion>> {
    let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
    let (pending, sequence) = (info.pending, info.stream_sequence);
    let (subject, headers) = (message.subject.as_str(), message.headers.as_ref());
    if tags.is_own(subject, headers, &message.payload, sequence) {
        let completion = connection.open_message(message).await?;
        let found = found(completion, headers, (sequence, pending));
        let is_rejection = subject.ends_with(REJECTED);
        return Ok(Some(FoundCompletion {
            is_rejection,
            ..found
        }));
    }
    let Some(hidden) = connection.queue().own_completion(subject).await? else {
        return Ok(None);
    };
    let headers = Some(&hidden.headers);
    let completion = connection.open_completion(&hidden.payload, headers);
    let completion = completion.await?;
    Ok(Some(found(completion, headers, (hidden.sequence, pending))))
}

pub(crate) fn found(
    completion: Completion,
    headers: Option<&HeaderMap>,
    (sequence, pending): (u64, u64),
) -> FoundCompletion {
    let fingerprint = headers.and_then(|headers| headers.get(FINGERPRINT_HEADER));
    FoundCompletion {
        completion,
        fingerprint: fingerprint.map(|value| value.as_str().to_owned()),
        sequence,
        pending,
        is_rejection: false,
    }
}
