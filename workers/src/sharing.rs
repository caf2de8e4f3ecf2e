//! Jobs that wait for the answer to the same request of another one, which is called for all of them.

use std::collections::HashMap;
use std::time::Duration;

use forebay_schemas::{Completion, Job, Reuse};
use tokio::sync::mpsc::UnboundedSender;

use crate::content;
use crate::dispatch::Arrived;
use crate::results::Request;
use crate::staged::Staged;

/// So many may wait without a place in their flow's stage, so that others of it are read meanwhile.
const MOST_WITHOUT_PLACE: usize = 4_096;

/// A job that another one's answer may serve.
#[derive(Debug)]
pub(crate) struct Share {
    /// How old an answer may be.
    pub(crate) within: Duration,
    /// There from when it is called for others too.
    pub(crate) lead: Option<Lead>,
}

impl Share {
    /// As a job asks, or else its pool.
    pub(crate) fn of(job: &Job, pool: Reuse) -> Option<Self> {
        let within = job.reuse.unwrap_or(pool).within()?;
        // The file that it names may be another one under the same name.
        content::file_of(job).is_none().then_some(Self { within, lead: None })
    }
}

/// The duty of a job that is called for others too: to tell what came of it. Dropping it tells that nothing did.
#[derive(Debug)]
pub(crate) struct Lead {
    request: Request,
    answer: Option<Box<Completion>>,
    stage: UnboundedSender<Arrived>,
}

impl Lead {
    /// This is the answer, for all of them.
    pub(crate) fn answered(&mut self, completion: &Completion) {
        self.answer = Some(Box::new(completion.clone()));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        // Nobody receives any more only when the process ends; what waits is then delivered again.
        let _ = self.stage.send(Arrived::Led(self.request.clone(), self.answer.take()));
    }
}

/// Jobs that wait for another one's answer.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    behind: HashMap<Request, Vec<Staged>>,
    len: usize,
}

impl Sharing {
    /// How many wait for others.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes a job in that waits for another one's answer, if there is one that is called for it; else returns it.
    pub(crate) fn meet(&mut self, mut staged: Staged) -> Option<Staged> {
        let Some(behind) = self.behind.get_mut(&staged.request()) else { return Some(staged) };
        if self.len < MOST_WITHOUT_PLACE {
            drop(staged.claim.slot.take());
        }
        self.len += 1;
        behind.push(staged);
        None
    }

    /// From now on a job is called for others too.
    pub(crate) fn lead(&mut self, staged: &mut Staged, stage: &UnboundedSender<Arrived>) {
        let request = staged.request();
        if let Some(share) = &mut staged.share {
            self.behind.insert(request.clone(), Vec::new());
            share.lead = Some(Lead { request, answer: None, stage: stage.clone() });
        }
    }

    /// The job that was called for them has ended: returns them.
    pub(crate) fn led(&mut self, request: &Request) -> Vec<Staged> {
        let behind = self.behind.remove(request).unwrap_or_default();
        self.len -= behind.len();
        behind
    }

    /// Takes out every job that waits for another for which `which` holds.
    pub(crate) fn remove_where(&mut self, which: impl Fn(&Staged) -> bool) -> Vec<Staged> {
        let mut removed = Vec::new();
        for behind in self.behind.values_mut() {
            removed.extend(behind.extract_if(.., |staged| which(staged)));
        }
        self.len -= removed.len();
        removed
    }
}
