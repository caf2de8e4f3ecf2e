//! A delivery that is held, its slot in its queue's prefetch buffer, and where copies of its completion are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::job::unacked::AckGuard;
use crate::queue::{Delivery, DeliveryReceipt};

/// Memory for the large jobs of one queue until they end, in KiB. A single job is let in whatever its size. Each queue has
/// its own: a queue that is paused must not hold up others.
const LARGE_JOBS_KIB: usize = 256 * 1024;

/// The prefetch buffer of one queue: how many of its slots are taken.
#[derive(Debug)]
pub(crate) struct PrefetchBuffer {
    /// Receives the number of slots that got free; the reader fetches as many deliveries.
    free: mpsc::UnboundedSender<usize>,
    taken: AtomicUsize,
    /// Deliveries that are neither acked nor given back, including those that are being called.
    held: AtomicUsize,
    /// One permit for each KiB that large jobs may take.
    memory: Arc<Semaphore>,
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
    /// The permits of a large job's memory.
    pub(crate) memory: Option<OwnedSemaphorePermit>,
}

impl HeldDelivery {
    pub(crate) fn receipt(&self) -> DeliveryReceipt {
        self.ack_guard.receipt()
    }

    /// Waits until there is memory for `more` bytes of the job.
    pub(crate) async fn reserve_memory(&mut self, more: usize) {
        // It gives up what it has first: two jobs that have some and wait for more would wait for each other.
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

    /// So many other jobs of its queue fit into one call with it.
    pub(crate) fn fits_merged_call(&self, others: usize) {
        self.mark.0.widen(others);
    }

    /// A delivery that is not read yet.
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
