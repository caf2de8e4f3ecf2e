//! Many bytes: what is done with them takes long, and others must not wait for it; and texts that must not be many.

use forebay_schemas::Completion;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Bytes are many from here on.
pub(crate) const LARGE: usize = 1 << 20;

/// Does something with so many bytes; if they are many, the thread's other tasks go on elsewhere meanwhile.
pub(crate) fn at_length<T>(bytes: usize, act: impl FnOnce() -> T) -> T {
    let has_threads = || {
        Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
    };
    if bytes >= LARGE && has_threads() {
        tokio::task::block_in_place(act)
    } else {
        act()
    }
}

/// How many bytes a completion has, as far as they may be many.
pub(crate) fn size_of(completion: &Completion) -> usize {
    completion
        .response
        .as_ref()
        .map_or(0, |response| response.body.get().len())
}

/// Longest message of an error, in characters: what it quotes may be anything.
const LONGEST_MESSAGE: usize = 2_000;

/// A text that fits every message.
pub(crate) fn short(text: &str) -> String {
    text.chars().take(LONGEST_MESSAGE).collect()
}
