//! A job and the targets of its pool: which may serve it, and what it costs there.

use std::sync::Arc;

use forebay_schemas::Job;
use forebay_schemas::flow::pool_of_model;

use crate::job::candidates::CandidateSet;
use crate::outcome::outcome::Rejection;
use crate::pools::{Pool, PoolCandidate, PoolTarget, Pools};
use forebay_providers::Unsupported;
use forebay_providers::cost::CallCost;

/// What may serve a job.
#[derive(Debug)]
pub(crate) struct JobRoute {
    pub(crate) pool: Arc<Pool>,
    pub(crate) candidates: CandidateSet,
    /// What it costs at the first of them.
    pub(crate) cost: CallCost,
    /// Why none of them can be asked, if none can.
    pub(crate) rejection: Option<Rejection>,
}

/// Matches `job` with the targets of `pool`. Tokens are counted where a target's limits do, or `counts_tokens`.
pub(crate) fn route(
    pools: &Pools,
    pool: &str,
    job: &Job,
    counts_tokens: bool,
) -> Result<JobRoute, Rejection> {
    let model = job.model();
    let Some(found) = pools.for_job(pool, model.as_deref()) else {
        return Err(unknown_pool(pools, pool, model.as_deref()));
    };
    let model = model.filter(|model| model != pool);
    let target = |candidate: &PoolCandidate| pools.target(candidate.target);
    let serves = |candidate: &&PoolCandidate| {
        model
            .as_ref()
            .is_none_or(|model| target(candidate).model == *model)
    };
    let named: Vec<_> = found.candidates.iter().filter(serves).copied().collect();
    let Some(first) = named.first() else {
        let mut known: Vec<_> = found
            .candidates
            .iter()
            .map(|candidate| target(candidate).model.as_str())
            .collect();
        known.dedup();
        let message = format!(
            "pool `{pool}` has no model `{}`; it has {}; leave `model` out to take any",
            model.unwrap_or_default(),
            known.join(", ")
        );
        return Err(("unknown_model", message));
    };
    let counts_tokens = counts_tokens
        || found
            .candidates
            .iter()
            .any(|candidate| target(candidate).account.counts_tokens());
    let cost = cost_at(target(first), job, counts_tokens);
    let mut asked: Vec<(&PoolTarget, Option<Unsupported>)> = Vec::new();
    let costs: Vec<_> = named
        .iter()
        .map(|candidate| {
            let target = target(candidate);
            let endpoint = &target.account.config().endpoint;
            // What cannot be said to one account of a provider cannot be said to another.
            let known = asked.iter().position(|(other, _)| other.speaks_as(target));
            let known = known.unwrap_or_else(|| {
                asked.push((target, endpoint.refusal(job, &target.model)));
                asked.len() - 1
            });
            asked[known].1.is_none().then(|| endpoint.counted(cost))
        })
        .collect();
    let is_said = costs.iter().any(Option::is_some);
    let unsupported = asked
        .into_iter()
        .find_map(|(_, refusal)| refusal)
        .filter(|_| !is_said);
    let rejection = unsupported.map(|refusal| (refusal.obstacle.code(), refusal.to_string()));
    let candidates = CandidateSet::new(&found, &named, &costs);
    Ok(JobRoute {
        pool: found,
        candidates,
        cost,
        rejection,
    })
}

fn unknown_pool(pools: &Pools, pool: &str, model: Option<&str>) -> Rejection {
    let other = model.filter(|model| *model != pool && pool_of_model(model) != pool);
    let message = match pools.are_made_on_demand() {
        true if let Some(model) = other => format!(
            "there is no pool `{pool}` for the model `{model}`: where none is configured each is named after its model, so \
             publish to `{}`",
            pool_of_model(model)
        ),
        true if pools.is_full() => format!(
            "there is no pool `{pool}`, and none is made any more for models that are in no list: too many were asked for \
             since the start; name yours in a configuration"
        ),
        true => format!(
            "there is no pool `{pool}`: where none is configured each is named after its model, and no account is known to \
             have this one"
        ),
        false => {
            let known: Vec<_> = pools.all().into_keys().collect();
            format!(
                "there is no pool `{pool}`; known pools: {}",
                known.join(", ")
            )
        }
    };
    ("unknown_pool", message)
}

/// What a job costs at `target`, as far as it matters: where nobody counts tokens, their number need not be near, since
/// only turns are told by it.
fn cost_at(target: &PoolTarget, job: &Job, counts_tokens: bool) -> CallCost {
    if counts_tokens {
        return target
            .account
            .config()
            .endpoint
            .admission_cost(job, &target.model);
    }
    CallCost {
        requests: 1,
        input_tokens: job.size() as u64 / 3,
        ..CallCost::default()
    }
}
