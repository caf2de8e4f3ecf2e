//! A delivery that is held, its place in a buffer, and who wants to know what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::job::unacked::AckGuard;
use crate::queue::Delivery;

/// What jobs of one flow that no message can hold may take of the memory until they end, in KiB. One job is let
/// in whatever it has. It is a flow's own: one that pauses must not keep others from their turn.
const LARGE_JOBS_KIB: usize = 256 * 1024;

/// A flow's buffer: how many of its places are taken, and who is told when one gets free.
#[derive(Debug)]
pub(crate) struct PrefetchBuffer {
    free: mpsc::UnboundedSender<usize>,
    taken: AtomicUsize,
    /// Deliveries that are neither acknowledged nor given back, those that are being called included.
    held: AtomicUsize,
    /// For jobs that no message can hold.
    memory: Arc<Semaphore>,
    /// Whether it has places for jobs that travel together.
    wide: AtomicBool,
}

/// A place in a flow's buffer; giving it up lets the flow fetch one more.
#[derive(Debug)]
pub(crate) struct PrefetchSlot(Arc<PrefetchBuffer>);

/// A delivery's mark on its buffer, for as long as it is held.
#[derive(Debug)]
pub(crate) struct PrefetchMark(Arc<PrefetchBuffer>);

impl PrefetchBuffer {
    /// An empty buffer.
    pub(crate) fn new(free: mpsc::UnboundedSender<usize>) -> Arc<Self> {
        let memory = Arc::new(Semaphore::new(LARGE_JOBS_KIB));
        let (taken, held, wide) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicBool::new(false),
        );
        Arc::new(Self {
            free,
            taken,
            held,
            memory,
            wide,
        })
    }

    /// Makes `places` more, once: jobs of the flow can travel together, and so many are wanted at a time.
    fn widen(&self, places: usize) {
        if !self.wide.swap(true, Ordering::Relaxed) {
            // A flow that has ended wants no more.
            let _ = self.free.send(places);
        }
    }

    /// Takes a place.
    pub(crate) fn slot(self: &Arc<Self>) -> PrefetchSlot {
        self.taken.fetch_add(1, Ordering::Relaxed);
        PrefetchSlot(Arc::clone(self))
    }

    /// Marks a delivery as held.
    pub(crate) fn mark(self: &Arc<Self>) -> PrefetchMark {
        self.held.fetch_add(1, Ordering::Relaxed);
        PrefetchMark(Arc::clone(self))
    }

    /// Whether a delivery is neither acknowledged nor given back.
    pub(crate) fn holds_any(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// Whether no delivery waits for its call.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.load(Ordering::Relaxed) == 0
    }
}

impl Drop for PrefetchSlot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        // A flow that has ended wants no more.
        let _ = self.0.free.send(1);
    }
}

impl Drop for PrefetchMark {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A delivery, and who wants a copy of what comes of it.
#[derive(Debug)]
pub(crate) struct HeldDelivery {
    pub(crate) ack_guard: AckGuard,
    pub(crate) mark: PrefetchMark,
    pub(crate) replies: Vec<String>,
    /// When it was published.
    pub(crate) published: Timestamp,
    /// Which answer of its identity it asks for.
    pub(crate) revision: u32,
    /// Until when its publisher wants it to be called.
    pub(crate) deadline: Option<Timestamp>,
    /// Whether calls were made for it before it was postponed.
    pub(crate) tried: bool,
    /// The object that holds the job, if its message does not.
    pub(crate) object: Option<String>,
    pub(crate) slot: Option<PrefetchSlot>,
    /// What a large job takes of the memory.
    pub(crate) memory: Option<OwnedSemaphorePermit>,
}

impl HeldDelivery {
    /// Waits until there is memory for a job of so many bytes more.
    pub(crate) async fn reserve_memory(&mut self, more: usize) {
        // What it has is given up first: two that have some and wait for more would wait for each other.
        let has = self
            .memory
            .take()
            .map_or(0, |memory| memory.num_permits() * 1024);
        let size = has.saturating_add(more);
        let kib = u32::try_from(size.div_ceil(1024).min(LARGE_JOBS_KIB)).unwrap_or(u32::MAX);
        // It is never closed.
        self.memory = Arc::clone(&self.mark.0.memory)
            .acquire_many_owned(kib)
            .await
            .ok();
    }

    /// So many of its flow can travel together.
    pub(crate) fn fits_merged_call(&self, others: usize) {
        self.mark.0.widen(others);
    }

    /// What is known of a delivery before it is read.
    pub(crate) fn unread(
        delivery: &Delivery,
        ack_guard: AckGuard,
        buffer: &Arc<PrefetchBuffer>,
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
            memory: None,
        }
    }
}
