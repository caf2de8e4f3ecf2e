//! Waking whoever waits for a permit, and nobody else.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Told by accounts whenever a call that had to wait might now start; passes that on only while
/// somebody waits, because every call of an account that is far from its limits says so twice.
#[derive(Debug, Default)]
pub struct Wake {
    waiting: AtomicBool,
    notify: Notify,
}

impl Wake {
    /// Room came back.
    pub(super) fn release(&self) {
        if self.waiting.swap(false, Ordering::AcqRel) {
            self.notify.notify_one();
        }
    }

    /// To be called before accounts are asked: what is released from now on wakes [`Wake::released`].
    pub(crate) fn listen(&self) {
        self.waiting.store(true, Ordering::Release);
    }

    /// Nobody was denied anything, so nobody waits.
    pub(crate) fn ignore(&self) {
        self.waiting.store(false, Ordering::Release);
    }

    /// Returns when room came back since [`Wake::listen`].
    pub(crate) async fn released(&self) {
        self.notify.notified().await;
    }
}
