//! Deletes messages that other programs had the server write among Forebay's own.

use forebay_schemas::Names;
use futures::TryStreamExt;

use super::{JetStreamQueue, unavailable};
use crate::queue::Error;

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
                if !tags.has_code(&subject) {
                    let purged = stream.purge().filter(&subject).await;
                    purged.map_err(unavailable)?;
                    deleted += 1;
                }
            }
        }
        Ok(deleted)
    }
}
