//! Selects a target for each waiting job, one pass over the fair queue at a time.
//!
//! # Why
//!
//! A job may be served by several accounts, in tiers. The choice must fill each account to its limit, prefer the lower
//! tiers, and never let a small job take the capacity that a larger one ahead of it waits for.
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
//! - A team's own limits hold up that team alone: its jobs are skipped and no target is closed.
//! - A job that none of its candidates can ever serve is taken without a permit, so that the dispatcher ends it.

use tokio::time::Instant;

use crate::accounts::{Denied, Permit};
use crate::dispatch::fair_queue::Offer;
use crate::job::admitted_job::AdmittedJob;
use crate::job::candidates::CandidateState;
use crate::worker_state::WorkerState;

/// The most that one call counts for in its team's and lane's turn, in tokens: an estimate must not
/// cost them more turns than the largest call is worth.
pub(crate) const MAX_COST_PER_TURN: u64 = 1_000_000;

/// The choice of one round.
pub(crate) struct TargetSelector {
    now: Instant,
    /// What each target said when it denied a call for now; it is not asked again in this pass.
    denied: Vec<Option<Denied>>,
    open: usize,
    /// When the first job may go that waits for something that is not a target: to enter a tier, to try one again,
    /// or for its team's limits.
    later: Option<Instant>,
    /// Whether a job waits for a call of its team to end.
    waits: bool,
    chosen: Option<(usize, Permit)>,
}

/// When the targets of lower ranks may serve a job, as far as they were asked.
#[derive(Clone, Copy)]
enum EarliestStart {
    /// None of them can, whatever is waited for.
    Never,
    /// The first of them then.
    At(Instant),
}

impl EarliestStart {
    fn or_after(self, denied: Denied, now: Instant) -> Self {
        let at = match denied {
            Denied::Until(at) => at,
            Denied::ForRelease => now,
            Denied::TooLarge | Denied::Shut(_) => return self,
        };
        self.earlier(EarliestStart::At(at))
    }

    /// The earlier of the two.
    fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (EarliestStart::Never, only) | (only, EarliestStart::Never) => only,
            (EarliestStart::At(one), EarliestStart::At(two)) => EarliestStart::At(one.min(two)),
        }
    }

    /// Whether it is before `at`.
    fn is_before(self, at: Instant) -> bool {
        matches!(self, EarliestStart::At(first) if first < at)
    }
}

impl TargetSelector {
    pub(crate) fn new(targets: usize, now: Instant) -> Self {
        Self {
            now,
            denied: vec![None; targets],
            open: targets,
            later: None,
            waits: false,
            chosen: None,
        }
    }

    /// The target and the permit for the job that was taken last; none if no target can ever serve it.
    pub(crate) fn take_chosen(&mut self) -> Option<(usize, Permit)> {
        self.chosen.take()
    }

    /// Whether a job waits for a target or for its team.
    pub(crate) fn waits(&self) -> bool {
        self.waits || self.denied.iter().any(Option::is_some)
    }

    /// When the first of the targets that denied a call may grant one; releases wake by themselves.
    pub(crate) fn wake(&self) -> Option<Instant> {
        let until = |denied: &Denied| {
            if let Denied::Until(at) = denied {
                Some(*at)
            } else {
                None
            }
        };
        self.denied
            .iter()
            .flatten()
            .filter_map(until)
            .chain(self.later)
            .min()
    }

    /// Whether a job goes, and where.
    pub(crate) fn offer<Q, U>(
        &mut self,
        engine: &WorkerState<Q, U>,
        admitted: &AdmittedJob,
    ) -> Offer {
        if self.open == 0 || engine.brake.is_on() {
            return Offer::Stop;
        }
        if admitted.is_late(engine.clock.now()) {
            // The deadlines' tick ends it; it must not be called meanwhile.
            return Offer::Skip;
        }
        if engine.orders.pauses(&admitted.flow) {
            // Taking that back wakes the dispatcher by itself.
            return Offer::Skip;
        }
        let cap = engine.caps.get(&admitted.flow.team);
        if let Some(denied) = cap.and_then(|cap| cap.peek(&admitted.cost, self.now).err()) {
            self.wait_for(denied);
            return Offer::Skip;
        }
        let left = admitted.choices.left();
        if left
            .iter()
            .all(|choice| self.denied[choice.target].is_some())
        {
            return Offer::Skip;
        }
        let mut never = true;
        let mut scan = TierScan {
            first: None,
            rank: None,
            lower: EarliestStart::Never,
            same: EarliestStart::Never,
        };
        for choice in self.in_order(engine, left) {
            scan.reach(choice.rank());
            if let Err(at) = self.may_ask(engine, admitted, choice, &scan) {
                self.wait_until(at);
                scan.same = scan.same.or_after(Denied::Until(at), self.now);
                never = false;
                continue;
            }
            scan.first.get_or_insert(choice.rank());
            match self.ask(engine, choice) {
                Ok(permit) => return self.take(engine, admitted, choice, permit),
                Err(denied) => {
                    never &= !denied.is_temporary();
                    scan.same = scan.same.or_after(denied, self.now);
                }
            }
        }
        // Taken without a permit: no target can ever serve it.
        if never { Offer::Take(0) } else { Offer::Skip }
    }

    fn take<Q, U>(
        &mut self,
        engine: &WorkerState<Q, U>,
        admitted: &AdmittedJob,
        choice: &CandidateState,
        mut permit: Permit,
    ) -> Offer {
        let cap = engine.caps.get(&admitted.flow.team);
        match cap
            .map(|cap| cap.take(&admitted.cost, self.now))
            .transpose()
        {
            Ok(share) => share.into_iter().for_each(|share| permit.charge(share)),
            Err(denied) => {
                self.wait_for(denied);
                return Offer::Skip;
            }
        }
        self.chosen = Some((choice.target, permit));
        let tokens = admitted
            .cost
            .input_tokens
            .saturating_add(admitted.cost.output_tokens);
        Offer::Take(tokens.min(MAX_COST_PER_TURN))
    }

    /// Whether a choice may be asked now; else when it may. One of a higher rank waits for those of lower ranks as
    /// long as the pool says, but not where none of them can serve the job before that, or before its deadline.
    fn may_ask<Q, U>(
        &self,
        engine: &WorkerState<Q, U>,
        admitted: &AdmittedJob,
        choice: &CandidateState,
        scan: &TierScan,
    ) -> Result<(), Instant> {
        if let Some(at) = choice.rests_until(self.now) {
            return Err(at);
        }
        let enters = choice.enters_at(admitted.here_since.unwrap_or(self.now));
        if enters <= self.now || scan.first.is_none_or(|first| first == choice.rank()) {
            return Ok(());
        }
        let end = admitted
            .ends_in(engine.clock.now())
            .map_or(enters, |left| enters.min(self.now + left));
        if scan.lower.is_before(end) {
            Err(enters)
        } else {
            Ok(())
        }
    }

    fn ask<Q, U>(
        &mut self,
        engine: &WorkerState<Q, U>,
        choice: &CandidateState,
    ) -> Result<Permit, Denied> {
        if let Some(denied) = self.denied[choice.target] {
            return Err(denied);
        }
        let target = engine.pools.target(choice.target);
        let answer = match engine.orders.pauses_account(target.account.name()) {
            true => Err(Denied::ForRelease),
            false => target.account.reserve(&target.model, choice.cost, self.now),
        };
        if let Err(denied) = &answer
            && denied.is_temporary()
        {
            // Whoever comes later in turn must not take what this one waits for.
            self.denied[choice.target] = Some(*denied);
            self.open -= 1;
        }
        answer
    }

    /// A job waits for its team's limits, which hold up nobody else's.
    fn wait_for(&mut self, denied: Denied) {
        match denied {
            Denied::Until(at) => self.wait_until(at),
            _ => self.waits = true,
        }
    }

    fn wait_until(&mut self, at: Instant) {
        self.later = Some(self.later.map_or(at, |before| before.min(at)));
    }

    /// Choices, lowest rank first, and within a rank the one with the most room first.
    fn in_order<'a, Q, U>(
        &self,
        engine: &WorkerState<Q, U>,
        choices: &'a [CandidateState],
    ) -> Vec<&'a CandidateState> {
        let mut order: Vec<_> = choices
            .iter()
            .map(|choice| {
                let target = engine.pools.target(choice.target);
                let room = match choices.len() {
                    1 => 0.0,
                    _ if self.denied[choice.target].is_some() => -1.0,
                    _ => target.account.headroom(&target.model, self.now) * choice.weight,
                };
                (choice, room)
            })
            .collect();
        order.sort_by(|(left, left_room), (right, right_room)| {
            left.rank()
                .cmp(&right.rank())
                .then(right_room.total_cmp(left_room))
        });
        order.into_iter().map(|(choice, _)| choice).collect()
    }
}

/// How far the choices of a job have been asked, lowest rank first.
struct TierScan {
    /// The rank of the first that was asked.
    first: Option<(u32, u32)>,
    /// The rank that is asked now.
    rank: Option<(u32, u32)>,
    /// When those of lower ranks may serve the job.
    lower: EarliestStart,
    /// When those of this rank may, that were asked before.
    same: EarliestStart,
}

impl TierScan {
    /// Goes on to a choice of `rank`.
    fn reach(&mut self, rank: (u32, u32)) {
        if self.rank.replace(rank).is_some_and(|before| before != rank) {
            let same = std::mem::replace(&mut self.same, EarliestStart::Never);
            self.lower = self.lower.earlier(same);
        }
    }
}
