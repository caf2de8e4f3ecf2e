//! A job whose answer may serve others, and its duty to tell them what came of it.

use std::time::Duration;

use forebay_schemas::{Cache, Completion, Job, Lane, Status};
use tokio::sync::mpsc::UnboundedSender;

use crate::large::{LARGE, size_of};
use crate::store::results::RequestKey;
use forebay_providers::file_of;

/// Which request of whom, and how urgent it is: who is in a hurry does not wait for somebody who is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CoalesceKey {
    pub(crate) request: RequestKey,
    pub(crate) lane: Lane,
}

/// A job that another one's answer may serve.
#[derive(Debug)]
pub(crate) struct CoalesceRequest {
    /// How old an answer may be.
    pub(crate) within: Duration,
    /// There from when it is called for others too.
    pub(crate) lead: Option<CoalesceLeader>,
}

impl CoalesceRequest {
    /// As a job asks, or else its pool.
    pub(crate) fn of(job: &Job, pool: Cache) -> Option<Self> {
        let within = job.cache.unwrap_or(pool).max_age()?;
        // The file that it names may be another one under the same name.
        file_of(job)
            .is_none()
            .then_some(Self { within, lead: None })
    }
}

/// What came of a job that was called for others too.
#[derive(Debug)]
pub(crate) enum LeaderOutcome {
    /// The answer, which serves them.
    Answered(Box<Completion>),
    /// Nothing that serves them, though it was asked: they are called by themselves.
    Asked,
    /// It was not asked to the end: another one may be called for them.
    Nowhere,
}

/// The duty of a job that is called for others too: to tell what came of it, however it ends.
#[derive(Debug)]
pub(crate) struct CoalesceLeader {
    errand: CoalesceKey,
    led: LeaderOutcome,
    ended: UnboundedSender<(CoalesceKey, LeaderOutcome)>,
}

impl CoalesceLeader {
    /// The duty to tell those that wait for `errand`.
    pub(crate) fn new(
        errand: CoalesceKey,
        ended: UnboundedSender<(CoalesceKey, LeaderOutcome)>,
    ) -> Self {
        Self {
            errand,
            led: LeaderOutcome::Nowhere,
            ended,
        }
    }

    /// The job has ended so. A large answer does not serve others: there is no room for many of them at once.
    pub(crate) fn ended(&mut self, completion: &Completion) {
        self.led = match completion.status {
            Status::Succeeded if size_of(completion) < LARGE => {
                LeaderOutcome::Answered(Box::new(completion.clone()))
            }
            Status::Succeeded | Status::Failed => LeaderOutcome::Asked,
            Status::Expired | Status::Cancelled => LeaderOutcome::Nowhere,
        };
    }
}

impl Drop for CoalesceLeader {
    fn drop(&mut self) {
        let led = std::mem::replace(&mut self.led, LeaderOutcome::Nowhere);
        // Without a receiver the process ends; what waits is then delivered again.
        let _ = self.ended.send((self.errand.clone(), led));
    }
}
