//! Calls stop while results cannot be stored: what they bring would be lost with the process.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Held by every result that cannot be stored.
#[derive(Debug)]
pub(crate) struct Brake {
    holds: AtomicUsize,
    changed: watch::Sender<()>,
}

/// A result that cannot be stored, until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold<'a>(&'a Brake);

impl Default for Brake {
    fn default() -> Self {
        Self { holds: AtomicUsize::new(0), changed: watch::Sender::new(()) }
    }
}

impl Brake {
    /// Stops calls.
    pub(crate) fn hold(&self) -> Hold<'_> {
        self.holds.fetch_add(1, Ordering::AcqRel);
        Hold(self)
    }

    /// Whether no call may be made.
    pub(crate) fn is_on(&self) -> bool {
        self.holds.load(Ordering::Acquire) > 0
    }

    /// Is told when calls may be made again.
    pub(crate) fn releases(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if self.0.holds.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.send_replace(());
        }
    }
}
