//! Refusals that name no fault of the request: the account, the model or the address may be the reason.
//!
//! # Why
//!
//! An account that is closed, or an address that is wrong, refuses every job in words that no rule knows. If each refusal
//! ended its job, a batch of any size would be lost in seconds. If none did, a bad job would wait for ever.
//!
//! # How
//!
//! A refused job is tried again. What happens to other jobs meanwhile decides:
//!
//! - If a call of another job succeeded since its refusal, the job is at fault, and its second refusal ends it.
//! - If [`LEAST_JOBS`] jobs in a row got the same refusal, the account is at fault. The model cools there, longer each time,
//!   and all these jobs wait. A probe shows when the account serves again. One refusal suffices if only the address can be
//!   the reason, and no call has succeeded in the last minute.
//! - If fewer jobs were called, nothing is known. The second refusal ends the job.
//!
//! # Invariants
//!
//! - A call that succeeds ends the row of refusals.
//! - Refusals of one team's jobs cool nothing for another team that calls, too.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::circuit::CallOrigin;

/// Number of jobs in a row with the same refusal that show a fault of the account.
const LEAST_JOBS: usize = 3;
/// Number of refused jobs that are remembered.
const MAX_REMEMBERED_JOBS: usize = 64;
/// Age at which a success no longer shows that the address is right.
const LATELY: Duration = Duration::from_secs(60);
/// The first cooldown. It doubles with each further one, up to the longest.
const FIRST_WAIT: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// The judgement of a refusal that names no fault of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalJudgement {
    /// The job is at fault.
    OfJob,
    /// It is not known yet. The job is tried once more.
    Unknown,
    /// The account is at fault, and should not be called for this long.
    OfAccount(Duration),
}

/// A refusal that names no fault of the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnexplainedRefusal {
    /// A number that equal refusals have in common.
    pub(crate) kind: u64,
    /// True if only the address can be the reason, as of a redirect.
    pub(crate) is_of_address: bool,
}

/// The refusals of a model's calls at an account since the last success.
#[derive(Debug, Default)]
pub(super) struct UnexplainedRefusals {
    /// Each refused job with the number of successes before its last refusal. The latest is last.
    jobs: VecDeque<(u64, u64)>,
    /// The jobs that got the same refusal since the last success, without repetitions.
    row: Vec<CallOrigin>,
    /// The refusal that they got, as a number.
    kind: u64,
    /// The number of calls that succeeded, and the time of the last one.
    successes: u64,
    last_success: Option<Instant>,
    /// The number of cooldowns since the last success, and the end of the last one.
    cooldowns: u32,
    cooled_until: Option<Instant>,
}

impl UnexplainedRefusals {
    /// Notes that a call succeeded.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.successes += 1;
        self.last_success = Some(now);
        self.row.clear();
        self.cooldowns = 0;
        self.cooled_until = None;
    }

    /// Judges a refusal, where so many teams called lately.
    pub(super) fn judge(
        &mut self,
        origin: CallOrigin,
        refusal: UnexplainedRefusal,
        teams: usize,
        now: Instant,
    ) -> RefusalJudgement {
        let before = self.remember(origin.job);
        if before.is_some_and(|successes| successes < self.successes) {
            return RefusalJudgement::OfJob;
        }
        if std::mem::replace(&mut self.kind, refusal.kind) != refusal.kind {
            self.row.clear();
        }
        if !self.row.contains(&origin) && self.row.len() < MAX_REMEMBERED_JOBS {
            self.row.push(origin);
        }
        let succeeds = self.last_success.is_some_and(|at| at + LATELY >= now);
        if (refusal.is_of_address && !succeeds) || self.shows_account(teams) {
            return RefusalJudgement::OfAccount(self.wait(now));
        }
        match before {
            Some(_) => RefusalJudgement::OfJob,
            None => RefusalJudgement::Unknown,
        }
    }

    /// Remembers a refused job. Returns the number of successes before its last refusal; `None` for its first one.
    fn remember(&mut self, job: u64) -> Option<u64> {
        let known = self.jobs.iter().position(|(known, _)| *known == job);
        let before = known.and_then(|index| self.jobs.remove(index));
        if self.jobs.len() >= MAX_REMEMBERED_JOBS {
            self.jobs.pop_front();
        }
        self.jobs.push_back((job, self.successes));
        before.map(|(_, successes)| successes)
    }

    fn shows_account(&self, teams: usize) -> bool {
        let first = self.row.first().map(|origin| origin.team);
        let of_several = self.row.iter().any(|origin| Some(origin.team) != first);
        self.row.len() >= LEAST_JOBS && (of_several || teams < 2)
    }

    /// Returns the length of the cooldown. Calls that were under way together are refused together, which counts once.
    fn wait(&mut self, now: Instant) -> Duration {
        if self.cooled_until.is_none_or(|until| until <= now) {
            self.cooldowns += 1;
            let wait = FIRST_WAIT * 2u32.saturating_pow(self.cooldowns - 1);
            self.cooled_until = Some(now + wait.min(LONGEST_WAIT));
        }
        let until = self.cooled_until.unwrap_or(now);
        until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: UnexplainedRefusal = of_kind(7);

    const fn of_kind(kind: u64) -> UnexplainedRefusal {
        UnexplainedRefusal {
            kind,
            is_of_address: false,
        }
    }

    fn job(job: u64) -> CallOrigin {
        CallOrigin { team: 1, job }
    }

    /// Judges the refusals of these jobs, where one team alone calls.
    fn judged(refusals: &mut UnexplainedRefusals, jobs: &[u64]) -> Vec<RefusalJudgement> {
        let now = Instant::now();
        let judge = |number: &u64| refusals.judge(job(*number), KIND, 1, now);
        jobs.iter().map(judge).collect()
    }

    const COOLED: RefusalJudgement = RefusalJudgement::OfAccount(FIRST_WAIT);
    const UNKNOWN: RefusalJudgement = RefusalJudgement::Unknown;
    const OF_JOB: RefusalJudgement = RefusalJudgement::OfJob;

    #[tokio::test(start_paused = true)]
    async fn a_row_of_jobs_shows_the_account_and_its_jobs_wait_until_it_serves() {
        let mut refusals = UnexplainedRefusals::default();
        let all = judged(&mut refusals, &[1, 2, 3, 4, 1]);
        assert_eq!(all, [UNKNOWN, UNKNOWN, COOLED, COOLED, COOLED]);
        tokio::time::advance(FIRST_WAIT).await;
        let probe = judged(&mut refusals, &[2]);
        assert_eq!(probe, [RefusalJudgement::OfAccount(2 * FIRST_WAIT)]);
        refusals.succeeded(Instant::now());
        assert_eq!(judged(&mut refusals, &[5, 3]), [UNKNOWN, OF_JOB]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_is_at_fault_if_others_succeed_or_none_is_called() {
        let mut refusals = UnexplainedRefusals::default();
        assert_eq!(judged(&mut refusals, &[1]), [UNKNOWN]);
        refusals.succeeded(Instant::now());
        assert_eq!(judged(&mut refusals, &[1]), [OF_JOB]);
        let mut alone = UnexplainedRefusals::default();
        assert_eq!(
            judged(&mut alone, &[1, 2, 1, 2]),
            [UNKNOWN, UNKNOWN, OF_JOB, OF_JOB]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_teams_refusals_and_those_of_different_kinds_show_no_account() {
        let mut refusals = UnexplainedRefusals::default();
        let now = Instant::now();
        for number in 1..9 {
            let judged = refusals.judge(job(number), KIND, 2, now);
            assert_eq!(judged, UNKNOWN, "another team calls");
        }
        let other = CallOrigin { team: 2, job: 9 };
        assert_eq!(refusals.judge(other, KIND, 2, now), COOLED);
        let mut refusals = UnexplainedRefusals::default();
        for number in 1..9 {
            assert_eq!(
                refusals.judge(job(number), of_kind(number), 1, now),
                UNKNOWN
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_redirect_shows_the_account_unless_calls_succeed() {
        let mut refusals = UnexplainedRefusals::default();
        let redirect = UnexplainedRefusal {
            is_of_address: true,
            ..KIND
        };
        let judged = refusals.judge(job(1), redirect, 2, Instant::now());
        assert_eq!(judged, COOLED);
        refusals.succeeded(Instant::now());
        let judged = refusals.judge(job(2), redirect, 2, Instant::now());
        assert_eq!(judged, UNKNOWN);
        tokio::time::advance(2 * LATELY).await;
        let judged = refusals.judge(job(3), redirect, 2, Instant::now());
        assert_eq!(judged, COOLED);
    }
}
