//! Jobs that ask the same as one before them, which will be called for all of them: they wait for its answer.
//!
//! # Why
//!
//! Identical requests of one team that may share an answer should cost one call, and not only after the first of them has
//! been answered and stored.
//!
//! # How
//!
//! The first job of a [`CoalesceKey`] becomes the leader and is called. Jobs of the same key that come meanwhile wait here.
//! The leader reports its outcome when it ends, however it ends, because its duty is a value that reports when it is
//! dropped. The dispatcher then serves the answer, lets each follower make its own call, or makes one of them the next
//! leader. The lane is part of the key: an interactive job must not wait for a bulk one.
//!
//! A follower gives up its place in the prefetch buffer, up to a limit, so that other jobs of its queue are read.
//!
//! # Invariants
//!
//! - A key is here exactly as long as it has a leader.
//! - `len` is the number of all followers.
//! - A failure is shared with no follower: each of them is called by itself.
//! - An answer of 1 MiB or more is shared with no follower: there is no room for many copies of it.

use std::collections::HashMap;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::job::admitted_job::AdmittedJob;
use crate::job::share::{CoalesceKey, CoalesceLeader, LeaderOutcome};

/// So many may wait without a place in their flow's stage, so that others of it are read meanwhile.
const MOST_WITHOUT_PLACE: usize = 4_096;

/// Jobs that wait for another one's answer.
#[derive(Debug)]
pub(crate) struct Coalescer {
    behind: HashMap<CoalesceKey, Vec<AdmittedJob>>,
    len: usize,
    ended: UnboundedSender<(CoalesceKey, LeaderOutcome)>,
}

impl Coalescer {
    /// Nobody waits; and what comes of those that are called for others.
    pub(crate) fn new() -> (Self, UnboundedReceiver<(CoalesceKey, LeaderOutcome)>) {
        let (ended, ends) = unbounded_channel();
        let sharing = Self {
            behind: HashMap::new(),
            len: 0,
            ended,
        };
        (sharing, ends)
    }

    /// How many wait for others.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes a job in that waits for another one's answer. Returns it if it is the first, and will be called for those
    /// that come after it.
    pub(crate) fn meet(&mut self, mut admitted: AdmittedJob) -> Option<AdmittedJob> {
        let errand = CoalesceKey {
            request: admitted.request(),
            lane: admitted.flow.lane,
        };
        if let Some(behind) = self.behind.get_mut(&errand) {
            if self.len < MOST_WITHOUT_PLACE {
                drop(admitted.claim.slot.take());
            }
            self.len += 1;
            behind.push(admitted);
            return None;
        }
        if let Some(share) = &mut admitted.share {
            self.behind.insert(errand.clone(), Vec::new());
            share.lead = Some(CoalesceLeader::new(errand, self.ended.clone()));
        }
        Some(admitted)
    }

    /// The job that was called for them has ended: returns them.
    pub(crate) fn led(&mut self, errand: &CoalesceKey) -> Vec<AdmittedJob> {
        let behind = self.behind.remove(errand).unwrap_or_default();
        self.len -= behind.len();
        behind
    }

    /// Takes out every job that waits for another for which `which` holds.
    pub(crate) fn remove_where(
        &mut self,
        which: impl Fn(&AdmittedJob) -> bool,
    ) -> Vec<AdmittedJob> {
        let mut removed = Vec::new();
        for behind in self.behind.values_mut() {
            removed.extend(behind.extract_if(.., |admitted| which(admitted)));
        }
        self.len -= removed.len();
        removed
    }
}
