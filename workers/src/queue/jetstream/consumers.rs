//! The durable consumers of flows at the server: created, created again, and deleted.
//!
//! # Why
//!
//! A power loss can damage the file of a consumer's state. The server then neither has the consumer nor creates one of its
//! name, and deletes nothing of it. The flow's jobs would wait for ever.
//!
//! # How
//!
//! Each flow has a few names for its consumer, in a fixed order. They are tried in that order until the server takes one,
//! so the next process finds the consumer again.
//!
//! # Invariants
//!
//! - A flow has one consumer at most: its stream is a work queue, which refuses a second one for the same subjects. A name
//!   that is refused for that reason is passed over, too.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, AckPolicy, pull};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind, Stream};
use forebay_schemas::format::FORMAT_1_UNTIL;
use parking_lot::RwLock;
use tracing::warn;

use super::{ACK_WAIT, JetStreamQueue, MAX_ACK_PENDING, unavailable};
use crate::queue::{Error, QueueReading};
use crate::tags::TagKey;

/// Number of names that a flow has for its consumer.
const NAMES_OF_FLOW: u32 = 4;

/// The readings whose consumer does not have the first of its names, and the number of its name.
pub(super) type RenamedConsumers = Arc<RwLock<HashMap<QueueReading, u32>>>;

/// The reason why the server did not create a consumer.
enum Obstacle {
    /// The server cannot read the state of a consumer of this name.
    Damaged,
    /// Another consumer has the flow's subjects.
    NotUnique,
}

impl JetStreamQueue {
    /// Creates the durable consumer of `reading`, if it does not exist.
    pub(super) async fn consumer(&self, reading: &QueueReading) -> Result<(), Error> {
        let _slot = self.consumer_slot().await?;
        let stream = self.context.get_stream(self.stream_of(reading));
        let stream = stream.await.map_err(unavailable)?;
        let info = stream.cached_info();
        let created = info.created.unix_timestamp();
        self.created_of(reading.due)
            .store(created, Ordering::Relaxed);
        let metadata = &info.config.metadata;
        if reading.due {
            *self.schedule_tags.write() = TagKey::of_metadata(metadata);
        } else {
            let until = metadata.get(FORMAT_1_UNTIL);
            let until = until.and_then(|until| until.parse().ok());
            self.format_1_until
                .store(until.unwrap_or_default(), Ordering::Relaxed);
        }
        self.create_under_any_name(reading, &stream).await
    }

    /// Creates the consumer of `reading` under the first of its names that the server takes.
    async fn create_under_any_name<I>(
        &self,
        reading: &QueueReading,
        stream: &Stream<I>,
    ) -> Result<(), Error> {
        let first = self.number_of(reading);
        let mut problem = None;
        for number in first..=NAMES_OF_FLOW {
            let config = self.consumer_config(reading, number);
            let Err(error) = stream.create_consumer(config).await else {
                if number != first {
                    self.rename(reading, number);
                }
                return Ok(());
            };
            match obstacle(&error) {
                // The server refuses this if nothing of it is known. It would be tidier without, and works with it.
                Some(Obstacle::Damaged) => {
                    let name = self.names.consumer_numbered(&reading.flow, number);
                    let _ = stream.delete_consumer(&name).await;
                }
                Some(Obstacle::NotUnique) => {}
                None => return Err(unavailable(error)),
            }
            problem.get_or_insert(error);
        }
        // The next try begins with the first name again.
        self.renamed.write().remove(reading);
        let problem = problem.map_or_else(String::new, |problem| problem.to_string());
        Err(unavailable(problem))
    }

    fn consumer_config(&self, reading: &QueueReading, number: u32) -> pull::Config {
        let filters = match reading.due {
            false => self.names.job_filters(&reading.flow),
            true => vec![self.names.due(&reading.flow)],
        };
        pull::Config {
            durable_name: Some(self.names.consumer_numbered(&reading.flow, number)),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: MAX_ACK_PENDING,
            filter_subjects: filters,
            ..pull::Config::default()
        }
    }

    /// Returns the number of the name that the consumer of `reading` has, from 1.
    fn number_of(&self, reading: &QueueReading) -> u32 {
        self.renamed.read().get(reading).copied().unwrap_or(1)
    }

    /// Returns the name that the consumer of `reading` has.
    pub(super) fn consumer_name(&self, reading: &QueueReading) -> String {
        let number = self.number_of(reading);
        self.names.consumer_numbered(&reading.flow, number)
    }

    fn rename(&self, reading: &QueueReading, number: u32) {
        self.renamed.write().insert(reading.clone(), number);
        warn!(
            queue = %reading.flow,
            consumer = self.consumer_name(reading),
            "the server cannot read the state of a consumer, whose jobs are read by another one"
        );
    }

    /// Deletes the consumer of `reading`, if `may_delete` allows it. Returns true if the consumer does not exist any
    /// more.
    pub(super) async fn delete_consumer(
        &self,
        reading: &QueueReading,
        may_delete: impl Fn(&consumer::Info) -> bool,
    ) -> Result<bool, Error> {
        let _slot = self.consumer_slot().await?;
        let stream = self.stream(self.stream_of(reading)).await?;
        let name = self.consumer_name(reading);
        match stream.consumer_info(&name).await {
            Ok(info) if !may_delete(&info) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(unavailable(error)),
        }
        stream.delete_consumer(&name).await.map_err(unavailable)?;
        Ok(true)
    }
}

/// Returns the reason why a consumer was not created, if it may be created under another name.
fn obstacle(error: &ConsumerError) -> Option<Obstacle> {
    let ConsumerErrorKind::JetStream(error) = error.kind() else {
        return None;
    };
    match error.error_code() {
        // The server tells its clients the first code, and its log the second one.
        ErrorCode::CONSUMER_CREATE | ErrorCode::CONSUMER_STORE_FAILED => Some(Obstacle::Damaged),
        ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE => Some(Obstacle::NotUnique),
        _ => None,
    }
}
