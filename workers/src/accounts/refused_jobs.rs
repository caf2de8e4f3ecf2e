//! The jobs that a limit refused lately, so that one job's refusals teach nothing twice.
//!
//! # Why
//!
//! A refusal widens timing margins and lowers a limit that was found, for all teams. A prompt at which a provider answers 429
//! each time would do that with each of its calls, although other calls are accepted.
//!
//! # How
//!
//! A refusal of a job that was refused before teaches nothing if ten calls were accepted that were permitted after that.
//! Then the job, and not the limit, may be the reason. Fewer accepted calls show little: a limit of a few calls a minute
//! accepts some before it refuses the same job again.

use std::collections::VecDeque;

use tokio::time::Instant;

/// Number of accepted calls after which the job may be the reason of its next refusal.
const ENOUGH_ACCEPTED: usize = 10;
/// Number of the jobs that are remembered.
const MAX_REMEMBERED_JOBS: usize = 64;

/// The jobs that a limit of one model refused lately.
#[derive(Debug, Default)]
pub(super) struct RefusedJobs {
    /// Each job with the time of its last refusal, the latest last.
    refused: VecDeque<(u64, Instant)>,
    /// The times at which the last [`ENOUGH_ACCEPTED`] accepted calls were permitted, the latest last.
    accepted: VecDeque<Instant>,
}

impl RefusedJobs {
    /// Notes that a call was accepted which was permitted at `granted`.
    pub(super) fn accepted(&mut self, granted: Instant) {
        let later = self.accepted.partition_point(|at| *at <= granted);
        self.accepted.insert(later, granted);
        if self.accepted.len() > ENOUGH_ACCEPTED {
            self.accepted.pop_front();
        }
    }

    /// Notes that a call of `job` was refused. Returns true if that says something about the limit.
    pub(super) fn refused(&mut self, job: u64, now: Instant) -> bool {
        let before = self.refused.iter().position(|(other, _)| *other == job);
        let before = before.and_then(|index| self.refused.remove(index));
        if self.refused.len() == MAX_REMEMBERED_JOBS {
            self.refused.pop_front();
        }
        self.refused.push_back((job, now));
        before.is_none_or(|(_, at)| !self.has_enough_since(at))
    }

    /// Returns true if enough calls were accepted that were permitted after `at`.
    fn has_enough_since(&self, at: Instant) -> bool {
        let first = self.accepted.front();
        self.accepted.len() == ENOUGH_ACCEPTED && first.is_some_and(|first| *first > at)
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
        (0..ENOUGH_ACCEPTED).for_each(|_| jobs.accepted(at(1)));
        assert!(jobs.refused(1, at(3)), "those calls began before");
        (1..ENOUGH_ACCEPTED).for_each(|_| jobs.accepted(at(4)));
        assert!(jobs.refused(1, at(4)), "too few calls");
        (0..ENOUGH_ACCEPTED).for_each(|_| jobs.accepted(at(5)));
        assert!(!jobs.refused(1, at(6)), "the job alone is refused");
        assert!(jobs.refused(2, at(6)), "another job");
    }
}
