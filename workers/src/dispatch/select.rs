//! Selects a target for each waiting job, one pass over the fair queue at a time.
//!
//! # Why
//!
//! A job may be served by several accounts, in tiers. The selection must fill each account to its limit and prefer the
//! lower tiers. It must never let a small job take the capacity that a larger one ahead of it waits for.
//!
//! # How
//!
//! The fair queue offers its jobs in order. For each job the candidates are tried by rank: fewest failures of this job
//! first, then the lowest tier. Within a rank, the target with the most headroom comes first, its weight considered. The
//! first target whose account grants a permit gets the job.
//!
//! A candidate of a higher rank is tried only if one of these holds. Otherwise the job waits for the lower ranks.
//!
//! - No candidate of a lower rank could be asked for this job: all of them are backing off.
//! - The job has waited for as long as the tier's `after` says.
//! - No lower rank can serve the job before that time, or before the job's deadline.
//!
//! # Invariants
//!
//! - A target that denies a job for now is closed for the rest of the pass, so no later job overtakes it there. A target
//!   that can never serve a job denies that job alone.
//! - A job that has failed probes no target while another job waits that may: its failure may be that of its prompt.
//! - A team's own limits hold up that team alone: its jobs are skipped and no target is closed.
//! - A job that none of its candidates can ever serve is taken without a permit, so that the dispatcher ends it.

use tokio::time::Instant;

use crate::accounts::{Denied, Permit};
use crate::dispatch::fair_queue::Offer;
use crate::job::admitted_job::AdmittedJob;
use crate::job::candidates::{CandidateRank, CandidateState};
use crate::queue::Queue;
use crate::worker_state::WorkerState;

/// The most that a job counts in its team's and lane's turn, in tokens: a wrong estimate must not cost them more turns than
/// the largest call is worth. The jobs that are merged into a call count this much again at most.
pub(crate) const MAX_COST_PER_TURN: u64 = 1_000_000;

/// One pass over the fair queue.
pub(crate) struct TargetSelector {
    now: Instant,
    /// By target: why it denied a call for now. Such a target is not asked again in this pass.
    denied: Vec<Option<Denied>>,
    /// Targets that have denied nothing yet.
    open_targets: usize,
    /// The earliest time at which a job may start that waits for something other than a target: to enter a tier, to try a
    /// target again, or for its team's limits.
    other_wake: Option<Instant>,
    /// True if a job waits until a call of its team ends.
    waits_for_team: bool,
    /// The jobs that may make the call which shows whether a target works again.
    probes: ProbePolicy,
    /// The target and the permit of the job that was taken last.
    chosen: Option<(usize, Permit)>,
}

/// The jobs that may make the call which shows whether a target works again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ProbePolicy {
    /// Jobs that have not failed.
    FreshJobs,
    /// The same, and a job that has failed was kept from a probe.
    KeptFromFailedJob,
    /// Every job: no other one waits.
    AllJobs,
}

/// When the targets of some ranks may serve a job, as far as they were asked.
#[derive(Clone, Copy)]
enum EarliestStart {
    /// None of them, unless an operator enables one.
    Never,
    At(Instant),
}

impl EarliestStart {
    /// The earlier of this and of the end of a wait that a target demands.
    fn or_after(self, denied: Denied, now: Instant) -> Self {
        let at = match denied {
            Denied::Until(at) => at,
            // It may be any moment.
            Denied::UntilRelease => now,
            Denied::TooLarge | Denied::NotAllowed | Denied::Disabled(_) => return self,
        };
        self.earlier(EarliestStart::At(at))
    }

    fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (EarliestStart::Never, only) | (only, EarliestStart::Never) => only,
            (EarliestStart::At(one), EarliestStart::At(two)) => EarliestStart::At(one.min(two)),
        }
    }

    fn is_before(self, at: Instant) -> bool {
        matches!(self, EarliestStart::At(first) if first < at)
    }
}

impl TargetSelector {
    pub(crate) fn new(targets: usize, now: Instant) -> Self {
        Self {
            now,
            denied: vec![None; targets],
            open_targets: targets,
            other_wake: None,
            waits_for_team: false,
            probes: ProbePolicy::FreshJobs,
            chosen: None,
        }
    }

    /// Returns the target and the permit of the job that was taken last; `None` if no target can ever serve it.
    pub(crate) fn take_chosen(&mut self) -> Option<(usize, Permit)> {
        self.chosen.take()
    }

    /// Returns true if a call that ends may let a waiting job start.
    pub(crate) fn waits_for_release(&self) -> bool {
        self.waits_for_team || self.denied.iter().any(Option::is_some)
    }

    /// Returns the first time at which a target that denied a call, or a job that was held back, may be tried again.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        let until = |denied: &Denied| match denied {
            Denied::Until(at) => Some(*at),
            _ => None,
        };
        let denied = self.denied.iter().flatten();
        let targets = denied.filter_map(until);
        targets.chain(self.other_wake).min()
    }

    /// Lets jobs that have failed probe targets in the rest of the pass. Returns true if one of them was kept from that.
    pub(crate) fn let_failed_jobs_probe(&mut self) -> bool {
        let was_kept = self.probes == ProbePolicy::KeptFromFailedJob;
        if was_kept {
            self.probes = ProbePolicy::AllJobs;
        }
        was_kept
    }

    /// Decides about the job that is next in turn: whether it starts now, and where.
    pub(crate) fn offer<Q: Queue, U>(
        &mut self,
        state: &WorkerState<Q, U>,
        admitted: &AdmittedJob,
    ) -> Offer {
        // What lets calls go on wakes the dispatcher.
        if self.open_targets == 0 || !state.may_call(self.now) {
            return Offer::Stop;
        }
        // The dispatcher's deadline check ends a late job. It must not be called before that.
        let is_late = admitted.is_late(state.now());
        // The end of a pause wakes the dispatcher.
        let is_paused = state.controls.pauses(&admitted.flow);
        if is_late || is_paused || self.is_held_by_team(state, admitted) {
            return Offer::Skip;
        }
        let candidates = admitted.candidates.left();
        let is_denied = |candidate: &CandidateState| self.denied[candidate.target].is_some();
        if candidates.iter().all(is_denied) {
            return Offer::Skip;
        }
        self.try_candidates(state, admitted, candidates)
    }

    /// Asks the candidates in order until one grants a permit.
    fn try_candidates<Q, U>(
        &mut self,
        state: &WorkerState<Q, U>,
        admitted: &AdmittedJob,
        candidates: &[CandidateState],
    ) -> Offer {
        let mut can_ever_start = false;
        let mut scan = RankScan::default();
        for candidate in self.in_order(state, candidates) {
            scan.reach(candidate.rank());
            if let Err(at) = self.may_ask(state, admitted, candidate, &scan) {
                self.wake_at(at);
                scan.this_rank = scan.this_rank.earlier(EarliestStart::At(at));
                can_ever_start = true;
                continue;
            }
            scan.first_asked.get_or_insert(candidate.rank());
            if self.keeps_from_probe(state, admitted, candidate) {
                can_ever_start = true;
                continue;
            }
            match self.reserve(state, candidate) {
                Ok(permit) => return self.take(state, admitted, candidate, permit),
                Err(denied) => {
                    can_ever_start |= denied.is_temporary();
                    scan.this_rank = scan.this_rank.or_after(denied, self.now);
                }
            }
        }
        if can_ever_start {
            return Offer::Skip;
        }
        // It is taken without a permit, so that the dispatcher ends it.
        Offer::Take(0)
    }

    /// Takes the job with the candidate's permit, unless its team's limits have no room after all.
    fn take<Q, U>(
        &mut self,
        state: &WorkerState<Q, U>,
        admitted: &AdmittedJob,
        candidate: &CandidateState,
        mut permit: Permit,
    ) -> Offer {
        if let Some(limits) = state.limits_of(&admitted.flow.team) {
            match limits.take(&admitted.cost, self.now) {
                Ok(share) => permit.charge(share),
                Err(denied) => {
                    self.wait_for_team(denied);
                    return Offer::Skip;
                }
            }
        }
        permit.set_origin(admitted.origin());
        self.chosen = Some((candidate.target, permit));
        let cost = &admitted.cost;
        let tokens = cost.input_tokens.saturating_add(cost.output_tokens);
        Offer::Take(tokens.min(MAX_COST_PER_TURN))
    }

    /// Returns true if the limits of the job's team have no room for it now.
    fn is_held_by_team<Q, U>(&mut self, state: &WorkerState<Q, U>, admitted: &AdmittedJob) -> bool {
        let Some(limits) = state.limits_of(&admitted.flow.team) else {
            return false;
        };
        let Err(denied) = limits.peek(&admitted.cost, self.now) else {
            return false;
        };
        self.wait_for_team(denied);
        true
    }

    /// Checks whether a candidate may be asked now.
    ///
    /// # Errors
    /// With the time from which on it may be asked.
    fn may_ask<Q, U>(
        &self,
        state: &WorkerState<Q, U>,
        admitted: &AdmittedJob,
        candidate: &CandidateState,
        scan: &RankScan,
    ) -> Result<(), Instant> {
        if let Some(at) = candidate.backs_off_until(self.now) {
            return Err(at);
        }
        let is_first_rank = scan
            .first_asked
            .is_none_or(|first| first == candidate.rank());
        let enters = candidate.enters_at(admitted.first_queued_at.unwrap_or(self.now));
        if is_first_rank || enters <= self.now {
            return Ok(());
        }
        let deadline = admitted.ends_in(state.now());
        let end = deadline.map_or(enters, |left| enters.min(self.now + left));
        if scan.lower_ranks.is_before(end) {
            return Err(enters);
        }
        Ok(())
    }

    /// Returns true if the job has failed, and a call to the candidate would be a probe that another job may make.
    fn keeps_from_probe<Q, U>(
        &mut self,
        state: &WorkerState<Q, U>,
        admitted: &AdmittedJob,
        candidate: &CandidateState,
    ) -> bool {
        if self.probes == ProbePolicy::AllJobs || !admitted.has_failed() {
            return false;
        }
        let target = state.target(candidate.target);
        let is_kept = target.account.is_probed_next(&target.model, self.now);
        if is_kept {
            self.probes = ProbePolicy::KeptFromFailedJob;
        }
        is_kept
    }

    /// Asks a candidate's account for a permit. A temporary denial closes the target for the rest of the pass.
    fn reserve<Q, U>(
        &mut self,
        state: &WorkerState<Q, U>,
        candidate: &CandidateState,
    ) -> Result<Permit, Denied> {
        if let Some(denied) = self.denied[candidate.target] {
            return Err(denied);
        }
        let target = state.target(candidate.target);
        let granted = match state.controls.pauses_account(target.account.name()) {
            true => Err(Denied::UntilRelease),
            false => target
                .account
                .reserve(&target.model, candidate.cost, self.now),
        };
        if let Err(denied) = &granted
            && denied.is_temporary()
        {
            // A job later in turn must not take the capacity that this one waits for.
            self.denied[candidate.target] = Some(*denied);
            self.open_targets -= 1;
        }
        granted
    }

    fn wait_for_team(&mut self, denied: Denied) {
        match denied {
            Denied::Until(at) => self.wake_at(at),
            _ => self.waits_for_team = true,
        }
    }

    fn wake_at(&mut self, at: Instant) {
        let before = self.other_wake.unwrap_or(at);
        self.other_wake = Some(before.min(at));
    }

    /// The candidates, lowest rank first, and within a rank the one with the most weighted headroom first.
    fn in_order<'a, Q, U>(
        &self,
        state: &WorkerState<Q, U>,
        candidates: &'a [CandidateState],
    ) -> Vec<&'a CandidateState> {
        let headroom = |candidate: &CandidateState| {
            let target = state.target(candidate.target);
            match candidates.len() {
                1 => 0.0,
                _ if self.denied[candidate.target].is_some() => -1.0,
                _ => target.account.headroom(&target.model, self.now) * candidate.weight,
            }
        };
        let mut order: Vec<_> = candidates
            .iter()
            .map(|candidate| (candidate, headroom(candidate)))
            .collect();
        order.sort_by(|(left, left_room), (right, right_room)| {
            let by_rank = left.rank().cmp(&right.rank());
            by_rank.then(right_room.total_cmp(left_room))
        });
        order.into_iter().map(|(candidate, _)| candidate).collect()
    }
}

/// How far the candidates of a job have been asked, lowest rank first.
struct RankScan {
    /// The rank of the first candidate that was asked.
    first_asked: Option<CandidateRank>,
    /// The rank that is asked now.
    current: Option<CandidateRank>,
    /// When the candidates of lower ranks may serve the job.
    lower_ranks: EarliestStart,
    /// When the candidates of this rank may serve the job, as far as they were asked.
    this_rank: EarliestStart,
}

impl Default for RankScan {
    fn default() -> Self {
        Self {
            first_asked: None,
            current: None,
            lower_ranks: EarliestStart::Never,
            this_rank: EarliestStart::Never,
        }
    }
}

impl RankScan {
    /// Goes on to a candidate of `rank`.
    fn reach(&mut self, rank: CandidateRank) {
        let before = self.current.replace(rank);
        if before.is_some_and(|before| before != rank) {
            let this_rank = std::mem::replace(&mut self.this_rank, EarliestStart::Never);
            self.lower_ranks = self.lower_ranks.earlier(this_rank);
        }
    }
}
