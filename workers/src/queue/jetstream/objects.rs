//! Jobs and completions that no message can hold: kept in NATS object stores, and named by a message's header.

use std::io;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::object_store::{
    DeleteErrorKind, GetErrorKind, InfoErrorKind, ObjectInfo, ObjectMetadata, ObjectStore,
};
use bytes::Bytes;
use forebay_schemas::{Completion, Names};
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;

use super::unavailable;
use crate::queue::Error;

/// Bytes of one message of an object, where the server takes so many.
const CHUNK: usize = 128 * 1024;
/// A chunk that does not come for so long is lost.
const SILENCE: Duration = Duration::from_secs(30);

/// An object store.
#[derive(Debug, Clone)]
pub struct Objects {
    context: Context,
    bucket: String,
    chunk: usize,
}

impl Objects {
    /// The jobs that no message can hold. `max_payload` is the server's.
    pub fn of_requests(context: &Context, names: &Names, max_payload: usize) -> Self {
        Self::new(context, names.requests_bucket(), max_payload)
    }

    /// The completions that no message can hold.
    pub fn of_answers(context: &Context, names: &Names, max_payload: usize) -> Self {
        Self::new(context, names.answers_bucket(), max_payload)
    }

    fn new(context: &Context, bucket: String, max_payload: usize) -> Self {
        Self { context: context.clone(), bucket, chunk: CHUNK.min(max_payload) }
    }

    async fn store(&self) -> Result<ObjectStore, Error> {
        self.context.get_object_store(&self.bucket).await.map_err(unavailable)
    }

    /// Keeps an object; it replaces one of the same name.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn put(&self, name: &str, bytes: &Bytes) -> Result<(), Error> {
        let meta = ObjectMetadata {
            name: name.to_owned(),
            chunk_size: Some(self.chunk),
            ..ObjectMetadata::default()
        };
        self.store().await?.put(meta, &mut bytes.as_ref()).await.map_err(unavailable)?;
        Ok(())
    }

    /// How many bytes an object has; `None` if there is none of this name.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn size(&self, name: &str) -> Result<Option<usize>, Error> {
        Ok(described(&self.store().await?, name).await?.map(|info| info.size))
    }

    /// A whole object; `None` if there is none of this name, or it is damaged.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let store = self.store().await?;
        let Some(info) = described(&store, name).await? else { return Ok(None) };
        let mut object = match store.get(name).await {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let mut bytes = Vec::with_capacity(info.size);
        loop {
            match tokio::time::timeout(SILENCE, object.read_buf(&mut bytes)).await {
                Ok(Ok(0)) => return Ok(Some(bytes.into())),
                Ok(Ok(_)) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
                Ok(Err(error)) => return Err(unavailable(error)),
                Err(_) => return Err(unavailable(format!("the object `{name}` does not come"))),
            }
        }
    }

    /// Deletes an object, if it is there.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.store().await?.delete(name).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == DeleteErrorKind::NotFound => Ok(()),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Keeps a completion, under a name that no other has; returns the name.
    ///
    /// # Errors
    /// When the server does not take it.
    pub(super) async fn keep(
        &self,
        names: &Names,
        completion: &Completion,
        whole: &Bytes,
    ) -> Result<String, Error> {
        let name = names.answer_object(&completion.identity(), whole);
        // One that is there is not put again: somebody may be reading it.
        if self.size(&name).await? != Some(whole.len()) {
            self.put(&name, whole).await?;
        }
        Ok(name)
    }

    /// The whole completion that a message names with `object`; the message's own if the object is gone.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn whole(&self, completion: Completion, object: Option<&str>) -> Result<Completion, Error> {
        let Some(object) = object else { return Ok(completion) };
        let whole = self.get(object).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // What is put where another's message points to is no answer to this.
        let whole = whole.filter(|whole: &Completion| whole.identity() == completion.identity());
        Ok(whole.unwrap_or(completion))
    }
}

/// What is known of an object. A link is none: it would read what another name stands for.
async fn described(store: &ObjectStore, name: &str) -> Result<Option<ObjectInfo>, Error> {
    match store.info(name).await {
        Ok(info) if info.deleted || info.options.as_ref().is_some_and(|options| options.link.is_some()) => {
            Ok(None)
        }
        Ok(info) => Ok(Some(info)),
        Err(error) if matches!(error.kind(), InfoErrorKind::NotFound | InfoErrorKind::InvalidName) => {
            Ok(None)
        }
        // It describes nothing, and would not the next time. The client has no kind of its own for this.
        Err(error) if error.to_string().contains("failed to decode") => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

/// What a message can hold of a completion that is larger: all but the answer's body and the metadata.
pub(super) fn without_body(completion: &Completion) -> Completion {
    let mut rest = Completion { metadata: None, ..completion.clone() };
    if let Some(response) = &mut rest.response {
        response.body = RawValue::NULL.to_owned();
    }
    rest
}
