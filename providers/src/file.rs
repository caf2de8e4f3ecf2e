//! A file that a job names instead of containing its bytes.

use forebay_schemas::Job;
use serde::Deserialize;

use crate::kind::WorkKind;

/// The field of a body that holds a file.
pub const FILE: &str = "file";

/// A reference to a file whose bytes are not in the job: an object, which remains its publisher's.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReference {
    /// The object's name.
    pub object: String,
    /// The name of the file that is sent to the provider; `None` for the object's own.
    pub filename: Option<String>,
}

/// Returns the file that a transcription names; `None` if it names none.
pub fn file_of(job: &Job) -> Option<FileReference> {
    let file = job
        .body
        .get(FILE)
        .filter(|_| WorkKind::of(&job.url) == Some(WorkKind::Transcription))?;
    serde_json::from_str(file.get()).ok()
}
