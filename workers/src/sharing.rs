//! Jobs that wait for the answer to the same request of another one, which is called for all of them.

use std::collections::HashMap;
use std::time::Duration;

use forebay_schemas::{Cache, Completion, Job, Lane, Status};
use tokio::sync::mpsc::UnboundedSender;

use crate::content;
use crate::dispatch::Arrived;
use crate::large::{LARGE, size_of};
use crate::results::Request;
use crate::staged::Staged;

/// So many may wait without a place in their flow's stage, so that others of it are read meanwhile.
const MOST_WITHOUT_PLACE: usize = 4_096;

/// Which request of whom, and how urgent it is: who is in a hurry does not wait for somebody who is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Errand {
    request: Request,
    lane: Lane,
}

impl Errand {
    fn of(staged: &Staged) -> Self {
        Self {
            request: staged.request(),
            lane: staged.flow.lane,
        }
    }
}

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
    pub(crate) fn of(job: &Job, pool: Cache) -> Option<Self> {
        let within = job.cache.unwrap_or(pool).max_age()?;
        // The file that it names may be another one under the same name.
        content::file_of(job)
            .is_none()
            .then_some(Self { within, lead: None })
    }
}

/// What came of a job that was called for others too.
#[derive(Debug)]
pub(crate) enum Led {
    /// The answer, which serves them.
    Answered(Box<Completion>),
    /// Nothing that serves them, though it was asked: they are called by themselves.
    Asked,
    /// It was not asked to the end: another one may be called for them.
    Nowhere,
}

/// The duty of a job that is called for others too: to tell what came of it, however it ends.
#[derive(Debug)]
pub(crate) struct Lead {
    errand: Errand,
    led: Led,
    stage: UnboundedSender<Arrived>,
}

impl Lead {
    /// The job has ended so. A large answer does not serve others: there is no room for many of them at once.
    pub(crate) fn ended(&mut self, completion: &Completion) {
        self.led = match completion.status {
            Status::Succeeded if size_of(completion) < LARGE => {
                Led::Answered(Box::new(completion.clone()))
            }
            Status::Succeeded | Status::Failed => Led::Asked,
            Status::Expired | Status::Cancelled => Led::Nowhere,
        };
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let led = std::mem::replace(&mut self.led, Led::Nowhere);
        // Nobody receives any more only when the process ends; what waits is then delivered again.
        let _ = self.stage.send(Arrived::Led(self.errand.clone(), led));
    }
}

/// Jobs that wait for another one's answer.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    behind: HashMap<Errand, Vec<Staged>>,
    len: usize,
}

impl Sharing {
    /// How many wait for others.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes a job in that waits for another one's answer. Returns it if it is the first, and will be called for those
    /// that come after it.
    pub(crate) fn meet(
        &mut self,
        mut staged: Staged,
        stage: &UnboundedSender<Arrived>,
    ) -> Option<Staged> {
        let errand = Errand::of(&staged);
        if let Some(behind) = self.behind.get_mut(&errand) {
            if self.len < MOST_WITHOUT_PLACE {
                drop(staged.claim.slot.take());
            }
            self.len += 1;
            behind.push(staged);
            return None;
        }
        if let Some(share) = &mut staged.share {
            self.behind.insert(errand.clone(), Vec::new());
            share.lead = Some(Lead {
                errand,
                led: Led::Nowhere,
                stage: stage.clone(),
            });
        }
        Some(staged)
    }

    /// The job that was called for them has ended: returns them.
    pub(crate) fn led(&mut self, errand: &Errand) -> Vec<Staged> {
        let behind = self.behind.remove(errand).unwrap_or_default();
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
