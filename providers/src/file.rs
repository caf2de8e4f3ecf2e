//! A file that a job names instead of having its bytes.

use forebay_schemas::Job;
use serde::Deserialize;

use crate::WorkKind;

/// The field of a body that is a file.
pub const FILE: &str = "file";

/// A file that a job names instead of having its bytes: an object, which stays its publisher's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReference {
    /// The object's name.
    pub object: String,
    /// What the provider is told that the file is called.
    pub filename: Option<String>,
}

/// The file that a job names, if it does.
pub fn file_of(job: &Job) -> Option<FileReference> {
    let file = job
        .body
        .get(FILE)
        .filter(|_| WorkKind::of(&job.url) == Some(WorkKind::Transcription))?;
    serde_json::from_str(file.get()).ok()
}
