//! The payload of a job: its message, or the object that the message names, which is fetched first; and the file that the
//! job names.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use forebay_schemas::subjects::is_object_of;
use forebay_schemas::{Flow, Job};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::job::delivery::HeldDelivery;
use crate::large::{run_blocking_if_large, short};
use crate::outcome::outcome::Rejection;
use crate::queue::{Delivery, Queue};
use crate::until_done::retry_until_done;
use crate::worker_state::WorkerState;
use forebay_providers::{FILE, FileReference, file_of};

/// The code of a job whose object is not there.
const GONE: &str = "object_gone";

/// Where a job is read from.
#[derive(Debug)]
pub(crate) enum JobPayload {
    /// The message itself.
    Message,
    /// The object that the message names.
    Object(Bytes),
    /// There is no object of that name, or it may not be read.
    Missing(Rejection),
}

impl JobPayload {
    /// The bytes of the job.
    pub(crate) fn of<'a>(&'a self, delivery: &'a Delivery) -> &'a [u8] {
        match self {
            JobPayload::Object(bytes) => bytes,
            JobPayload::Message | JobPayload::Missing(_) => &delivery.payload,
        }
    }
}

/// Returns true if a job was rejected because its object is not there.
pub(crate) fn is_gone((code, _): &Rejection) -> bool {
    *code == GONE
}

/// Fetches the object that holds a job, once there is memory for it.
pub(crate) async fn fetch<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    flow: &Flow,
    object: String,
    held: &mut HeldDelivery,
) -> JobPayload {
    held.object = is_object_of(&object, &flow.team).then(|| object.clone());
    match bytes_of(state, flow, &object, held, |size| size).await {
        Ok(bytes) => JobPayload::Object(bytes),
        Err(refusal) => JobPayload::Missing(refusal),
    }
}

/// Bytes of memory that so many bytes take in base64.
fn in_base64(size: usize) -> usize {
    size / 3 * 4
}

/// Fetches an object of the flow's team, once there is memory for it. `added` maps its size to the bytes that it adds to the
/// job.
async fn bytes_of<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    flow: &Flow,
    object: &str,
    held: &mut HeldDelivery,
    added: impl Fn(usize) -> usize,
) -> Result<Bytes, Rejection> {
    let team = &flow.team;
    if !is_object_of(object, team) {
        let message = format!(
            "the object `{}` is not the team's; its name must begin with `{team}/` and have at most 512 bytes",
            short(object)
        );
        return Err(("invalid_object", message));
    }
    let gone = || {
        let message =
            format!("there is no whole object `{object}`; put it before the message that names it");
        (GONE, message)
    };
    let size = retry_until_done("looking for an object", || state.queue.object_size(object)).await;
    let size = size.ok_or_else(gone)?;
    if size > state.max_request {
        let most = state.max_request;
        let message = format!(
            "the object `{object}` has {size} bytes, more than max_request of {most} in [call]"
        );
        return Err(("request_too_large", message));
    }
    held.reserve_memory(&state.memory, flow, added(size)).await;
    retry_until_done("fetching an object", || state.queue.object(object))
        .await
        .ok_or_else(gone)
}

/// Puts the bytes of the file that a job names into it.
pub(crate) async fn attach<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    job: &mut Job,
    flow: &Flow,
    held: &mut HeldDelivery,
) -> Result<(), Rejection> {
    let Some(FileReference { object, filename }) = file_of(job) else {
        return Ok(());
    };
    let bytes = bytes_of(state, flow, &object, held, in_base64).await?;
    let named = object.rsplit('/').next().unwrap_or_default().to_owned();
    let filename = filename.unwrap_or(named);
    let file = run_blocking_if_large(bytes.len(), || file_field(&bytes, filename));
    let file = file.map_err(|error| ("invalid_object", error.to_string()))?;
    job.body.insert(FILE.to_owned(), file);
    Ok(())
}

/// A file as a field of a job's body. The text is moved, not copied: it may be large.
fn file_field(bytes: &[u8], filename: String) -> serde_json::Result<Box<RawValue>> {
    let mut file = Map::new();
    file.insert("data".to_owned(), BASE64_STANDARD.encode(bytes).into());
    file.insert("filename".to_owned(), filename.into());
    to_raw_value(&Value::Object(file))
}
