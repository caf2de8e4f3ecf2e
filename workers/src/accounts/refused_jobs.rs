//! The jobs that a limit refused lately, so that one job's refusals teach nothing twice.
//!
//! # Why
//!
//! A refusal widens timing margins and lowers a limit that was found, for all teams. A prompt at which a provider answers 429
//! each time would do that with each of its calls, although other calls are accepted.
//!
//! # How
//!
//! A refusal of a job that was refused before teaches something only if no call was accepted that was permitted after
//! that. Then the limit, and not the job, may be the reason.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Number of the jobs that are remembered.
const MAX_REMEMBERED_JOBS: usize = 64;

/// The jobs that a limit of one model refused lately.
#[derive(Debug, Default)]
pub(super) struct RefusedJobs {
    /// Each job with the time of its last refusal, the latest last.
    refused: VecDeque<(u64, Instant)>,
    /// The last time at which a call was permitted that was then accepted.
    accepted: Option<Instant>,
}

impl RefusedJobs {
    /// Notes that a call was accepted which was permitted at `granted`.
    pub(super) fn accepted(&mut self, granted: Instant) {
        self.accepted = self.accepted.max(Some(granted));
    }

    /// Notes that a call of `job` was refused. Returns true if that says something about the limit.
    pub(super) fn refused(&mut self, job: u64, now: Instant) -> bool {
        let before = self.refused.iter().position(|(other, _)| *other == job);
        let before = before.and_then(|index| self.refused.remove(index));
        if self.refused.len() == MAX_REMEMBERED_JOBS {
            self.refused.pop_front();
        }
        self.refused.push_back((job, now));
        before.is_none_or(|(_, at)| self.accepted.is_none_or(|accepted| accepted <= at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_job_that_is_refused_again_teaches_nothing_while_other_calls_are_accepted() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut jobs = RefusedJobs::default();
        assert!(jobs.refused(1, at(1)));
        assert!(jobs.refused(1, at(2)), "no other call was accepted");
        jobs.accepted(at(1));
        assert!(jobs.refused(1, at(3)), "that call began before");
        jobs.accepted(at(4));
        assert!(!jobs.refused(1, at(5)), "the job alone is refused");
        assert!(jobs.refused(2, at(5)), "another job");
    }
}
