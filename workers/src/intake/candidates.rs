//! The candidates of a job that is admitted: which targets may serve it, what it costs, and what it may share.

use forebay_providers::registry::MergeLimits;

use crate::intake::route::{JobRoute, route};
use crate::job::admitted_job::AdmittedJob;
use crate::job::merge_key::MergeCandidate;
use crate::job::share::CoalesceRequest;
use crate::large::run_blocking_if_large;
use crate::outcome::outcome::Rejection;
use crate::store::journal::WorkStep;
use crate::worker_state::WorkerState;

/// Sets the candidates of a job and its cost. Returns why none of them can serve it, if none can.
///
/// The cost is computed from the job's bytes, so this runs under the poison-pill guard.
pub(crate) fn choose_candidates<Q, U>(
    state: &WorkerState<Q, U>,
    admitted: &mut AdmittedJob,
) -> Option<Rejection> {
    let name = admitted.delivery.unique_id.clone();
    let size = admitted.job.size();
    let poison_pills = &state.journal.poison_pills;
    poison_pills.guarded(WorkStep::Calling, &name, || {
        run_blocking_if_large(size, || choose(state, admitted))
    })
}

fn choose<Q, U>(state: &WorkerState<Q, U>, admitted: &mut AdmittedJob) -> Option<Rejection> {
    let counts_tokens = state.team_limits.contains_key(&admitted.flow.team);
    let routed = route(
        &state.pools,
        &admitted.flow.pool,
        &admitted.job,
        counts_tokens,
    );
    let JobRoute {
        pool,
        candidates,
        cost,
        rejection,
    } = match routed {
        Ok(route) => route,
        Err(rejection) => return Some(rejection),
    };
    (admitted.candidates, admitted.cost) = (candidates, cost);
    // A call that the end of a process cut off is no failure of the provider.
    let mut failed = admitted.attempts.as_slice();
    if admitted.interrupted {
        failed = failed.split_last().map_or(failed, |(_, before)| before);
    }
    admitted.candidates.recall(failed, &state.pools);
    // A job that was moved to another pool is another request there than its fingerprint tells.
    let is_unmoved =
        |_: &CoalesceRequest| admitted.fingerprint == admitted.job.fingerprint(&admitted.flow.pool);
    admitted.coalesce = CoalesceRequest::of(&admitted.job, pool.cache).filter(is_unmoved);
    if pool.merge {
        admitted.merge = merge_candidate(state, admitted);
    }
    rejection
}

/// How a job can share a call with others. If it can, its queue is read further, by as many jobs as fit one call.
fn merge_candidate<Q, U>(
    state: &WorkerState<Q, U>,
    admitted: &AdmittedJob,
) -> Option<MergeCandidate> {
    let poison_pills = &state.journal.poison_pills;
    // A job over which the process may have ended is worked on alone.
    if poison_pills.is_suspect(admitted.message_id()) {
        return None;
    }
    let merge = MergeCandidate::of(&admitted.job, &admitted.flow.pool)?;
    // A text that is too long by every known window would be refused, and all others with it.
    let likely_tokens = admitted.cost.input_tokens * 3 / 4;
    if merge.inputs == 1 && admitted.candidates.are_too_small_for(likely_tokens) {
        return None;
    }
    let tokens = admitted.cost.input_tokens.max(1);
    let jobs_in_a_call = |limits: MergeLimits| {
        let by_tokens = usize::try_from(limits.tokens / tokens).unwrap_or(usize::MAX);
        by_tokens.min(limits.inputs / merge.inputs)
    };
    let mut most = 0;
    for candidate in admitted.candidates.left() {
        let target = state.target(candidate.target);
        if target.account.counts_calls(&target.model) {
            most = most.max(jobs_in_a_call(target.endpoint().provider.merges));
        }
    }
    let others = most.checked_sub(1).filter(|others| *others > 0)?;
    admitted.held.fits_merged_call(others);
    Some(merge)
}
