//! The targets that may serve one job: which of them come first, and what each outcome makes of that.

use std::time::Duration;

use forebay_schemas::{Attempt, Class, Reason};
use tokio::time::Instant;

use crate::job::merge_key::says_nothing;
use crate::outcome::patience::Patience;
use crate::pools::{Pool, PoolCandidate, Pools};
use forebay_providers::cost::CallCost;

/// The order in which candidates are tried: fewest failures of the job first, then the lowest tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CandidateRank {
    failures: u32,
    tier: u32,
}

/// A target that may serve a job, and how the job fared there.
#[derive(Debug, Clone)]
pub(crate) struct CandidateState {
    /// The target's number in [`Pools`].
    pub(crate) target: usize,
    /// Its share where several targets of a tier have room.
    pub(crate) weight: f64,
    /// The estimated cost of a call for the job there.
    pub(crate) cost: CallCost,
    tier: u32,
    after: Duration,
    /// In tokens, if known.
    context_window: Option<u64>,
    /// Calls for the job that failed there.
    failures: u32,
    /// Answers to the job that could not be read, where the provider did not fail for all.
    malformed: u32,
    /// The job does not ask it before then.
    not_before: Option<Instant>,
}

impl CandidateState {
    pub(crate) fn rank(&self) -> CandidateRank {
        CandidateRank {
            failures: self.failures,
            tier: self.tier,
        }
    }

    /// When it may be asked although candidates of a lower rank could serve the job sooner.
    pub(crate) fn enters_at(&self, first_queued_at: Instant) -> Instant {
        first_queued_at + self.after
    }

    /// When the job's back-off from it ends; `None` if it has ended.
    pub(crate) fn backs_off_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }
}

/// The targets that may serve a job.
#[derive(Debug, Default)]
pub(crate) struct CandidateSet {
    left: Vec<CandidateState>,
    /// The lowest tier of the pool's targets that have the job's model.
    lowest_tier: u32,
    /// True if no target of the lowest tier can express the job.
    lowest_tier_is_unsupported: bool,
    /// True if a refusal for the content may be tried at another target.
    content_fallback: bool,
    /// `None` means that of the configuration as a whole.
    patience: Option<Patience>,
}

impl CandidateSet {
    /// The `candidates` of `pool` that can express the job. `costs` has what a call costs at each; `None` where the
    /// target cannot express the job.
    pub(crate) fn new(
        pool: &Pool,
        candidates: &[PoolCandidate],
        costs: &[Option<CallCost>],
    ) -> Self {
        let state = |(candidate, cost): (&PoolCandidate, &Option<CallCost>)| {
            Some(CandidateState {
                target: candidate.target,
                tier: candidate.tier,
                weight: candidate.weight,
                after: candidate.after,
                context_window: candidate.context_window,
                cost: (*cost)?,
                failures: 0,
                malformed: 0,
                not_before: None,
            })
        };
        let left: Vec<_> = candidates.iter().zip(costs).filter_map(state).collect();
        let lowest_tier = candidates.iter().map(|candidate| candidate.tier).min();
        let lowest_tier = lowest_tier.unwrap_or_default();
        let lowest_supported = left.iter().map(|candidate| candidate.tier).min();
        Self {
            lowest_tier_is_unsupported: lowest_supported.is_some_and(|tier| tier > lowest_tier),
            left,
            lowest_tier,
            content_fallback: pool.content_fallback,
            patience: pool.patience,
        }
    }

    /// The candidates that may still serve the job.
    pub(crate) fn left(&self) -> &[CandidateState] {
        &self.left
    }

    fn find(&self, target: usize) -> Option<&CandidateState> {
        self.left
            .iter()
            .find(|candidate| candidate.target == target)
    }

    /// Returns true if every candidate has a known context window of less than `tokens`.
    pub(crate) fn are_too_small_for(&self, tokens: u64) -> bool {
        let is_too_small = |window: u64| window < tokens;
        self.left
            .iter()
            .all(|candidate| candidate.context_window.is_some_and(is_too_small))
    }

    /// Returns what a call costs at `target`, if that has the lowest rank of the candidates that may be asked now.
    pub(crate) fn cost_at(&self, target: usize, now: Instant) -> Option<CallCost> {
        let candidate = self
            .find(target)
            .filter(|candidate| candidate.backs_off_until(now).is_none())?;
        let is_first = self
            .left
            .iter()
            .filter(|other| other.backs_off_until(now).is_none())
            .all(|other| other.rank() >= candidate.rank());
        is_first.then_some(candidate.cost)
    }

    /// Takes in the outcomes of the calls that were made for the job before it was delivered this time.
    pub(crate) fn recall(&mut self, attempts: &[Attempt], pools: &Pools) {
        let all = self.left.clone();
        for attempt in attempts.iter().filter(|attempt| !says_nothing(attempt)) {
            let target = pools.index_of(&attempt.account, &attempt.model);
            if let (Some(class), Some(target)) = (attempt.class(), target) {
                if class == Class::MalformedResponse {
                    self.record_malformed(target);
                }
                self.record_failure(target, class);
            }
        }
        if self.left.is_empty() {
            // The job came again all the same. What no target could serve then, one may serve now.
            self.left = all;
        }
    }

    /// How long the pool lets a job fail in an outage; `None` if it does not say so.
    pub(crate) fn patience(&self) -> Option<Patience> {
        self.patience
    }

    /// Returns true if a call for the job failed.
    pub(crate) fn have_failed(&self) -> bool {
        self.left.iter().any(|candidate| candidate.failures > 0)
    }

    /// Returns how many calls to `target` failed.
    pub(crate) fn failures_at(&self, target: usize) -> u32 {
        self.find(target).map_or(0, |called| called.failures)
    }

    /// Returns how many answers of `target` could not be read, in no outage.
    pub(crate) fn malformed_at(&self, target: usize) -> u32 {
        self.find(target).map_or(0, |called| called.malformed)
    }

    /// Counts an answer of `target` that cannot be read, in no outage.
    pub(crate) fn record_malformed(&mut self, target: usize) {
        let mut left = self.left.iter_mut();
        if let Some(called) = left.find(|candidate| candidate.target == target) {
            called.malformed += 1;
        }
    }

    /// Takes in the failure of a call to `target`: that candidate comes later, or the candidates that would fail alike are
    /// removed.
    pub(crate) fn record_failure(&mut self, target: usize, class: Class) {
        match class {
            class if class.is_of_provider() => {
                let called = |candidate: &&mut CandidateState| candidate.target == target;
                if let Some(candidate) = self.left.iter_mut().find(called) {
                    candidate.failures += 1;
                }
            }
            Class::ExceedsLimit | Class::ModelNotAllowed => self.remove(target),
            Class::ContentFiltered if self.content_fallback => self.remove(target),
            Class::ContextTooLong => {
                let window = self.find(target).and_then(|called| called.context_window);
                self.left
                    .retain(|candidate| candidate.context_window > window);
            }
            _ => {}
        }
    }

    /// Returns true if another target may serve a job for which `target` failed with `class`.
    pub(crate) fn has_other_than(&self, target: usize, class: Class) -> bool {
        match class {
            Class::ContentFiltered if !self.content_fallback => false,
            _ if class.is_of_provider() => {
                self.left.iter().any(|candidate| candidate.target != target)
            }
            // The candidates that would fail alike are removed already.
            _ => !self.left.is_empty(),
        }
    }

    /// Removes `target`, if a failure of `class` is one that it would repeat.
    pub(crate) fn give_up(&mut self, target: usize, class: Class) {
        if class.is_of_provider() {
            self.remove(target);
        }
    }

    fn remove(&mut self, target: usize) {
        self.left.retain(|candidate| candidate.target != target);
    }

    /// The job does not ask `target` again until then.
    pub(crate) fn back_off(&mut self, target: usize, until: Instant) {
        for candidate in &mut self.left {
            if candidate.target == target {
                candidate.not_before = Some(until);
            }
        }
    }

    /// Returns when the first back-off ends, if the job backs off from every candidate.
    pub(crate) fn backs_off_until(&self, now: Instant) -> Option<Instant> {
        let mut first: Option<Instant> = None;
        for candidate in &self.left {
            let until = candidate.backs_off_until(now)?;
            first = Some(first.map_or(until, |first| first.min(until)));
        }
        first
    }

    /// Returns why `target` is asked, after `attempts`.
    pub(crate) fn reason(&self, target: usize, attempts: &[Attempt]) -> Reason {
        let failed = |attempt: &Attempt| {
            !says_nothing(attempt) && attempt.class().is_some_and(|class| !class.is_limit())
        };
        if attempts.iter().any(failed) {
            return Reason::Failed;
        }
        match self.find(target) {
            Some(candidate) if candidate.tier == self.lowest_tier => Reason::Preferred,
            _ if self.lowest_tier_is_unsupported => Reason::Unsupported,
            _ => Reason::Unavailable,
        }
    }
}
