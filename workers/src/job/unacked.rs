//! The deliveries that this process has neither acked nor given back. One ticker extends the ack wait of all of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::queue::DeliveryReceipt;
use parking_lot::{Mutex, MutexGuard};

/// All unacked deliveries.
#[derive(Debug, Default)]
pub(crate) struct UnackedDeliveries {
    inner: Mutex<UnackedState>,
}

#[derive(Debug, Default)]
struct UnackedState {
    next: u64,
    receipts: HashMap<u64, DeliveryReceipt>,
}

impl UnackedDeliveries {
    fn lock(&self) -> MutexGuard<'_, UnackedState> {
        self.inner.lock()
    }

    /// Holds a delivery until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, receipt: DeliveryReceipt) -> AckGuard {
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.receipts.insert(id, receipt.clone());
        AckGuard {
            unacked: Arc::clone(self),
            id,
            receipt,
        }
    }

    /// The receipts of all that is unacked.
    pub(crate) fn receipts(&self) -> Vec<DeliveryReceipt> {
        self.lock().receipts.values().cloned().collect()
    }
}

/// A delivery that is unacked.
#[derive(Debug)]
pub(crate) struct AckGuard {
    unacked: Arc<UnackedDeliveries>,
    id: u64,
    receipt: DeliveryReceipt,
}

impl AckGuard {
    pub(crate) fn receipt(&self) -> DeliveryReceipt {
        self.receipt.clone()
    }
}

impl Drop for AckGuard {
    fn drop(&mut self) {
        self.unacked.lock().receipts.remove(&self.id);
    }
}
