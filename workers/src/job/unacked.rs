//! What this process holds unacknowledged, so that one ticker can say that it is still worked on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::queue::Receipt;

/// All deliveries that are held.
#[derive(Debug, Default)]
pub(crate) struct Held {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    receipts: HashMap<u64, Receipt>,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a delivery until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, receipt: Receipt) -> Hold {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.receipts.insert(id, receipt.clone());
        Hold {
            held: Arc::clone(self),
            id,
            receipt,
        }
    }

    /// The receipts of all that is held.
    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        self.lock().receipts.values().cloned().collect()
    }
}

/// A delivery that is held.
#[derive(Debug)]
pub(crate) struct Hold {
    held: Arc<Held>,
    id: u64,
    receipt: Receipt,
}

impl Hold {
    pub(crate) fn receipt(&self) -> Receipt {
        self.receipt.clone()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.lock().receipts.remove(&self.id);
    }
}
