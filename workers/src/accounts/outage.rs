//! The cause of a failed call: the job, or an outage of the provider or the network.
//!
//! # Why
//!
//! A job that makes calls fail has to end after a few attempts. An outage must not use up the attempts of the jobs that happen
//! to be called meanwhile. Both fail with the same words.
//!
//! # How
//!
//! The calls of other jobs decide. A failure is the job's if another call of the model succeeded meanwhile, or since the job's
//! failure before. Else it belongs to an outage in each of these cases:
//!
//! - The provider or the network itself says so: it is overloaded, or it cannot be reached.
//! - The call probed a model that had stopped.
//! - Another job failed since the last success, and one of these jobs is above suspicion.
//!
//! A job is suspect once [`SUSPICIOUS_FAILURES`] of its failures counted, or once it failed before and after
//! [`SEVERAL_SUCCESSES`] calls in a row that succeeded. Suspect jobs alone show no outage: the last lines of a
//! batch may be all bad.
//!
//! # Invariants
//!
//! - A success ends the outage.
//! - An outage lasts from its first failure. A pause of more than [`LONGEST_PAUSE`] without a call ends it, since nothing is
//!   known of that time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Number of failures by its own fault that make a job suspect.
const SUSPICIOUS_FAILURES: u32 = 2;
/// Number of successes between two failures of a job that make it suspect.
const SEVERAL_SUCCESSES: usize = 10;
/// Longest time between a failure and the start of the next failing call of the same outage.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// A call that failed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailedCall {
    /// The job, as a number.
    pub(crate) job: u64,
    /// The time at which the call was permitted.
    pub(crate) began: Instant,
    /// The earlier failures of the job.
    pub(crate) before: EarlierFailures,
    /// True if the call probed a model that had stopped.
    pub(crate) is_probe: bool,
    /// True if the provider or the network says that it fails, whatever the job.
    pub(crate) names_outage: bool,
}

/// The earlier failures of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct EarlierFailures {
    /// The end of the first one.
    pub(crate) first: Option<Instant>,
    /// The end of the last one.
    pub(crate) last: Option<Instant>,
    /// The number of those that counted as the job's.
    pub(crate) counted: u32,
}

/// The cause of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureCause {
    /// The job may be at fault. The attempt counts.
    Job,
    /// The provider or the network fails, since this time.
    Outage(Instant),
}

/// The failures of a model's calls since the last success.
#[derive(Debug, Default)]
pub(super) struct OutageWatch {
    /// The times of the last successes, the latest last.
    successes: VecDeque<Instant>,
    row: Option<FailureRow>,
}

/// Failures without a success in between.
#[derive(Debug)]
struct FailureRow {
    since: Instant,
    last: Instant,
    first_job: u64,
    has_several_jobs: bool,
    has_unsuspected_job: bool,
}

impl OutageWatch {
    /// Notes that a call succeeded, or that the provider refused it.
    pub(super) fn succeeded(&mut self, now: Instant) {
        if self.successes.len() == SEVERAL_SUCCESSES {
            self.successes.pop_front();
        }
        self.successes.push_back(now);
        self.row = None;
    }

    /// Takes in a failed call and returns its cause.
    pub(super) fn failed(&mut self, call: FailedCall, now: Instant) -> FailureCause {
        let known_to_fail = call.before.last.unwrap_or(call.began);
        if self.successes.back().is_some_and(|at| *at >= known_to_fail) {
            return FailureCause::Job;
        }
        let is_suspect = self.is_suspect(call.before);
        let row = self.row.take();
        let row = row.filter(|row| row.last + LONGEST_PAUSE >= call.began);
        let row = self.row.insert(row.unwrap_or(FailureRow {
            since: now,
            last: now,
            first_job: call.job,
            has_several_jobs: false,
            has_unsuspected_job: false,
        }));
        row.last = now;
        row.has_several_jobs |= row.first_job != call.job;
        row.has_unsuspected_job |= !is_suspect;
        let is_shown_by_call = !is_suspect && (call.names_outage || call.is_probe);
        let is_shown_by_jobs = row.has_several_jobs && row.has_unsuspected_job;
        match is_shown_by_call || is_shown_by_jobs {
            true => FailureCause::Outage(row.since),
            false => FailureCause::Job,
        }
    }

    /// Returns true if a job that failed before shall not show an outage.
    fn is_suspect(&self, before: EarlierFailures) -> bool {
        let failed_around = |(first, last): (Instant, Instant)| {
            let oldest = self.successes.front().is_some_and(|at| *at >= first);
            let latest = self.successes.back().is_some_and(|at| *at <= last);
            self.successes.len() == SEVERAL_SUCCESSES && oldest && latest
        };
        before.counted >= SUSPICIOUS_FAILURES
            || before.first.zip(before.last).is_some_and(failed_around)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const SUSPECT: EarlierFailures = EarlierFailures {
        first: None,
        last: None,
        counted: SUSPICIOUS_FAILURES,
    };

    fn call(job: u64, began: Instant) -> FailedCall {
        FailedCall {
            job,
            began,
            before: EarlierFailures::default(),
            is_probe: false,
            names_outage: false,
        }
    }

    #[test]
    fn failures_of_several_jobs_are_an_outage_from_the_first_one_on() {
        let mut watch = OutageWatch::default();
        let start = Instant::now();
        assert_eq!(watch.failed(call(1, start), start), FailureCause::Job);
        assert_eq!(
            watch.failed(call(1, start), start + SECOND),
            FailureCause::Job
        );
        let later = start + SECOND * 2;
        let outage = FailureCause::Outage(start);
        assert_eq!(watch.failed(call(2, later), later), outage);
        assert_eq!(watch.failed(call(1, later), later), outage);
        watch.succeeded(later);
        let after = later + SECOND;
        assert_eq!(watch.failed(call(1, after), after), FailureCause::Job);
    }

    #[test]
    fn a_failure_beside_a_success_is_the_jobs() {
        let mut watch = OutageWatch::default();
        let start = Instant::now();
        watch.succeeded(start + SECOND);
        for job in 0..9 {
            let names_outage = FailedCall {
                names_outage: true,
                ..call(job, start)
            };
            let cause = watch.failed(names_outage, start + SECOND * 2);
            assert_eq!(cause, FailureCause::Job);
        }
    }

    #[test]
    fn a_success_between_two_failures_of_a_job_shows_its_fault() {
        let start = Instant::now();
        let began = start + SECOND * 2;
        let outage = FailureCause::Outage(began);
        for (last, cause) in [
            (Some(start), FailureCause::Job),
            (Some(start + SECOND * 2), outage),
            (None, outage),
        ] {
            let mut watch = OutageWatch::default();
            watch.succeeded(start + SECOND);
            let failed = FailedCall {
                before: EarlierFailures {
                    last,
                    ..EarlierFailures::default()
                },
                names_outage: true,
                ..call(1, began)
            };
            assert_eq!(watch.failed(failed, began), cause, "{last:?}");
        }
    }

    #[test]
    fn one_job_shows_an_outage_where_the_provider_says_so_or_the_call_probes() {
        for (names_outage, is_probe) in [(true, false), (false, true)] {
            let start = Instant::now();
            let shows = FailedCall {
                names_outage,
                is_probe,
                ..call(1, start)
            };
            let cause = OutageWatch::default().failed(shows, start);
            assert_eq!(cause, FailureCause::Outage(start));
            let suspect = FailedCall {
                before: SUSPECT,
                ..shows
            };
            let cause = OutageWatch::default().failed(suspect, start);
            assert_eq!(cause, FailureCause::Job);
        }
    }

    #[test]
    fn suspect_jobs_alone_show_no_outage() {
        let mut watch = OutageWatch::default();
        let start = Instant::now();
        for job in 0..9 {
            let suspect = FailedCall {
                before: SUSPECT,
                ..call(job, start)
            };
            assert_eq!(watch.failed(suspect, start), FailureCause::Job);
        }
        let outage = FailureCause::Outage(start);
        assert_eq!(watch.failed(call(9, start), start), outage);
    }

    #[test]
    fn a_job_that_failed_before_and_after_several_successes_is_suspect() {
        let start = Instant::now();
        let mut watch = OutageWatch::default();
        for success in 0..SEVERAL_SUCCESSES as u32 {
            watch.succeeded(start + SECOND * (success + 1));
        }
        let after = start + SECOND * 20;
        for (first, cause) in [
            (start, FailureCause::Job),
            (start + SECOND * 5, FailureCause::Outage(after)),
        ] {
            let failed = FailedCall {
                before: EarlierFailures {
                    first: Some(first),
                    last: Some(after),
                    counted: 1,
                },
                names_outage: true,
                ..call(1, after)
            };
            assert_eq!(watch.failed(failed, after), cause);
        }
    }

    #[test]
    fn a_long_pause_without_calls_is_no_outage() {
        let mut watch = OutageWatch::default();
        let start = Instant::now();
        watch.failed(call(1, start), start);
        let after = start + LONGEST_PAUSE + SECOND;
        assert_eq!(watch.failed(call(2, after), after), FailureCause::Job);
        let outage = FailureCause::Outage(after);
        assert_eq!(watch.failed(call(3, after), after), outage);
    }
}
