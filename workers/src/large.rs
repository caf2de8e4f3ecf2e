//! Large data, whose processing must not delay other tasks, and texts whose length must be bounded.

use forebay_schemas::Completion;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Size from which data counts as large, in bytes.
pub(crate) const LARGE: usize = 1 << 20;

/// Runs `act` on data of `bytes` bytes. If the data is large, the thread's other tasks move to another thread
/// meanwhile. Without a runtime of several threads they wait.
pub(crate) fn run_blocking_if_large<T>(bytes: usize, act: impl FnOnce() -> T) -> T {
    if bytes >= LARGE && has_threads() {
        tokio::task::block_in_place(act)
    } else {
        act()
    }
}

/// Returns true inside a runtime that has several threads.
fn has_threads() -> bool {
    let runtime = Handle::try_current();
    runtime.is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// Returns the size of a completion's body in bytes, the only part that can be large; 0 without a response.
pub(crate) fn size_of(completion: &Completion) -> usize {
    let Some(response) = &completion.response else {
        return 0;
    };
    response.body.get().len()
}

/// Longest message of an error, in characters. A message can quote text of any length.
const LONGEST_MESSAGE: usize = 2_000;

/// Returns the beginning of a text, at most [`LONGEST_MESSAGE`] characters.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(LONGEST_MESSAGE).collect()
}
