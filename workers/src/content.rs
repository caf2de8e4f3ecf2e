//! What a message asks: itself, or the object that it names, which is fetched before anything is read.

use bytes::Bytes;
use forebay_schemas::subjects::{OBJECT_HEADER, is_object_of};

use crate::admit::Refusal;
use crate::claim::Claim;
use crate::engine::Engine;
use crate::finish::retry_until_done;
use crate::large::short;
use crate::queue::{Delivery, Queue};

/// The code of a job whose object is not there.
const GONE: &str = "object_gone";

/// Where a job is read from.
#[derive(Debug)]
pub(crate) enum Content {
    /// The message itself.
    Message,
    /// The object that it names.
    Object(Bytes),
    /// Nowhere.
    Missing(Refusal),
}

impl Content {
    /// The bytes of the job.
    pub(crate) fn of<'a>(&'a self, delivery: &'a Delivery) -> &'a [u8] {
        match self {
            Content::Object(bytes) => bytes,
            Content::Message | Content::Missing(_) => &delivery.payload,
        }
    }
}

/// Whether a job was refused because its object is not there.
pub(crate) fn is_gone((code, _): &Refusal) -> bool {
    *code == GONE
}

/// Fetches the object that holds a job, when the stage has room for it.
pub(crate) async fn fetch<Q: Queue, U>(
    engine: &Engine<Q, U>,
    team: &str,
    object: String,
    claim: &mut Claim,
) -> Content {
    if !is_object_of(&object, team) {
        let message = format!(
            "{OBJECT_HEADER} `{}` is not the team's; its name must begin with `{team}/` and have at most 512 bytes",
            short(&object)
        );
        return Content::Missing(("invalid_object", message));
    }
    claim.object = Some(object.clone());
    let gone = || {
        let message = format!(
            "there is no whole object `{object}`; put it before its message is published, for this job alone"
        );
        Content::Missing((GONE, message))
    };
    let size = retry_until_done("looking for a job's object", || engine.queue.object_size(&object)).await;
    let Some(size) = size else { return gone() };
    if size > engine.max_request {
        let most = engine.max_request;
        let message =
            format!("the object `{object}` has {size} bytes, more than max_request of {most} in [call]");
        return Content::Missing(("request_too_large", message));
    }
    claim.make_room(size).await;
    let bytes = retry_until_done("fetching a job's object", || engine.queue.object(&object)).await;
    bytes.map_or_else(gone, Content::Object)
}
