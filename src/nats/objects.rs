//! Jobs and completions that are too large for a message. A large job is stored as an object that
//! its message names. A completion that names an object is completed from it.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use forebay_schemas::completion::CompletionError;
use forebay_schemas::header::OBJECT_HEADER;
use forebay_schemas::{Class, Completion, Identity, Status};
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::queue::jetstream::{Objects, object_of};
use jiff::Timestamp;
use serde_json::json;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::control::messages::{ResultsReply, ResultsRequest};
use crate::nats::connection::Connection;

/// Bytes that are reserved for the headers of a message.
const HEADER_ROOM: usize = 1_024;

/// The interval of sweeps, and the minimum age of what they delete.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Deletes incomplete objects, and what other programs wrote among Forebay's own messages, at regular intervals.
pub(crate) fn sweep(connection: Connection) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            ticks.tick().await;
            let before = SystemClock
                .now()
                .checked_sub(SWEEP_INTERVAL)
                .unwrap_or(Timestamp::MIN);
            for objects in [connection.requests(), connection.answers()] {
                match objects.sweep(before).await {
                    Ok(0) => {}
                    Ok(swept) => info!(swept, "objects that never became whole are deleted"),
                    Err(error) => debug!(%error, "the object stores cannot be looked at"),
                }
            }
            match connection.queue().delete_foreign().await {
                Ok(0) => {}
                Ok(deleted) => warn!(deleted, "messages that Forebay did not write are deleted"),
                Err(error) => debug!(%error, "the streams cannot be searched for foreign messages"),
            }
        }
    })
}

impl Connection {
    /// Returns true if a job of `size` bytes is too large for a message.
    pub fn is_large(&self, size: usize) -> bool {
        size + HEADER_ROOM > self.client.max_payload()
    }

    /// Returns the message of a job.
    ///
    /// A small job is its own message. A large job is stored as an object that a header names, and
    /// its message has only the id and the batch. A repetition with the same headers stores the
    /// same object again.
    ///
    /// # Errors
    /// Returns an error when the object cannot be stored.
    pub async fn enclose(
        &self,
        identity: &Identity,
        job: Bytes,
        headers: &mut HeaderMap,
    ) -> anyhow::Result<Bytes> {
        if !self.is_large(job.len()) {
            return Ok(job);
        }
        let Identity { team, batch, id } = identity;
        // An object is deleted with the message that names it, so no two messages may name the same
        // object.
        let object = object_of(Some(headers)).unwrap_or_else(|| {
            format!(
                "{}/{:032x}",
                self.names.object(team, batch.as_deref(), id),
                rand::random::<u128>()
            )
        });
        headers.insert(OBJECT_HEADER, object.as_str());
        let stored = self.requests().put(&object, &job).await;
        stored.with_context(|| {
            format!("the job of {} bytes cannot be kept as an object", job.len())
        })?;
        Ok(json!({ "id": id, "batch": batch }).to_string().into())
    }

    /// Returns the object store of jobs that are too large for a message.
    pub fn requests(&self) -> Objects {
        let (context, names) = (&self.context, &self.names);
        Objects::of_requests(context, names, self.client.max_payload())
    }

    fn answers(&self) -> Objects {
        let (context, names) = (&self.context, &self.names);
        Objects::of_answers(context, names, self.client.max_payload())
    }

    /// Adds the answer to a completion whose headers may name an object. Returns `None` if the
    /// object is gone.
    async fn fetch_answer(
        &self,
        completion: Completion,
        headers: Option<&HeaderMap>,
    ) -> anyhow::Result<Option<Completion>> {
        let object = object_of(headers);
        let answers = self.answers();
        let whole = answers.whole(completion, object.as_deref()).await?;
        Ok(whole)
    }

    /// Returns the whole completion of a message: see [`Connection::open_completion`].
    pub(crate) async fn open_message(&self, message: &Message) -> anyhow::Result<Completion> {
        let headers = message.headers.as_ref();
        self.open_completion(&message.payload, headers).await
    }

    /// Returns the whole completion of a message that may name an object.
    ///
    /// If the object is gone, the worker's store is asked. If the store no longer has the answer,
    /// the returned completion has failed with the code `answer_gone`.
    ///
    /// # Errors
    /// Returns an error when the message holds no completion, or when the object cannot be fetched
    /// now.
    pub async fn open_completion(
        &self,
        payload: &[u8],
        headers: Option<&HeaderMap>,
    ) -> anyhow::Result<Completion> {
        let completion: Completion = serde_json::from_slice(payload)?;
        if let Some(whole) = self.fetch_answer(completion.clone(), headers).await? {
            return Ok(whole);
        }
        let Identity { team, batch, id } = completion.identity();
        let request = serde_json::to_vec(&ResultsRequest { team, batch, id })?;
        if let Ok(reply) = self.request_control("results", request.into()).await
            && let Message {
                payload, headers, ..
            } = &reply
            && let Ok(Some(stored)) = serde_json::from_slice::<ResultsReply>(payload)
            && stored.revision == completion.revision
            && let Some(whole) = self.fetch_answer(stored, headers.as_ref()).await?
        {
            return Ok(whole);
        }
        let error = CompletionError {
            code: "answer_gone".to_owned(),
            message: "the object that held the answer is gone, and the store has no answer either"
                .to_owned(),
            class: Class::MalformedResponse,
        };
        Ok(Completion {
            status: Status::Failed,
            response: None,
            error: Some(error),
            ..completion
        })
    }
}
