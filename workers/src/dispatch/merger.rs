//! Jobs whose embeddings will share one request: one of them waits for a permit, the others behind it.
//!
//! # Why
//!
//! Where a limit counts calls, one request of a thousand texts costs as much of it as a request of one text. Single
//! embeddings would otherwise use up the calls of an account long before its tokens.
//!
//! # How
//!
//! Jobs that can share a request have the same [`MergeKey`]: queue, everything in the body but the texts, and the part of
//! a split request that they belong to. The first of them waits for [`LINGER`] so that others can come, and then in the
//! fair queue; an interactive job does not wait for others. The others wait here. When the first is permitted, as many of the others go with it as the provider, the
//! limits and the learned size of a request allow.
//!
//! When the first leaves the fair queue, with a permit or without, the next of those behind it takes its place.
//!
//! # Invariants
//!
//! - Behind a key there are jobs only while exactly one job of that key leads: in the fair queue, or on its way there.
//! - `len` is the number of all jobs that wait behind others.
//! - A job is taken with another only if the permit of the first can be extended by its cost.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Flow;

use crate::job::admitted_job::AdmittedJob;

/// How long the first of them waits for others before it is in line.
pub(crate) const LINGER: Duration = Duration::from_millis(25);

/// What jobs have in common that can travel together.
type MergeKey = (Flow, Arc<str>, Option<u64>);

/// Whether a job goes with the one that was permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MergeFit {
    /// It goes.
    Take,
    /// It stays; others may go.
    Stay,
    /// Nothing more goes.
    Full,
}

/// Jobs that wait behind one that waits in line.
#[derive(Debug, Default)]
pub(crate) struct CallMerger {
    behind: HashMap<MergeKey, VecDeque<AdmittedJob>>,
    len: usize,
}

impl CallMerger {
    /// How many wait behind others.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes a job in that can travel with others. Returns it if it is the first, and has to wait in line.
    pub(crate) fn meet(&mut self, mut admitted: AdmittedJob) -> Option<AdmittedJob> {
        let Some(kin) = kin(&admitted) else {
            return Some(admitted);
        };
        match self.behind.get_mut(&kin) {
            Some(behind) => {
                self.len += 1;
                if admitted.attempts.is_empty() {
                    behind.push_back(admitted)
                } else {
                    behind.push_front(admitted)
                }
                None
            }
            None => {
                self.behind.insert(kin, VecDeque::new());
                lead(&mut admitted, true);
                Some(admitted)
            }
        }
    }

    /// Takes out those that go with `first`.
    pub(crate) fn company(
        &mut self,
        first: &AdmittedJob,
        mut ask: impl FnMut(&AdmittedJob) -> MergeFit,
    ) -> Vec<AdmittedJob> {
        let behind = kin(first).and_then(|kin| self.behind.get_mut(&kin));
        let Some(behind) = behind.filter(|_| leads(first)) else {
            return Vec::new();
        };
        let (mut company, mut stays) = (Vec::new(), VecDeque::new());
        while let Some(admitted) = behind.pop_front() {
            match ask(&admitted) {
                MergeFit::Take => company.push(admitted),
                MergeFit::Stay => stays.push_back(admitted),
                MergeFit::Full => {
                    behind.push_front(admitted);
                    break;
                }
            }
        }
        stays.append(behind);
        *behind = stays;
        self.len -= company.len();
        company
    }

    /// `first` leaves the line. Returns the one that waits there next, if any is behind it.
    pub(crate) fn next(&mut self, first: &mut AdmittedJob) -> Option<AdmittedJob> {
        if !leads(first) {
            return None;
        }
        lead(first, false);
        let kin = kin(first)?;
        let Some(mut next) = self.behind.get_mut(&kin)?.pop_front() else {
            self.behind.remove(&kin);
            return None;
        };
        self.len -= 1;
        lead(&mut next, true);
        Some(next)
    }

    /// Takes out every job behind another for which `which` holds.
    pub(crate) fn remove_where(
        &mut self,
        which: impl Fn(&AdmittedJob) -> bool,
    ) -> Vec<AdmittedJob> {
        let mut removed = Vec::new();
        for behind in self.behind.values_mut() {
            let (out, kept): (Vec<_>, VecDeque<_>) = {
                let (out, kept): (Vec<_>, Vec<_>) = behind.drain(..).partition(&which);
                (out, kept.into())
            };
            *behind = kept;
            removed.extend(out);
        }
        self.len -= removed.len();
        removed
    }
}

fn kin(admitted: &AdmittedJob) -> Option<MergeKey> {
    let join = admitted.join.as_ref()?;
    Some((admitted.flow.clone(), Arc::clone(&join.key), join.part))
}

/// Whether a job waits in line for those behind it.
pub(crate) fn leads(admitted: &AdmittedJob) -> bool {
    admitted.join.as_ref().is_some_and(|join| join.leads)
}

fn lead(admitted: &mut AdmittedJob, leads: bool) {
    if let Some(join) = &mut admitted.join {
        join.leads = leads;
    }
}
