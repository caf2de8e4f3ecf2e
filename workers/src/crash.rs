//! Points between the steps of a job: each is logged, and a test can end the process there, as a crash would. A release
//! only logs.

use std::fmt;

use tracing::debug;

/// A point between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A delivery came; nothing of it is read.
    Delivered,
    /// The object that holds the job is fetched.
    Fetched,
    /// It is a job that will be called.
    Admitted,
    /// It has its permit.
    Permitted,
    /// The call is journalled.
    Journalled,
    /// The connection takes the request.
    Sending,
    /// The answer is here; nothing of it is read.
    Answered,
    /// It is known what the answer means.
    Classified,
    /// It is known what is done about it, and the permit is settled.
    Decided,
    /// The result is handed to the store, and not synced.
    Written,
    /// The result is stored.
    Stored,
    /// What no message can hold of the completion is kept.
    Kept,
    /// The completion is published.
    Completed,
    /// The dead letter is published.
    Buried,
    /// Copies are sent.
    Copied,
    /// The job is acknowledged.
    Acked,
    /// The object that held the job is deleted.
    Dropped,
    /// The job is to be postponed.
    Postponing,
    /// Its schedule is published.
    Scheduled,
    /// It is postponed, and its delivery acknowledged.
    Postponed,
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CrashPoint::Delivered => "delivered",
            CrashPoint::Fetched => "object fetched",
            CrashPoint::Admitted => "admitted",
            CrashPoint::Permitted => "permit granted",
            CrashPoint::Journalled => "attempt journalled",
            CrashPoint::Sending => "request sent",
            CrashPoint::Answered => "answer received",
            CrashPoint::Classified => "answer classified",
            CrashPoint::Decided => "verdict reached",
            CrashPoint::Written => "result written",
            CrashPoint::Stored => "result synced",
            CrashPoint::Kept => "completion object stored",
            CrashPoint::Completed => "completion published",
            CrashPoint::Buried => "dead letter published",
            CrashPoint::Copied => "copies sent",
            CrashPoint::Acked => "delivery acknowledged",
            CrashPoint::Dropped => "object deleted",
            CrashPoint::Postponing => "to be postponed",
            CrashPoint::Scheduled => "schedule published",
            CrashPoint::Postponed => "postponed",
        })
    }
}

#[cfg(feature = "crash-points")]
impl CrashPoint {
    /// All of them, in the order of the way.
    pub const ALL: [CrashPoint; 20] = [
        CrashPoint::Delivered,
        CrashPoint::Fetched,
        CrashPoint::Admitted,
        CrashPoint::Permitted,
        CrashPoint::Journalled,
        CrashPoint::Sending,
        CrashPoint::Answered,
        CrashPoint::Classified,
        CrashPoint::Decided,
        CrashPoint::Written,
        CrashPoint::Stored,
        CrashPoint::Kept,
        CrashPoint::Completed,
        CrashPoint::Buried,
        CrashPoint::Copied,
        CrashPoint::Acked,
        CrashPoint::Dropped,
        CrashPoint::Postponing,
        CrashPoint::Scheduled,
        CrashPoint::Postponed,
    ];
}

/// The environment variable that names the point at which the process ends, as `Point` prints it, and
/// after a colon at which passage, the first being 1.
#[cfg(feature = "crash-points")]
pub const AT: &str = "FOREBAY_CRASH_AT";

/// The environment variable that names what of a job ends the process, `reading` or `calling`, and after a colon
/// a text that the job's message has in it.
#[cfg(feature = "crash-points")]
pub const OVER: &str = "FOREBAY_CRASH_OVER";

/// Ends the process, if it is to end over this message.
#[cfg(feature = "crash-points")]
pub(crate) fn over(work: &str, message: &[u8]) {
    use std::sync::OnceLock;

    static CHOSEN: OnceLock<Option<(String, String)>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var(OVER).ok()?;
        let (work, mark) = text.split_once(':')?;
        Some((work.to_owned(), mark.to_owned()))
    });
    if let Some((chosen, mark)) = chosen
        && chosen == work
        && message
            .windows(mark.len())
            .any(|part| part == mark.as_bytes())
    {
        std::process::abort();
    }
}

/// No message ends the process.
#[cfg(not(feature = "crash-points"))]
pub(crate) const fn over(_: &str, _: &[u8]) {}

/// Logs that a job reached `point`, and ends the process if it is to end here.
pub(crate) fn at(point: CrashPoint) {
    debug!("{point}");
    #[cfg(feature = "crash-points")]
    abort_if_chosen(point);
}

#[cfg(feature = "crash-points")]
fn abort_if_chosen(point: CrashPoint) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var(AT).ok()?;
        let (name, passage) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), passage.parse().ok()?))
    });
    if let Some((name, passage)) = chosen
        && format!("{point:?}") == *name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *passage
    {
        std::process::abort();
    }
}
