//! Deletes messages that other programs had the server write among Forebay's own.

use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use forebay_schemas::Names;
use forebay_schemas::header::TAG_HEADER;
use futures::TryStreamExt;

use super::{JetStreamQueue, unavailable};
use crate::queue::Error;

/// Returns true if the last message on a subject has a tag. Acknowledgements of the server have none. A message with the tag
/// of another secret is kept: the stream may have lost its own.
async fn has_tag(stream: &Stream<()>, subject: &str) -> Result<bool, Error> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => Ok(message.headers.get(TAG_HEADER).is_some()),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(true),
        Err(error) => Err(unavailable(error)),
    }
}

impl JetStreamQueue {
    /// Deletes messages on subjects of scheduled jobs and of records of calls whose last token is not Forebay's code.
    /// Returns the number of these subjects.
    ///
    /// # Errors
    /// Fails if the streams cannot be read or written.
    pub async fn delete_foreign(&self) -> Result<usize, Error> {
        let tags = self.schedule_tags().await?;
        let names: &Names = &self.names;
        let mut deleted = 0;
        for (stream, filter) in [
            (names.scheduled_stream(), names.all_scheduled()),
            (names.attempts_stream(), names.all_attempts()),
        ] {
            let stream = self.stream(stream).await?;
            let listed = stream.info_with_subjects(filter).await;
            let subjects = listed.map_err(unavailable)?;
            let subjects: Vec<_> = subjects.try_collect().await.map_err(unavailable)?;
            for (subject, _) in subjects {
                if !tags.has_code(&subject) && !has_tag(&stream, &subject).await? {
                    let purged = stream.purge().filter(&subject).await;
                    purged.map_err(unavailable)?;
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }
}
