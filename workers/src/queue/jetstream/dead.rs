//! Dead letters: the message as it came, with the facts about it in headers.

use async_nats::HeaderMap;
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::context::PublishErrorKind;
use bytes::Bytes;
use forebay_schemas::header::{DEAD_LETTER_HEADER, OBJECT_HEADER, SUBJECT_HEADER};
use forebay_schemas::subjects::is_object_of;

use super::{JetStreamQueue, one_line, publish_stored, traced, unavailable};
use crate::queue::{DeadLetter, DeadLetterMeta, Error};

/// Longest reason in the header of its own, in characters.
const LONGEST_REASON: usize = 500;

/// The server's largest payload divided by this is the largest message that a dead letter holds itself. To be shown,
/// the message must fit in an answer, where some bytes are encoded as six.
const PAYLOAD_DIVISOR: usize = 8;

/// Keeps a dead letter: the message as it came or, if that is large, the object that holds it.
pub(super) async fn publish_dead_letter(
    queue: &JetStreamQueue,
    dead: DeadLetter,
) -> Result<(), Error> {
    let DeadLetter {
        mut letter,
        delivery,
    } = dead;
    let names = &queue.names;
    let subject = names.dead(&letter.pool, &letter.team);
    let mut headers = traced(delivery.traceparent.as_deref());
    let reason = letter.reason();
    let reason: String = reason.chars().take(LONGEST_REASON).collect();
    let attempts = letter.attempts.len();
    headers.insert("Forebay-Reason", one_line(&reason));
    headers.insert(SUBJECT_HEADER, one_line(&delivery.subject));
    headers.insert("Forebay-Attempts", attempts.to_string());
    headers.insert(DEAD_LETTER_HEADER, json(&letter)?);
    // The server keeps one letter of several for the same delivery.
    headers.insert(NATS_MESSAGE_ID, delivery.unique_id.as_str());
    let mut payload = delivery.payload;
    // This letter must neither show nor delete the object of another team.
    let mut object = delivery
        .object
        .filter(|object| is_object_of(object, &letter.team));
    if payload.len() > queue.client.max_payload() / PAYLOAD_DIVISOR {
        if object.is_none() {
            let id = format!("dead-{}", delivery.unique_id);
            let name = names.object(&letter.team, None, &id);
            queue.requests.put(&name, &payload).await?;
            object = Some(name);
        }
        payload = Bytes::new();
    }
    if let Some(object) = object {
        headers.insert(OBJECT_HEADER, one_line(&object));
    }
    if publish(queue, &subject, &headers, payload.clone()).await? {
        return Ok(());
    }
    // The server takes only very small messages. The completion holds the calls as well.
    letter.attempts.clear();
    headers.insert(DEAD_LETTER_HEADER, json(&letter)?);
    match publish(queue, &subject, &headers, payload).await? {
        true => Ok(()),
        false => Err(unavailable("a dead letter is larger than the server takes")),
    }
}

fn json(letter: &DeadLetterMeta) -> Result<String, Error> {
    serde_json::to_string(letter).map_err(unavailable)
}

/// Publishes a dead letter. Returns false if it is larger than the server takes.
async fn publish(
    queue: &JetStreamQueue,
    subject: &str,
    headers: &HeaderMap,
    payload: Bytes,
) -> Result<bool, Error> {
    let (subject, headers) = (subject.to_owned(), headers.clone());
    match publish_stored(&queue.context, subject, headers, payload).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => Ok(false),
        Err(error) => Err(unavailable(error)),
    }
}
