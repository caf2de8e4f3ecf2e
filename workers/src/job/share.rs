//! Coalescing, as one job sees it: whether another answer may serve it, and the duty of a leader to report its end.

use std::time::Duration;

use forebay_schemas::{Cache, Completion, Job, Lane, Status};
use tokio::sync::mpsc::UnboundedSender;

use crate::large::{LARGE, size_of};
use crate::store::results::RequestKey;
use forebay_providers::file_of;

/// The key of coalesced jobs. The lane is a part of it: an interactive job must not wait for a bulk one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CoalesceKey {
    pub(crate) request: RequestKey,
    pub(crate) lane: Lane,
}

/// How another job's answer may serve a job.
#[derive(Debug)]
pub(crate) struct CoalesceRequest {
    /// The greatest age of a cached answer; zero if only a call in flight may serve.
    pub(crate) max_age: Duration,
    /// Set while the job leads others.
    pub(crate) leader: Option<CoalesceLeader>,
}

impl CoalesceRequest {
    /// As the job asks, or else its pool; `None` if no other answer may serve it.
    pub(crate) fn of(job: &Job, pool: Cache) -> Option<Self> {
        let max_age = job.cache.unwrap_or(pool).max_age()?;
        if file_of(job).is_some() {
            // The object of that name may have been replaced by another file.
            return None;
        }
        Some(Self {
            max_age,
            leader: None,
        })
    }
}

/// How a leader ended, for its followers.
#[derive(Debug)]
pub(crate) enum LeaderOutcome {
    /// It has an answer that serves them.
    Succeeded(Box<Completion>),
    /// It was called and has no answer that serves them. Each of them makes its own call.
    Failed,
    /// Its call was not made to the end. One of them leads the others.
    Abandoned,
}

/// The duty of a leader: to report how it ended, however it ends.
#[derive(Debug)]
pub(crate) struct CoalesceLeader {
    key: CoalesceKey,
    outcome: LeaderOutcome,
    reports: UnboundedSender<(CoalesceKey, LeaderOutcome)>,
}

impl CoalesceLeader {
    /// The leader of the jobs that wait for `key`.
    pub(crate) fn new(
        key: CoalesceKey,
        reports: UnboundedSender<(CoalesceKey, LeaderOutcome)>,
    ) -> Self {
        Self {
            key,
            outcome: LeaderOutcome::Abandoned,
            reports,
        }
    }

    /// Notes the leader's completion. An answer of 1 MiB or more does not serve followers: there is no room for a copy of
    /// it for each.
    pub(crate) fn ended(&mut self, completion: &Completion) {
        self.outcome = match completion.status {
            Status::Succeeded if size_of(completion) < LARGE => {
                LeaderOutcome::Succeeded(Box::new(completion.clone()))
            }
            Status::Succeeded | Status::Failed => LeaderOutcome::Failed,
            Status::Expired | Status::Cancelled => LeaderOutcome::Abandoned,
        };
    }
}

impl Drop for CoalesceLeader {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, LeaderOutcome::Abandoned);
        // Without a receiver the process ends; the followers are then delivered again.
        let _ = self.reports.send((self.key.clone(), outcome));
    }
}
