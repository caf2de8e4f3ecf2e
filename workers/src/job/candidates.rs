//! The targets that may serve one job: which of them come first, and what each outcome makes of that.

use std::time::Duration;

use forebay_schemas::{Attempt, Class, Reason};
use tokio::time::Instant;

use crate::job::merge_key::says_nothing;
use crate::pools::{Pool, PoolCandidate, Pools};
use forebay_providers::cost::CallCost;

/// A target that may serve a job.
#[derive(Debug, Clone)]
pub(crate) struct CandidateState {
    /// Which target.
    pub(crate) target: usize,
    /// Its share where several of a tier have room.
    pub(crate) weight: f64,
    /// What a call costs there.
    pub(crate) cost: CallCost,
    tier: u32,
    after: Duration,
    context_window: Option<u64>,
    /// Calls for this job that failed there.
    failures: u32,
    /// It is not asked before then.
    not_before: Option<Instant>,
}

impl CandidateState {
    /// Lower ones first: where fewer calls failed, then the lower tier.
    pub(crate) fn rank(&self) -> (u32, u32) {
        (self.failures, self.tier)
    }

    /// When it may be asked although others of a lower rank are left; those that may serve the job sooner are
    /// waited for until then.
    pub(crate) fn enters_at(&self, here_since: Instant) -> Instant {
        here_since + self.after
    }

    /// When the job may try it again.
    pub(crate) fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }
}

/// The targets that may serve a job.
#[derive(Debug, Default)]
pub(crate) struct CandidateSet {
    left: Vec<CandidateState>,
    /// The lowest tier of the pool that could be asked for this job at all.
    lowest_tier: u32,
    /// Whether the job cannot be said to a target of a lower tier.
    unsaid: bool,
    /// Whether a refusal for the content may be taken to another target.
    content_fallback: bool,
}

impl CandidateSet {
    /// All that may serve a job that asks for `candidates` of `pool`, and what it costs at each; those to which it
    /// cannot be said are left out.
    pub(crate) fn new(
        pool: &Pool,
        candidates: &[PoolCandidate],
        costs: &[Option<CallCost>],
    ) -> Self {
        let left = candidates
            .iter()
            .zip(costs)
            .filter_map(|(candidate, cost)| {
                Some(CandidateState {
                    target: candidate.target,
                    tier: candidate.tier,
                    weight: candidate.weight,
                    after: candidate.after,
                    context_window: candidate.context_window,
                    cost: (*cost)?,
                    failures: 0,
                    not_before: None,
                })
            });
        let left: Vec<_> = left.collect();
        let lowest_tier = candidates
            .iter()
            .map(|candidate| candidate.tier)
            .min()
            .unwrap_or_default();
        let said = left.iter().map(|choice| choice.tier).min();
        Self {
            unsaid: said.is_some_and(|tier| tier > lowest_tier),
            left,
            lowest_tier,
            content_fallback: pool.content_fallback,
        }
    }

    /// Those that are left.
    pub(crate) fn left(&self) -> &[CandidateState] {
        &self.left
    }

    /// Whether none of them has a window for a prompt of so many tokens, as far as windows are known.
    pub(crate) fn are_too_small_for(&self, tokens: u64) -> bool {
        self.left
            .iter()
            .all(|choice| choice.context_window.is_some_and(|window| window < tokens))
    }

    /// What a call costs at `target`, if that is among the first that are asked now.
    pub(crate) fn cost_at(&self, target: usize, now: Instant) -> Option<CallCost> {
        let awake = || {
            self.left
                .iter()
                .filter(|choice| choice.rests_until(now).is_none())
        };
        let choice = awake().find(|choice| choice.target == target)?;
        awake()
            .all(|other| other.rank() >= choice.rank())
            .then_some(choice.cost)
    }

    /// What the calls that were made for the job before say of them.
    pub(crate) fn recall(&mut self, attempts: &[Attempt], pools: &Pools) {
        let all = self.left.clone();
        for attempt in attempts.iter().filter(|attempt| !says_nothing(attempt)) {
            let target = pools.place(&attempt.account, &attempt.model);
            if let (Some(class), Some(target)) = (attempt.class(), target) {
                self.note(target, class);
            }
        }
        if self.left.is_empty() {
            // It came again all the same: what no target could do then, one may do now.
            self.left = all;
        }
    }

    /// Notes what a call to `target` turned out to be. Returns whether another target is left for the job, where the
    /// outcome asks for one.
    pub(crate) fn note(&mut self, target: usize, class: Class) -> bool {
        let called = self.left.iter().position(|choice| choice.target == target);
        let window = called.and_then(|index| self.left[index].context_window);
        match class {
            Class::Overloaded
            | Class::ServerError
            | Class::MalformedResponse
            | Class::NetBeforeSend
            | Class::NetAfterSend => {
                if let Some(index) = called {
                    self.left[index].failures += 1;
                }
                return true;
            }
            Class::ExceedsLimit | Class::ModelNotAllowed => {
                self.left.retain(|choice| choice.target != target);
            }
            Class::ContextTooLong => self.left.retain(|choice| choice.context_window > window),
            Class::ContentFiltered if self.content_fallback => {
                self.left.retain(|choice| choice.target != target);
            }
            Class::ContentFiltered => return false,
            _ => return true,
        }
        !self.left.is_empty()
    }

    /// Asks `target` no more for what it failed at for good. Returns whether another is left.
    pub(crate) fn leave(&mut self, target: usize, class: Option<Class>) -> bool {
        if matches!(
            class,
            Some(Class::ServerError | Class::Overloaded | Class::MalformedResponse)
        ) {
            self.left.retain(|choice| choice.target != target);
        }
        !self.left.is_empty()
    }

    /// The job waits so long before it asks `target` again.
    pub(crate) fn back_off(&mut self, target: usize, until: Instant) {
        let called = self
            .left
            .iter_mut()
            .filter(|choice| choice.target == target);
        called.for_each(|choice| choice.not_before = Some(until));
    }

    /// Until when the job itself waits: until it may ask any of them.
    pub(crate) fn rests_until(&self, now: Instant) -> Option<Instant> {
        let rests = self.left.iter().map(|choice| choice.rests_until(now));
        rests
            .reduce(|one, other| one.zip(other).map(|(one, other)| one.min(other)))
            .flatten()
    }

    /// Why `target` is asked, after the calls that were made before.
    pub(crate) fn reason(&self, target: usize, attempts: &[Attempt]) -> Reason {
        let tier = self
            .left
            .iter()
            .find(|choice| choice.target == target)
            .map(|choice| choice.tier);
        let failed = |attempt: &Attempt| {
            !says_nothing(attempt) && attempt.class().is_some_and(|class| !class.is_limit())
        };
        match tier {
            _ if attempts.iter().any(failed) => Reason::Failed,
            Some(tier) if tier == self.lowest_tier => Reason::Preferred,
            _ if self.unsaid => Reason::Unsupported,
            _ => Reason::Unavailable,
        }
    }
}
