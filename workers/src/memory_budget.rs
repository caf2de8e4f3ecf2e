//! The memory that the jobs of all queues take: one budget in bytes.
//!
//! # Why
//!
//! A job may have 64 MiB. Few of them in each of many queues would take all memory of the machine, so one budget counts the
//! jobs of all queues. A queue that is paused must not keep the budget from others, and large jobs must not hold up small
//! ones.
//!
//! # How
//!
//! A job takes its bytes before its object is fetched, and returns them when it ends, because they are a [`MemoryGuard`]
//! that travels with it. What fits in no more waits, unfetched. The queues that wait take turns, and the jobs of a queue
//! are served in the order of their arrival. A small job takes its bytes at once, and so does a message that has come
//! already: they only leave less to the others. A queue therefore asks the server for large messages only once there is
//! memory for one (`queue/jetstream/source.rs`).
//!
//! The dispatcher gives back large jobs that wait long for their call while jobs of other queues wait for memory
//! (`dispatch/dispatcher/leave.rs`).
//!
//! # Invariants
//!
//! - `held` is the sum of the bytes of all guards.
//! - A reservation is granted within the budget. One that is larger than the budget is granted when no large job is here.
//! - A later reservation passes none before it, so a large job is not starved by many that are smaller.
//! - A queue is in `turns` exactly as long as one of its jobs waits.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use forebay_schemas::Flow;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Bytes that the jobs of all queues may take.
const MAX_JOB_MEMORY: usize = 256 << 20;
/// Copies of a job that are here at the same time, at most: its message, its body, and the request that is sent; or its body
/// twice while that request is made.
pub(crate) const COPIES: usize = 3;
/// Bytes from which a job counts as large. What takes less does not wait.
const LARGE_JOB_MEMORY: usize = COPIES * LARGE_JOB;
/// Bytes of a large job.
pub(crate) const LARGE_JOB: usize = 64 << 10;

/// The memory of the jobs of all queues.
#[derive(Debug)]
pub struct MemoryBudget {
    state: Mutex<MemoryState>,
}

#[derive(Debug)]
struct MemoryState {
    limit: usize,
    held: usize,
    /// Guards of large jobs.
    large: usize,
    /// The queues whose jobs wait; the first is next.
    turns: VecDeque<Flow>,
    waiting: HashMap<Flow, VecDeque<MemoryRequest>>,
}

/// A job that waits for memory.
#[derive(Debug)]
struct MemoryRequest {
    bytes: usize,
    grant: oneshot::Sender<MemoryGuard>,
}

/// Bytes that a job takes until this is dropped.
#[derive(Debug)]
pub(crate) struct MemoryGuard {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::with_limit(MAX_JOB_MEMORY)
    }
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    fn with_limit(limit: usize) -> Self {
        let state = MemoryState {
            limit,
            held: 0,
            large: 0,
            turns: VecDeque::new(),
            waiting: HashMap::new(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock()
    }

    /// Takes bytes at once, also beyond the budget: they are in memory already, or few.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> MemoryGuard {
        self.state().add(bytes);
        self.guard(bytes)
    }

    /// Reserves bytes for a job of `flow`. The receiver gets its guard in its turn: before this returns, if there is room.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        flow: &Flow,
        bytes: usize,
    ) -> oneshot::Receiver<MemoryGuard> {
        let (grant, granted) = oneshot::channel();
        if bytes < LARGE_JOB_MEMORY {
            // The receiver is here, so it is sent.
            let _ = grant.send(self.take(bytes));
            return granted;
        }
        self.state().wait(flow, MemoryRequest { bytes, grant });
        self.grant();
        granted
    }

    fn guard(self: &Arc<Self>, bytes: usize) -> MemoryGuard {
        let budget = Arc::clone(self);
        MemoryGuard { budget, bytes }
    }

    /// Grants what fits, in turn.
    fn grant(self: &Arc<Self>) {
        loop {
            let Some(MemoryRequest { bytes, grant }) = self.state().next_fitting() else {
                return;
            };
            // A job that waits no more returns its bytes here. The state must not be locked then.
            let _ = grant.send(self.guard(bytes));
        }
    }

    /// Bytes that all jobs take.
    pub(crate) fn held(&self) -> usize {
        self.state().held
    }

    /// Jobs that wait for memory.
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting.values().map(VecDeque::len).sum()
    }

    /// Bytes that must be returned before the next job can be granted its memory; 0 if none waits.
    pub(crate) fn lacking(&self) -> usize {
        let state = self.state();
        let next = state.next().map(|request| request.bytes);
        next.map_or(0, |bytes| (state.held + bytes).saturating_sub(state.limit))
    }

    /// Returns true if a job of another queue waits for memory.
    pub(crate) fn is_wanted_beside(&self, flow: &Flow) -> bool {
        self.state().turns.iter().any(|waits| waits != flow)
    }
}

impl MemoryState {
    fn add(&mut self, bytes: usize) {
        self.held += bytes;
        self.large += usize::from(bytes >= LARGE_JOB_MEMORY);
    }

    fn remove(&mut self, bytes: usize) {
        self.held -= bytes;
        self.large -= usize::from(bytes >= LARGE_JOB_MEMORY);
    }

    fn wait(&mut self, flow: &Flow, request: MemoryRequest) {
        if let Some(queue) = self.waiting.get_mut(flow) {
            return queue.push_back(request);
        }
        self.turns.push_back(flow.clone());
        self.waiting.insert(flow.clone(), VecDeque::from([request]));
    }

    /// The job whose turn it is.
    fn next(&self) -> Option<&MemoryRequest> {
        self.waiting.get(self.turns.front()?)?.front()
    }

    /// Takes out the next job that still waits, if there is memory for it, and counts its bytes.
    fn next_fitting(&mut self) -> Option<MemoryRequest> {
        loop {
            let MemoryRequest { bytes, grant } = self.next()?;
            let still_waits = !grant.is_closed();
            let fits = self.held + bytes <= self.limit || self.large == 0;
            if still_waits && !fits {
                return None;
            }
            let request = self.take_next()?;
            if still_waits {
                self.add(request.bytes);
                return Some(request);
            }
        }
    }

    /// Takes out the next job. Its queue has its next turn after the others.
    fn take_next(&mut self) -> Option<MemoryRequest> {
        let flow = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&flow)?;
        let request = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&flow);
        } else {
            self.turns.push_back(flow);
        }
        request
    }
}

impl MemoryGuard {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns some of its bytes, which nothing else is granted before the next ones are returned: the caller takes them
    /// again for a job.
    pub(crate) fn pass_on(&mut self, bytes: usize) {
        let mut state = self.budget.state();
        state.remove(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        state.add(self.bytes);
    }

    /// Returns true if its job is large.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes >= LARGE_JOB_MEMORY
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        self.budget.state().remove(self.bytes);
        self.budget.grant();
    }
}

#[cfg(test)]
mod tests {
    use forebay_schemas::Lane;

    use super::*;

    const MIB: usize = 1 << 20;

    fn flow(pool: &str) -> Flow {
        Flow {
            pool: pool.to_owned(),
            team: "acme".to_owned(),
            lane: Lane::Bulk,
        }
    }

    type Reserved = oneshot::Receiver<MemoryGuard>;

    /// The guards of those that have theirs by now. They are removed from `reserved`.
    fn granted(reserved: &mut Vec<(usize, Reserved)>) -> Vec<(usize, MemoryGuard)> {
        let mut granted = Vec::new();
        reserved.retain_mut(|(number, reserved)| match reserved.try_recv() {
            Ok(guard) => {
                granted.push((*number, guard));
                false
            }
            Err(_) => true,
        });
        granted
    }

    #[test]
    fn what_is_reserved_never_exceeds_the_budget_and_all_get_their_turn() {
        let budget = Arc::new(MemoryBudget::with_limit(10 * MIB));
        let sizes = [4, 7, 1, 10, 2, 3, 9, 5, 5, 1].map(|size| size * MIB);
        let reserve = |(number, size)| (number, budget.reserve(&flow("chat"), size));
        let mut waiting: Vec<_> = sizes.into_iter().enumerate().map(reserve).collect();
        let mut order = Vec::new();
        let mut held = VecDeque::new();
        while order.len() < sizes.len() {
            for (number, guard) in granted(&mut waiting) {
                order.push(number);
                held.push_back(guard);
            }
            assert!(budget.held() <= 10 * MIB, "{}", budget.held());
            assert!(held.pop_front().is_some(), "{order:?}");
        }
        assert!(order.is_sorted(), "{order:?}");
        held.clear();
        assert_eq!(
            (budget.held(), budget.waiting(), budget.lacking()),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_job_larger_than_the_budget_is_granted_its_memory_alone() {
        let budget = Arc::new(MemoryBudget::with_limit(10 * MIB));
        let small = budget.take(100);
        let first = budget.reserve(&flow("chat"), 2 * MIB).try_recv();
        let mut huge = budget.reserve(&flow("chat"), 20 * MIB);
        let mut behind = budget.reserve(&flow("chat"), MIB);
        assert!(huge.try_recv().is_err() && budget.lacking() == 12 * MIB + 100);
        drop(first);
        let huge = huge.try_recv().expect("it is the only large one");
        assert!(behind.try_recv().is_err());
        drop(huge);
        assert!(behind.try_recv().is_ok());
        drop((small, behind));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn small_jobs_and_messages_that_have_come_wait_for_no_large_one() {
        let budget = Arc::new(MemoryBudget::with_limit(10 * MIB));
        let large = budget.reserve(&flow("chat"), 10 * MIB).try_recv();
        let mut waits = budget.reserve(&flow("chat"), MIB);
        assert!(budget.reserve(&flow("chat"), 1_000).try_recv().is_ok());
        let message = budget.take(2 * MIB);
        assert_eq!(budget.held(), 12 * MIB);
        drop(large);
        assert!(waits.try_recv().is_ok());
        drop((message, waits));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn queues_take_turns_and_one_that_waits_no_more_takes_none() {
        let budget = Arc::new(MemoryBudget::with_limit(MIB));
        let mut held = budget.reserve(&flow("chat"), MIB).try_recv().ok();
        let (chat, other) = (flow("chat"), flow("other"));
        let of = |flow: &Flow, number| (number, budget.reserve(flow, MIB));
        let mut waiting = vec![of(&chat, 0), of(&chat, 2), of(&chat, 3), of(&other, 1)];
        let gone = budget.reserve(&other, MIB);
        assert!(budget.is_wanted_beside(&chat) && budget.is_wanted_beside(&other));
        drop(gone);
        for expected in 0..4 {
            drop(held.take());
            let (number, guard) = granted(&mut waiting).pop().expect("one is next");
            assert_eq!((number, budget.held()), (expected, MIB));
            held = Some(guard);
        }
        drop(held);
        assert_eq!((budget.held(), budget.waiting()), (0, 0));
        assert!(!budget.is_wanted_beside(&chat));
    }
}
