//! Jobs that ask the same as one before them, which will be called for all of them: they wait for its answer.
//!
//! # Why
//!
//! Identical requests of one team that may share an answer should cost one call, also while the first of them is still being
//! called.
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
//! - A key is here exactly as long as it has a leader: the leader reports when it is dropped, and the dispatcher then takes
//!   the followers out.
//! - `len` is the number of all followers.
//! - A failure is shared with no follower: the dispatcher lets each of them make its own call.
//! - An answer of 1 MiB or more is shared with no follower (`CoalesceLeader::ended`): there is no room for many copies.

use std::collections::HashMap;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::job::admitted_job::AdmittedJob;
use crate::job::share::{CoalesceKey, CoalesceLeader, LeaderOutcome};

/// Followers that may give up their place in the prefetch buffer, so that more jobs of their queue are read.
const MAX_UNBUFFERED_FOLLOWERS: usize = 4_096;

/// The followers of every leader.
#[derive(Debug)]
pub(crate) struct Coalescer {
    followers: HashMap<CoalesceKey, Vec<AdmittedJob>>,
    len: usize,
    reports: UnboundedSender<(CoalesceKey, LeaderOutcome)>,
}

impl Coalescer {
    /// An empty coalescer, and the receiver of its leaders' outcomes.
    pub(crate) fn new() -> (Self, UnboundedReceiver<(CoalesceKey, LeaderOutcome)>) {
        let (reports, outcomes) = unbounded_channel();
        let coalescer = Self {
            followers: HashMap::new(),
            len: 0,
            reports,
        };
        (coalescer, outcomes)
    }

    /// How many followers wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Lets a job wait for its leader's answer. Returns it if its key has no leader yet: then it is the leader.
    pub(crate) fn wait_behind(&mut self, mut admitted: AdmittedJob) -> Option<AdmittedJob> {
        let key = CoalesceKey {
            request: admitted.request(),
            lane: admitted.flow.lane,
        };
        if let Some(followers) = self.followers.get_mut(&key) {
            if self.len < MAX_UNBUFFERED_FOLLOWERS {
                admitted.held.slot = None;
            }
            self.len += 1;
            followers.push(admitted);
            return None;
        }
        if let Some(coalesce) = &mut admitted.coalesce {
            self.followers.insert(key.clone(), Vec::new());
            coalesce.leader = Some(CoalesceLeader::new(key, self.reports.clone()));
        }
        Some(admitted)
    }

    /// Takes out the followers of a leader that has ended.
    pub(crate) fn take_followers(&mut self, key: &CoalesceKey) -> Vec<AdmittedJob> {
        let followers = self.followers.remove(key).unwrap_or_default();
        self.len -= followers.len();
        self.check_len();
        followers
    }

    /// Takes out every follower for which `which` holds.
    pub(crate) fn remove_where(
        &mut self,
        which: impl Fn(&AdmittedJob) -> bool,
    ) -> Vec<AdmittedJob> {
        let mut removed = Vec::new();
        for followers in self.followers.values_mut() {
            removed.extend(followers.extract_if(.., |admitted| which(admitted)));
        }
        self.len -= removed.len();
        self.check_len();
        removed
    }

    fn check_len(&self) {
        debug_assert_eq!(
            self.len,
            self.followers.values().map(Vec::len).sum::<usize>()
        );
    }
}
