//! Jobs and completions that no message can hold. NATS object stores keep them, and a header of the message names the
//! object.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::object_store::{
    DeleteErrorKind, InfoErrorKind, ObjectInfo, ObjectMetadata, ObjectStore,
};
use async_nats::jetstream::stream::{
    DirectGetErrorKind, DiscardPolicy, LastRawMessageErrorKind, Stream,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE as URL_SAFE;
use bytes::Bytes;
use forebay_schemas::header::{COPY_HEADERS, OBJECT_HEADER};
use forebay_schemas::{Completion, Names};
use futures::TryStreamExt;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::{text_of, unavailable};
use crate::queue::Error;

/// Size of an object's chunks in bytes, if the server takes messages of that size.
const CHUNK_SIZE: usize = 128 * 1024;
/// Bytes for which a buffer is made before the chunks come. The description that states an object's size may be wrong.
const MAX_BUFFER_RESERVED: usize = 64 << 20;
/// Bytes that are reserved beside an object's own: for its description, and for objects that are put at the same time.
const RESERVED_BYTES: usize = 64 * 1024;
/// Longest wait for an object's next chunk.
const MAX_CHUNK_WAIT: Duration = Duration::from_secs(15);
/// Messages in the place of an object's description that are deleted at once.
const MAX_FOREIGN_AT_ONCE: usize = 64;
/// The header of a description that an object store wrote: it replaces the description before.
const ROLLUP_HEADER: &str = "Nats-Rollup";
/// Limit of attempts to fetch an object whose chunks do not come.
const FETCH_ATTEMPTS: usize = 2;
/// Pause after each of them.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// A NATS object store.
#[derive(Debug, Clone)]
pub struct Objects {
    context: Context,
    bucket: String,
    stream: String,
    chunk_size: usize,
}

impl Objects {
    /// Returns the store of the jobs that no message can hold. `max_payload` is the server's largest payload, in bytes.
    pub fn of_requests(context: &Context, names: &Names, max_payload: usize) -> Self {
        Self::new(context, names.requests_bucket(), max_payload)
    }

    /// Returns the store of the completions that no message can hold. `max_payload` is the server's largest payload, in
    /// bytes.
    pub fn of_answers(context: &Context, names: &Names, max_payload: usize) -> Self {
        Self::new(context, names.answers_bucket(), max_payload)
    }

    fn new(context: &Context, bucket: String, max_payload: usize) -> Self {
        let stream = Names::bucket_stream(&bucket);
        Self {
            context: context.clone(),
            bucket,
            stream,
            chunk_size: CHUNK_SIZE.min(max_payload),
        }
    }

    async fn store(&self) -> Result<ObjectStore, Error> {
        let store = self.context.get_object_store(&self.bucket);
        store.await.map_err(unavailable)
    }

    /// Returns the names of all objects.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub async fn names(&self) -> Result<Vec<String>, Error> {
        let [_, descriptions] = Names::bucket_subjects(&self.bucket);
        let described = subjects(&self.messages().await?, &descriptions).await?;
        let name = |subject: &String| {
            let name = URL_SAFE.decode(subject.rsplit('.').next()?).ok()?;
            String::from_utf8(name).ok()
        };
        Ok(described.iter().filter_map(name).collect())
    }

    /// Stores an object, which replaces one of the same name.
    ///
    /// # Errors
    /// Fails if the store is full, or the server does not take the object.
    pub async fn put(&self, name: &str, bytes: &Bytes) -> Result<(), Error> {
        let meta = ObjectMetadata {
            name: name.to_owned(),
            chunk_size: Some(self.chunk_size),
            ..ObjectMetadata::default()
        };
        self.check_room(bytes.len()).await?;
        self.delete_foreign(name).await?;
        let store = self.store().await?;
        let mut content = bytes.as_ref();
        let stored = store.put(meta, &mut content).await;
        stored.map(drop).map_err(unavailable)
    }

    /// Fails if the store has no room for an object of `size` bytes. This is checked first, because the chunks of an
    /// object that does not fit would stay.
    async fn check_room(&self, size: usize) -> Result<(), Error> {
        let stream = self.context.get_stream(&self.stream);
        let stream = stream.await.map_err(unavailable)?;
        let info = stream.cached_info();
        let needed = info.state.bytes + (size + size / 50 + RESERVED_BYTES) as u64;
        let most = u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX);
        if info.config.discard == DiscardPolicy::New && needed > most {
            return Err(unavailable(format!(
                "the object store {} is full ({most} bytes)",
                self.bucket
            )));
        }
        Ok(())
    }

    /// Returns the size of an object in bytes; `None` if there is none of this name.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub async fn size(&self, name: &str) -> Result<Option<usize>, Error> {
        self.delete_foreign(name).await?;
        let store = self.store().await?;
        let info = described(&store, name).await?;
        Ok(info.map(|info| info.size))
    }

    /// Returns a whole object; `None` if there is none of this name, or it is damaged.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        self.delete_foreign(name).await?;
        let store = self.store().await?;
        // Chunks that do not come may be late once, or be gone.
        for _ in 0..FETCH_ATTEMPTS {
            let Some(info) = described(&store, name).await? else {
                return Ok(None);
            };
            if let FetchedObject::All(bytes) = self.fetch(&info).await? {
                return Ok(bytes);
            }
            tokio::time::sleep(FETCH_PAUSE).await;
        }
        warn!(
            name,
            "an object's chunks do not come, so it counts as damaged"
        );
        Ok(None)
    }

    /// Fetches the chunks of an object one by one. A subscription would be sent them all at once, and a server ends the
    /// connection of a client that lets too many bytes wait.
    async fn fetch(&self, info: &ObjectInfo) -> Result<FetchedObject, Error> {
        let stream = self.messages().await?;
        let subject = format!("$O.{}.C.{}", self.bucket, info.nuid);
        let (mut bytes, mut digest) = (
            Vec::with_capacity(info.size.min(MAX_BUFFER_RESERVED)),
            Sha256::new(),
        );
        let mut next = 1;
        while bytes.len() < info.size {
            let chunk = stream.direct_get_next_for_subject(subject.as_str(), Some(next));
            let chunk = match tokio::time::timeout(MAX_CHUNK_WAIT, chunk).await {
                Ok(Ok(chunk)) => chunk,
                // A replica that answers may not have it yet.
                Ok(Err(error)) if error.kind() == DirectGetErrorKind::NotFound => {
                    return Ok(FetchedObject::Stalled);
                }
                Ok(Err(error)) => return Err(unavailable(error)),
                Err(_) => return Ok(FetchedObject::Stalled),
            };
            next = chunk.sequence + 1;
            digest.update(&chunk.payload);
            bytes.extend_from_slice(&chunk.payload);
        }
        let digest = format!("SHA-256={}", URL_SAFE.encode(digest.finalize()));
        let is_whole = bytes.len() == info.size && info.digest.as_ref() == Some(&digest);
        Ok(FetchedObject::All(is_whole.then(|| bytes.into())))
    }

    /// Deletes the chunks of objects that were never completed, if their last chunk came before `before`. A publisher
    /// that ends while it puts an object leaves such chunks. Returns the number of these objects.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub async fn sweep(&self, before: Timestamp) -> Result<usize, Error> {
        let stream = self.messages().await?;
        let [chunks, descriptions] = Names::bucket_subjects(&self.bucket);
        // Chunks are listed first: an object that is completed meanwhile has a description by then.
        let chunks = subjects(&stream, &chunks).await?;
        let mut whole = HashSet::new();
        for description in subjects(&stream, &descriptions).await? {
            delete_foreign(&stream, &description).await?;
            let Some(message) = last_on(&stream, &description).await? else {
                continue;
            };
            let described = serde_json::from_slice::<ObjectInfo>(&message.payload);
            whole.extend(described.map(|info| info.nuid));
        }
        let mut swept = 0;
        for subject in chunks {
            let name = subject.rsplit('.').next();
            if whole.contains(name.unwrap_or_default()) {
                continue;
            }
            let Some(last) = last_on(&stream, &subject).await? else {
                continue;
            };
            if last.time.unix_timestamp() < before.as_second() {
                let purged = stream.purge().filter(&subject);
                purged.await.map_err(unavailable)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Deletes an object, if it exists.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        self.delete_foreign(name).await?;
        let store = self.store().await?;
        match store.delete(name).await {
            Ok(()) => {}
            Err(error) if error.kind() == DeleteErrorKind::NotFound => {}
            Err(error) => return Err(unavailable(error)),
        }
        // The mark that the client leaves has no use: no name is used twice.
        let purged = self.messages().await?.purge();
        let purged = purged.filter(self.description(name)).await;
        purged.map(drop).map_err(unavailable)
    }

    async fn messages(&self) -> Result<Stream<()>, Error> {
        let stream = self.context.get_stream_no_info(&self.stream);
        stream.await.map_err(unavailable)
    }

    /// Returns the subject of an object's description, as NATS clients derive it from its name.
    fn description(&self, name: &str) -> String {
        format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(name))
    }

    /// Deletes what no object store wrote in the place of an object's description.
    async fn delete_foreign(&self, name: &str) -> Result<(), Error> {
        delete_foreign(&self.messages().await?, &self.description(name)).await
    }

    /// Stores a completion under a name that no other completion has. Returns the name.
    ///
    /// # Errors
    /// Fails if the store is full, or the server does not take the object.
    pub(super) async fn keep(
        &self,
        names: &Names,
        completion: &Completion,
        whole: &Bytes,
    ) -> Result<String, Error> {
        let Completion {
            team, batch, id, ..
        } = completion;
        let name = names.answer_object(team, batch.as_deref(), id, whole);
        // An object that exists is not put again, because it may be read at this moment.
        if self.size(&name).await? != Some(whole.len()) {
            self.put(&name, whole).await?;
        }
        Ok(name)
    }

    /// Returns the whole completion of a message that may name an object. `None` if the object is gone or damaged, or
    /// holds the completion of another identity.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub async fn whole(
        &self,
        completion: Completion,
        object: Option<&str>,
    ) -> Result<Option<Completion>, Error> {
        let Some(object) = object else {
            return Ok(Some(completion));
        };
        let whole = self.get(object).await?;
        let whole = whole.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // An object can be put under a name that this message has, and still be of another identity.
        Ok(whole.filter(|whole: &Completion| whole.identity() == completion.identity()))
    }
}

/// Returns the name of the object that a message's headers name; `None` if they name none.
pub fn object_of(headers: Option<&HeaderMap>) -> Option<String> {
    text_of(headers?, OBJECT_HEADER)
}

/// Returns the subjects of a stream that match `filter`.
async fn subjects(stream: &Stream<()>, filter: &str) -> Result<Vec<String>, Error> {
    let listed = stream.info_with_subjects(filter).await;
    let subjects = listed.map_err(unavailable)?.map_ok(|(subject, _)| subject);
    subjects.try_collect().await.map_err(unavailable)
}

/// Returns the last message on `subject`; `None` if there is none.
async fn last_on(stream: &Stream<()>, subject: &str) -> Result<Option<StreamMessage>, Error> {
    match stream.direct_get_last_for_subject(subject).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

/// Deletes the last messages on the subject of a description, as long as no object store wrote them.
///
/// The server publishes the acknowledgement of a message to any subject that its publisher names, with its own rights. One
/// that is aimed at a description would hide it from every client. An object store replaces the description by a roll-up,
/// which an acknowledgement is not, so the true one is still there.
async fn delete_foreign(stream: &Stream<()>, subject: &str) -> Result<(), Error> {
    for _ in 0..MAX_FOREIGN_AT_ONCE {
        let last = match stream.get_last_raw_message_by_subject(subject).await {
            Ok(last) => last,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(()),
            Err(error) => return Err(unavailable(error)),
        };
        let is_copy = COPY_HEADERS
            .iter()
            .any(|name| last.headers.get(*name).is_some());
        if !is_copy && last.headers.get(ROLLUP_HEADER).is_some() {
            return Ok(());
        }
        warn!(
            subject,
            "a message that no object store wrote hid an object, and is deleted"
        );
        let deleted = stream.delete_message(last.sequence).await;
        deleted.map_err(unavailable)?;
    }
    Err(unavailable("other messages hide an object all the time"))
}

enum FetchedObject {
    /// The whole object; `None` if it is gone or damaged.
    All(Option<Bytes>),
    /// The next chunk did not come in time.
    Stalled,
}

/// Returns the description of an object; `None` if there is none. A link counts as none, because it would return the
/// object of another name.
async fn described(store: &ObjectStore, name: &str) -> Result<Option<ObjectInfo>, Error> {
    match store.info(name).await {
        Ok(info) => {
            let options = info.options.as_ref();
            let is_link = options.is_some_and(|options| options.link.is_some());
            let is_there = !info.deleted && !is_link;
            Ok(is_there.then_some(info))
        }
        Err(error)
            if matches!(
                error.kind(),
                InfoErrorKind::NotFound | InfoErrorKind::InvalidName
            ) =>
        {
            Ok(None)
        }
        // The description cannot be decoded, and a retry would not change that. The client has no error kind for this.
        Err(error) if error.to_string().contains("failed to decode") => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}
