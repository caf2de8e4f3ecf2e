//! Jobs whose embeddings will share one request: a head waits for a permit, the others behind it.
//!
//! # Why
//!
//! Where a limit counts calls, one request of a thousand texts costs as much of it as a request of one text. Single
//! embeddings would otherwise use up the calls of an account long before its tokens.
//!
//! # How
//!
//! Jobs that can share a request have the same [`MergeKey`]: queue, everything in the body but the texts, and the part of
//! a split request that they belong to. The first of them is the head. It waits for [`LINGER`] so that others can come,
//! and then in the fair queue; an interactive head does not wait for others. The others wait here. When the head has a
//! permit, the others join its call, as far as the provider, the limits and the learned size allow.
//!
//! When a head leaves, with a permit or without, the next job behind it becomes the head. It is queued at once: it has
//! waited already.
//!
//! # Invariants
//!
//! - Jobs wait behind a key only while exactly one job of that key is the head: in the fair queue, or on its way there.
//! - `len` is the number of all jobs that wait here.
//! - A job joins a call only if the permit of the head can be extended by its cost.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Flow;

use crate::job::admitted_job::AdmittedJob;

/// How long a head waits so that its call can fill, unless its lane is interactive.
pub(crate) const LINGER: Duration = Duration::from_millis(25);

/// The key of jobs that can share a call: queue, everything in the body but the texts, and the part of a split call that
/// they belong to.
type MergeKey = (Flow, Arc<str>, Option<u64>);

/// The decision whether a job shares the call of its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MergeFit {
    /// It does.
    Join,
    /// It stays here; the next job may join.
    Skip,
    /// It stays here, and no further job may join.
    Full,
}

/// Jobs that wait behind a head.
#[derive(Debug, Default)]
pub(crate) struct CallMerger {
    waiting: HashMap<MergeKey, VecDeque<AdmittedJob>>,
    len: usize,
}

impl CallMerger {
    /// How many jobs wait behind a head.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Lets a job wait behind the head of its key. Returns it if there is none: then it is the head.
    pub(crate) fn wait_behind(&mut self, mut admitted: AdmittedJob) -> Option<AdmittedJob> {
        let Some(key) = merge_key(&admitted) else {
            return Some(admitted);
        };
        let Some(waiting) = self.waiting.get_mut(&key) else {
            self.waiting.insert(key, VecDeque::new());
            set_head(&mut admitted, true);
            return Some(admitted);
        };
        self.len += 1;
        if admitted.attempts.is_empty() {
            waiting.push_back(admitted);
        } else {
            waiting.push_front(admitted);
        }
        None
    }

    /// Takes out the jobs behind `head` that fit its call, in order.
    pub(crate) fn take_fitting(
        &mut self,
        head: &AdmittedJob,
        mut fit: impl FnMut(&AdmittedJob) -> MergeFit,
    ) -> Vec<AdmittedJob> {
        let waiting = merge_key(head).and_then(|key| self.waiting.get_mut(&key));
        let Some(waiting) = waiting.filter(|_| is_head(head)) else {
            return Vec::new();
        };
        let (mut joined, mut skipped) = (Vec::new(), VecDeque::new());
        while let Some(admitted) = waiting.pop_front() {
            match fit(&admitted) {
                MergeFit::Join => joined.push(admitted),
                MergeFit::Skip => skipped.push_back(admitted),
                MergeFit::Full => {
                    waiting.push_front(admitted);
                    break;
                }
            }
        }
        skipped.append(waiting);
        *waiting = skipped;
        self.len -= joined.len();
        self.check_len();
        joined
    }

    /// Promotes the next job behind a head that leaves, and returns it; `None` if there is none.
    pub(crate) fn promote_next(&mut self, head: &mut AdmittedJob) -> Option<AdmittedJob> {
        if !is_head(head) {
            return None;
        }
        set_head(head, false);
        let key = merge_key(head)?;
        let Some(mut next) = self.waiting.get_mut(&key)?.pop_front() else {
            self.waiting.remove(&key);
            return None;
        };
        self.len -= 1;
        self.check_len();
        set_head(&mut next, true);
        Some(next)
    }

    /// Takes out every waiting job for which `which` holds.
    pub(crate) fn remove_where(
        &mut self,
        which: impl Fn(&AdmittedJob) -> bool,
    ) -> Vec<AdmittedJob> {
        let mut removed = Vec::new();
        for waiting in self.waiting.values_mut() {
            let (out, kept): (Vec<_>, Vec<_>) = waiting.drain(..).partition(&which);
            waiting.extend(kept);
            removed.extend(out);
        }
        self.len -= removed.len();
        self.check_len();
        removed
    }

    fn check_len(&self) {
        debug_assert_eq!(
            self.len,
            self.waiting.values().map(VecDeque::len).sum::<usize>()
        );
    }
}

fn merge_key(admitted: &AdmittedJob) -> Option<MergeKey> {
    let merge = admitted.merge.as_ref()?;
    Some((admitted.flow.clone(), Arc::clone(&merge.key), merge.part))
}

/// Returns true if the job waits in the fair queue, or on its way there, for those behind it.
pub(crate) fn is_head(admitted: &AdmittedJob) -> bool {
    admitted.merge.as_ref().is_some_and(|merge| merge.is_head)
}

fn set_head(admitted: &mut AdmittedJob, is_head: bool) {
    if let Some(merge) = &mut admitted.merge {
        merge.is_head = is_head;
    }
}
