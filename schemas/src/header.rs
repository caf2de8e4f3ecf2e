//! The headers that Forebay reads and writes.

/// The header of a job that requests another answer where the identity's last one failed. It
/// contains the number of the answer: 2 for the second.
pub const REVISION_HEADER: &str = "Forebay-Revision";
/// The header of a dead letter that contains the subject on which its message came.
pub const SUBJECT_HEADER: &str = "Forebay-Subject";
/// The header of a dead letter that contains all known facts about its job, as JSON.
pub const DEAD_LETTER_HEADER: &str = "Forebay-Dead-Letter";
/// The header by which a publisher requests a copy of the completion. Many NATS programs use this
/// name.
pub const REPLY_TO_HEADER: &str = "Nats-Reply-To";
/// The header by which a server recognises duplicates. A server compares it over all teams, so Forebay sets none.
pub const MESSAGE_ID_HEADER: &str = "Nats-Msg-Id";
/// The header that identifies the request that a completion answers.
pub const FINGERPRINT_HEADER: &str = "Forebay-Fingerprint";
/// The header that identifies the message that a completion answers.
pub const MESSAGE_HEADER: &str = "Forebay-Message";
/// The header that names the object with the job or the completion, where no message can hold it.
/// The object's name begins with the team's name and a slash.
pub const OBJECT_HEADER: &str = "Forebay-Object";
/// The header of a value of Forebay's own state: a code over its subject and its bytes, which no other program can compute.
pub const TAG_HEADER: &str = "Forebay-Tag";
/// The headers with which the server marks a copy of a message, as a direct get or a republish makes it.
pub const COPY_HEADERS: [&str; 3] = ["Nats-Subject", "Nats-Sequence", "Nats-Stream"];
/// The header of a reply without a result: the worker has the job and calls it, or will.
pub const IN_PROGRESS_HEADER: &str = "Forebay-In-Progress";
