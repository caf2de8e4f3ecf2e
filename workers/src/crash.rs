//! Points between the steps of a job: each is logged, and a test can end the process there, as a crash would. A release
//! only logs.

use std::fmt;

use tracing::{Span, debug};

/// A point between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A delivery came, and is not decoded yet.
    Delivered,
    /// The object that holds the job is fetched.
    Fetched,
    /// The job is admitted, and will be called.
    Admitted,
    /// The job has its permit.
    Permitted,
    /// The call is journalled.
    Journalled,
    /// The connection takes the request.
    Sending,
    /// The answer came, and is not decoded yet.
    Answered,
    /// The answer is decoded and classified.
    Classified,
    /// The verdict is reached, and the permit is settled.
    Decided,
    /// The result is handed to the store, and not synced yet.
    Written,
    /// The result is stored.
    Stored,
    /// The completion is encoded, and its object is stored if it needs one.
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
    /// The job is about to be postponed.
    Postponing,
    /// The job's schedule is published.
    Scheduled,
    /// The job is postponed, and its delivery is acknowledged.
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
            CrashPoint::Kept => "completion fits its message",
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
    /// All points, in the order of a job's way.
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

/// The environment variable that names the [`CrashPoint`] at which the process ends. After a colon it may hold the
/// number of the passage at which it ends; the first is 1, and the default.
#[cfg(feature = "crash-points")]
pub const AT: &str = "FOREBAY_CRASH_AT";

/// The environment variable that names the step over which the process ends, `reading` or `calling`. After a colon it
/// holds a text that the job's message contains.
#[cfg(feature = "crash-points")]
pub const OVER: &str = "FOREBAY_CRASH_OVER";

/// Ends the process, if [`OVER`] names this step and a text of this message.
#[cfg(feature = "crash-points")]
pub(crate) fn over(work: &str, message: &[u8]) {
    use std::sync::OnceLock;

    static CHOSEN: OnceLock<Option<(String, String)>> = OnceLock::new();
    if let Some((chosen, mark)) = CHOSEN.get_or_init(chosen_work)
        && chosen == work
    {
        let mark = mark.as_bytes();
        if message.windows(mark.len()).any(|part| part == mark) {
            std::process::abort();
        }
    }
}

/// Returns the step and the text that [`OVER`] names.
#[cfg(feature = "crash-points")]
fn chosen_work() -> Option<(String, String)> {
    let text = std::env::var(OVER).ok()?;
    let (work, mark) = text.split_once(':').filter(|(_, mark)| !mark.is_empty())?;
    Some((work.to_owned(), mark.to_owned()))
}

/// Does nothing: without the feature no message ends the process.
#[cfg(not(feature = "crash-points"))]
pub(crate) const fn over(_: &str, _: &[u8]) {}

/// Logs that a job reached `point`, and ends the process if it is to end here.
pub(crate) fn at(point: CrashPoint) {
    debug!("{point}");
    #[cfg(feature = "crash-points")]
    abort_if_chosen(point);
}

/// Logs in each span that its job reached `point`, and ends the process if it is to end here: several jobs reach it together.
pub(crate) fn at_in<'a>(point: CrashPoint, spans: impl IntoIterator<Item = &'a Span>) {
    for span in spans {
        span.in_scope(|| debug!("{point}"));
    }
    #[cfg(feature = "crash-points")]
    abort_if_chosen(point);
}

#[cfg(feature = "crash-points")]
fn abort_if_chosen(point: CrashPoint) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    if let Some((name, passage)) = CHOSEN.get_or_init(chosen_point)
        && format!("{point:?}") == *name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *passage
    {
        std::process::abort();
    }
}

/// Returns the name of the point and the number of the passage that [`AT`] names.
#[cfg(feature = "crash-points")]
fn chosen_point() -> Option<(String, u64)> {
    let text = std::env::var(AT).ok()?;
    let (name, passage) = text.split_once(':').unwrap_or((&text, "1"));
    Some((name.to_owned(), passage.parse().ok()?))
}
