//! A delivery that is held, its slot in its queue's prefetch buffer, and where copies of its completion are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use forebay_schemas::Flow;
use jiff::Timestamp;
use tokio::sync::mpsc;

use crate::job::unacked::AckGuard;
use crate::memory_budget::{COPIES, MemoryBudget, MemoryGuard};
use crate::queue::{Delivery, DeliveryReceipt};

/// Jobs that may give up their slot while they wait for memory, so that smaller ones of their queue are read.
const MAX_WAITING_WITHOUT_SLOT: usize = 4_096;

/// The prefetch buffer of one queue: how many of its slots are taken.
#[derive(Debug)]
pub(crate) struct PrefetchBuffer {
    /// Receives the number of slots that got free; the reader fetches as many deliveries.
    free: mpsc::UnboundedSender<usize>,
    taken: AtomicUsize,
    /// Deliveries that are neither acked nor given back, including those that are being called.
    held: AtomicUsize,
    /// True if it has slots for jobs that share a call.
    wide: AtomicBool,
}

/// A slot in a prefetch buffer. Dropping it lets the reader fetch one more delivery.
#[derive(Debug)]
pub(crate) struct PrefetchSlot(Arc<PrefetchBuffer>);

/// Counts a delivery in its prefetch buffer for as long as it is held.
#[derive(Debug)]
pub(crate) struct PrefetchMark(Arc<PrefetchBuffer>);

impl PrefetchBuffer {
    /// An empty buffer. `free` receives the number of slots that get free.
    pub(crate) fn new(free: mpsc::UnboundedSender<usize>) -> Arc<Self> {
        let (taken, held, wide) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicBool::new(false),
        );
        Arc::new(Self {
            free,
            taken,
            held,
            wide,
        })
    }

    /// Adds `slots`, once: so many more jobs of the queue can share a call.
    fn widen(&self, slots: usize) {
        if !self.wide.swap(true, Ordering::Relaxed) {
            // A reader that has ended fetches no more.
            let _ = self.free.send(slots);
        }
    }

    /// Takes a slot.
    pub(crate) fn slot(self: &Arc<Self>) -> PrefetchSlot {
        self.taken.fetch_add(1, Ordering::Relaxed);
        PrefetchSlot(Arc::clone(self))
    }

    /// Counts a delivery as held.
    pub(crate) fn mark(self: &Arc<Self>) -> PrefetchMark {
        self.held.fetch_add(1, Ordering::Relaxed);
        PrefetchMark(Arc::clone(self))
    }

    /// Returns true if a delivery is neither acked nor given back.
    pub(crate) fn holds_any(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Returns true if no delivery waits for its call.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.load(Ordering::Relaxed) == 0
    }
}

impl Drop for PrefetchSlot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        // A reader that has ended fetches no more.
        let _ = self.0.free.send(1);
    }
}

impl Drop for PrefetchMark {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A delivery that is neither acked nor given back.
#[derive(Debug)]
pub(crate) struct HeldDelivery {
    ack_guard: AckGuard,
    pub(crate) mark: PrefetchMark,
    /// Subjects that get a copy of the completion.
    pub(crate) replies: Vec<String>,
    /// When it was published.
    pub(crate) published: Timestamp,
    /// The number of the answer of its identity that it asks for, from 1.
    pub(crate) revision: u32,
    /// Its publisher's deadline.
    pub(crate) deadline: Option<Timestamp>,
    /// True if calls were made for it before it was postponed.
    pub(crate) tried: bool,
    /// The object that holds the job, if its message does not.
    pub(crate) object: Option<String>,
    /// Set while the job waits for its call.
    pub(crate) slot: Option<PrefetchSlot>,
    /// The memory that its job takes; `None` for a duplicate, which waits without it.
    pub(crate) memory: Option<MemoryGuard>,
}

impl HeldDelivery {
    pub(crate) fn receipt(&self) -> DeliveryReceipt {
        self.ack_guard.receipt()
    }

    /// Waits until there is memory for a job of `flow` that is `more` bytes larger.
    pub(crate) async fn reserve_memory(
        &mut self,
        budget: &Arc<MemoryBudget>,
        flow: &Flow,
        more: usize,
    ) {
        // It gives up what it has first: two jobs that have some and wait for more would wait for each other.
        let has = self.memory.take().map_or(0, |memory| memory.bytes());
        let mut reserved = budget.reserve(flow, more.saturating_mul(COPIES).saturating_add(has));
        self.memory = reserved.try_recv().ok();
        if self.memory.is_some() {
            return;
        }
        if budget.waiting() <= MAX_WAITING_WITHOUT_SLOT {
            self.slot = None;
        }
        // The budget lives as long as the worker, and grants it.
        self.memory = reserved.await.ok();
    }

    /// The bytes that its job takes if it is large; 0 if it is small.
    pub(crate) fn large_bytes(&self) -> usize {
        let large = self.memory.as_ref().filter(|memory| memory.is_large());
        large.map_or(0, MemoryGuard::bytes)
    }

    /// So many other jobs of its queue fit into one call with it.
    pub(crate) fn fits_merged_call(&self, others: usize) {
        self.mark.0.widen(others);
    }

    /// A delivery that is not read yet.
    pub(crate) fn unread(
        delivery: &Delivery,
        ack_guard: AckGuard,
        buffer: &Arc<PrefetchBuffer>,
        memory: MemoryGuard,
    ) -> Self {
        Self {
            ack_guard,
            mark: buffer.mark(),
            replies: Vec::new(),
            published: delivery.published,
            revision: 1,
            deadline: None,
            tried: false,
            object: None,
            slot: Some(buffer.slot()),
            memory: Some(memory),
        }
    }
}
