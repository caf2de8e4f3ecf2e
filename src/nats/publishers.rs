//! Publishing of jobs, and what the streams show of other publishers' habits.

use std::collections::BTreeSet;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use forebay_schemas::header::MESSAGE_ID_HEADER;
use futures::TryStreamExt;

use crate::nats::connection::Connection;

/// How often a job is published that the server takes for a duplicate.
const PUBLISH_ATTEMPTS: usize = 3;
/// Queues and objects that are looked at.
const MAX_LOOKED_AT: usize = 100;
/// Digits of 128 random bits in hexadecimal, and characters in base64.
const RANDOM_HEX_DIGITS: usize = 32;
const RANDOM_CHARACTERS: usize = 22;

impl Connection {
    /// Publishes a job. It has no `Nats-Msg-Id`, by which another team's message could make the server drop it. One that the
    /// server takes for a duplicate nevertheless is not stored, so it is published again.
    ///
    /// # Errors
    /// Returns an error when the server does not store it.
    pub(crate) async fn publish_job(
        &self,
        subject: &str,
        headers: &HeaderMap,
        message: Bytes,
    ) -> Result<PublishAck, PublishError> {
        for _ in 0..PUBLISH_ATTEMPTS {
            let (subject, headers) = (subject.to_owned(), headers.clone());
            let sent = self
                .context
                .publish_with_headers(subject, headers, message.clone());
            let ack = sent.await?.await?;
            if !ack.duplicate {
                return Ok(ack);
            }
        }
        Err(PublishError::new(PublishErrorKind::Other))
    }

    /// Returns what waiting jobs and objects show that another team could use against their publishers. What cannot be read
    /// shows nothing.
    pub(crate) async fn publisher_risks(&self) -> Vec<String> {
        let teams = self.teams_with_message_ids().await;
        let bucket = self.names.requests_bucket();
        let objects = self.requests().names().await.unwrap_or_default();
        let guessable = objects.iter().filter(|object| !has_random_part(object));
        let of_team = |team: &String| {
            format!(
                "team {team} sets {MESSAGE_ID_HEADER}: if another team publishes the same one within 100 ms, the server drops the \
                 job and acknowledges it with `duplicate`; put the id into the job, and set no such header"
            )
        };
        let of_object = |object: &String| {
            format!(
                "object {object} in {bucket} has a name that another team can guess; put 128 random bits into each name, for \
                 example 32 hexadecimal digits"
            )
        };
        let objects = guessable.take(MAX_LOOKED_AT).map(of_object);
        teams.iter().map(of_team).chain(objects).collect()
    }

    /// Returns the teams of whose queues the newest waiting job has a `Nats-Msg-Id`.
    async fn teams_with_message_ids(&self) -> BTreeSet<String> {
        let mut teams = BTreeSet::new();
        let Some((stream, subjects)) = self.queues().await else {
            return teams;
        };
        for subject in subjects.iter().take(MAX_LOOKED_AT) {
            let last = stream.get_last_raw_message_by_subject(subject).await;
            if last.is_ok_and(|last| last.headers.get(MESSAGE_ID_HEADER).is_some()) {
                teams.extend(self.names.flow_of(subject).map(|flow| flow.team));
            }
        }
        teams
    }

    /// Returns the stream of jobs, and the subjects on which jobs wait. `None` if it cannot be read.
    async fn queues(&self) -> Option<(Stream, Vec<String>)> {
        let stream = self
            .context
            .get_stream(self.names.jobs_stream())
            .await
            .ok()?;
        let subjects = stream
            .info_with_subjects(self.names.all_jobs())
            .await
            .ok()?;
        let subjects = subjects.map_ok(|(subject, _)| subject).try_collect().await;
        Some((stream, subjects.ok()?))
    }
}

/// Returns true if a part of a name can hold 128 random bits: 32 hexadecimal digits, with dashes or without, or 22 characters
/// of base64.
fn has_random_part(name: &str) -> bool {
    let is_other = |character: char| !(character.is_ascii_alphanumeric() || character == '-');
    let mut parts = name.split(is_other);
    parts.any(|part| is_random(&part.replace('-', "")))
}

fn is_random(part: &str) -> bool {
    let is_hex = part.chars().all(|digit| digit.is_ascii_hexdigit());
    // Words in a name are seldom of all three kinds.
    let is_mixed = part.contains(|c: char| c.is_ascii_digit())
        && part.contains(|c: char| c.is_ascii_lowercase())
        && part.contains(|c: char| c.is_ascii_uppercase());
    (is_hex && part.len() >= RANDOM_HEX_DIGITS) || (is_mixed && part.len() >= RANDOM_CHARACTERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_128_random_bits_is_told_from_one_that_can_be_guessed() {
        for name in [
            "acme/9f86d081884c7d659a2feaa0c55ad015",
            "acme/_/order-1/9f86d081884c7d659a2feaa0c55ad015",
            "acme/1b4e28ba-2fa1-41d2-883f-0016d3cca427",
            "acme/V1StGXR8Z5jdHi6BmyT3Qa",
        ] {
            assert!(has_random_part(name), "{name}");
        }
        for name in [
            "acme/large-1",
            "acme/_/order-2026-12-01-of-customer-number-4711",
            "acme/9f86d081",
            "acme/",
        ] {
            assert!(!has_random_part(name), "{name}");
        }
    }
}
