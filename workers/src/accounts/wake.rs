//! Wakes a task that waits for a permit, and only if one waits.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// A signal of the accounts that a call which had to wait might now start. It is passed on only while a task waits,
/// because every call of an account far from its limits signals twice.
#[derive(Debug, Default)]
pub struct Wake {
    waiting: AtomicBool,
    notify: Notify,
}

impl Wake {
    /// Signals that room came back.
    pub(super) fn release(&self) {
        if self.waiting.swap(false, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// Begins to wait. The caller asks the accounts after this, and a release from now on wakes [`Wake::released`].
    pub(crate) fn listen(&self) {
        self.waiting.store(true, Ordering::Release);
    }

    /// Ends waiting, because no call was denied.
    pub(crate) fn ignore(&self) {
        self.waiting.store(false, Ordering::Release);
    }

    /// Waits until room has come back since [`Wake::listen`].
    pub(crate) async fn released(&self) {
        self.notify.notified().await;
    }
}
