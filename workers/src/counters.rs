//! The counts of jobs by end, of jobs that wait, and of jobs in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_schemas::{Completion, Status};

/// The counts of jobs since the worker started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    ended: [AtomicU64; 4],
    pub(crate) prefetched: AtomicU64,
    in_flight: Arc<AtomicU64>,
    unpublished: Arc<AtomicU64>,
}

/// A number of jobs that are counted until this is dropped, however their task ends.
#[derive(Debug)]
pub(crate) struct InFlightCount {
    count: Arc<AtomicU64>,
    jobs: u64,
}

impl Drop for InFlightCount {
    fn drop(&mut self) {
        self.count.fetch_sub(self.jobs, Ordering::Relaxed);
    }
}

impl Counters {
    pub(crate) fn count(&self, completion: &Completion) {
        self.ended[completion.status as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts `jobs` more jobs as in flight.
    pub(crate) fn in_flight(&self, jobs: usize) -> InFlightCount {
        count(&self.in_flight, jobs as u64)
    }

    /// Counts one more job whose call begins and whose completion is not published yet.
    pub(crate) fn called(&self) -> InFlightCount {
        count(&self.unpublished, 1)
    }

    /// Returns the number of jobs that are called and whose completion is not published yet.
    pub(crate) fn unpublished(&self) -> u64 {
        self.unpublished.load(Ordering::Relaxed)
    }

    /// Returns the number of jobs in flight.
    pub(crate) fn jobs_in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self, status: Status) -> u64 {
        self.ended[status as usize].load(Ordering::Relaxed)
    }
}

fn count(total: &Arc<AtomicU64>, jobs: u64) -> InFlightCount {
    total.fetch_add(jobs, Ordering::Relaxed);
    InFlightCount {
        count: Arc::clone(total),
        jobs,
    }
}
