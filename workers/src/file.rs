//! A file that a job names instead of having its bytes.

use forebay_schemas::Job;
use serde::Deserialize;

use crate::provider::Kind;

/// The field of a body that is a file.
pub(crate) const FILE: &str = "file";

/// A file that a job names instead of having its bytes: an object, which stays its publisher's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileReference {
    /// The object's name.
    pub(crate) object: String,
    /// What the provider is told that the file is called.
    pub(crate) filename: Option<String>,
}

/// The file that a job names, if it does.
pub(crate) fn file_of(job: &Job) -> Option<FileReference> {
    let file = job
        .body
        .get(FILE)
        .filter(|_| Kind::of(&job.url) == Some(Kind::Transcription))?;
    serde_json::from_str(file.get()).ok()
}
