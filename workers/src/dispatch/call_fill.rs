//! Which jobs behind a head share its call, once the head has a permit.

use forebay_providers::registry::MergeLimits;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::accounts::Permit;
use crate::dispatch::merger::MergeFit;
use crate::dispatch::select::MAX_COST_PER_TURN;
use crate::job::admitted_job::AdmittedJob;
use crate::worker_state::WorkerState;

/// A call that has its permit and is being filled with jobs.
pub(crate) struct CallFill<'a, Q, U> {
    state: &'a WorkerState<Q, U>,
    target: usize,
    permit: &'a Permit,
    now: Instant,
    wall: Timestamp,
    /// Texts that the call may have.
    max_inputs: usize,
    /// Tokens that the call may have, as estimated.
    max_tokens: u64,
    /// Texts of the jobs that are in the call.
    inputs: usize,
    /// Estimated prompt tokens of the jobs that are in the call.
    tokens: u64,
    /// Estimated prompt tokens of the head alone.
    head_tokens: u64,
}

impl<'a, Q, U> CallFill<'a, Q, U> {
    /// A call with `head` alone; `None` if nothing may be merged into it.
    pub(crate) fn new(
        state: &'a WorkerState<Q, U>,
        head: &AdmittedJob,
        target: usize,
        permit: &'a Permit,
        now: Instant,
    ) -> Option<Self> {
        let merge = head.merge.as_ref()?;
        if !permit.account().counts_calls(permit.model()) {
            return None;
        }
        let limits: MergeLimits = permit.endpoint().provider.merges;
        // A part of a split call may be larger than the learned size, which its split has just halved.
        let max_inputs = match merge.part {
            Some(_) => limits.inputs,
            None => state.merge_sizes.most(target, limits),
        };
        Some(Self {
            state,
            target,
            permit,
            now,
            wall: state.now(),
            max_inputs,
            max_tokens: limits.tokens,
            inputs: merge.inputs,
            tokens: head.cost.input_tokens,
            head_tokens: head.cost.input_tokens,
        })
    }

    /// Decides about one more job. One that joins extends the permit by its cost.
    pub(crate) fn fit(&mut self, admitted: &AdmittedJob) -> MergeFit {
        let cost = admitted.candidates.cost_at(self.target, self.now);
        let Some((merge, cost)) = admitted.merge.as_ref().zip(cost) else {
            return MergeFit::Skip;
        };
        if admitted.is_late(self.wall) || admitted.is_cancelled(&self.state.controls) {
            return MergeFit::Skip;
        }
        let inputs = self.inputs + merge.inputs;
        let tokens = self.tokens.saturating_add(admitted.cost.input_tokens);
        let is_full = inputs > self.max_inputs || tokens > self.max_tokens;
        if is_full || !self.permit.extend(&cost, self.now) {
            return MergeFit::Full;
        }
        (self.inputs, self.tokens) = (inputs, tokens);
        MergeFit::Join
    }

    /// The tokens that the merged jobs cost their team and lane beyond the head.
    pub(crate) fn extra_cost(&self) -> u64 {
        (self.tokens - self.head_tokens).min(MAX_COST_PER_TURN)
    }
}
