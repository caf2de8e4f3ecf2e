//! What is done with many bytes takes long, and others must not wait for it.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Bytes are many from here on.
pub(crate) const LARGE: usize = 1 << 20;

/// Does something with so many bytes; if they are many, the thread's other tasks go on elsewhere meanwhile.
pub(crate) fn at_length<T>(bytes: usize, act: impl FnOnce() -> T) -> T {
    let has_threads =
        || Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes >= LARGE && has_threads() { tokio::task::block_in_place(act) } else { act() }
}
