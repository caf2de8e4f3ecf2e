//! The headers that Forebay reads and writes.

/// The header of a job that asks for another answer where the identity's last one failed: the number of the
/// answer, 2 for the second.
pub const REVISION_HEADER: &str = "Forebay-Revision";
/// The header of a dead letter that names the subject its message came on.
pub const SUBJECT_HEADER: &str = "Forebay-Subject";
/// The header of a dead letter with all that is known of its job, as JSON.
pub const DEAD_LETTER_HEADER: &str = "Forebay-Dead-Letter";
/// Header by which a publisher asks for a copy of the completion; many NATS programs use this name.
pub const REPLY_TO_HEADER: &str = "Nats-Reply-To";
/// Header that says which request a completion answers.
pub const FINGERPRINT_HEADER: &str = "Forebay-Fingerprint";
/// Header that says which message a completion answers.
pub const MESSAGE_HEADER: &str = "Forebay-Message";
/// Header that names the object that holds the job, or the completion, which no message can hold. It begins with
/// the team's name and a slash.
pub const OBJECT_HEADER: &str = "Forebay-Object";
/// On the answer that there is no result: the worker has the job and calls it, or will.
pub const IN_PROGRESS_HEADER: &str = "Forebay-In-Progress";
