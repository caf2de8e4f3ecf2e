//! Routing: which targets of its pool may serve a job, and what it costs there.

use std::sync::Arc;

use forebay_providers::cost::CallCost;
use forebay_schemas::Job;
use forebay_schemas::flow::pool_of_model;

use crate::job::candidates::CandidateSet;
use crate::outcome::outcome::Rejection;
use crate::pools::{Pool, PoolCandidate, PoolTarget, Pools};
use forebay_providers::Unsupported;

/// The targets that may serve a job.
#[derive(Debug)]
pub(crate) struct JobRoute {
    pub(crate) pool: Arc<Pool>,
    pub(crate) candidates: CandidateSet,
    /// The cost of the job at the first of them.
    pub(crate) cost: CallCost,
    /// Why none of them can be called, if none can.
    pub(crate) rejection: Option<Rejection>,
}

/// Routes `job` to the targets of `pool`. Its tokens are counted if `counts_tokens`, or if a target's limits count them.
///
/// # Errors
/// When there is no such pool, or the pool has no target with the job's model.
pub(crate) fn route(
    pools: &Pools,
    pool_name: &str,
    job: &Job,
    counts_tokens: bool,
) -> Result<JobRoute, Rejection> {
    let model = job.model();
    let Some(pool) = pools.for_job(pool_name, model.as_deref()) else {
        return Err(unknown_pool(pools, pool_name, model.as_deref()));
    };
    let model = model.filter(|model| model != pool_name);
    let target = |candidate: &PoolCandidate| pools.target(candidate.target);
    let serves = |candidate: &&PoolCandidate| match &model {
        Some(model) => target(candidate).model == *model,
        None => true,
    };
    let candidates = pool.candidates.iter().filter(serves);
    let candidates: Vec<_> = candidates.copied().collect();
    let Some(first) = candidates.first() else {
        let model = model.unwrap_or_default();
        return Err(unknown_model(pools, pool_name, &pool, &model));
    };
    let target_counts = |candidate| target(candidate).account.counts_tokens();
    let counts_tokens = counts_tokens || pool.candidates.iter().any(target_counts);
    let cost = cost_at(target(first), job, counts_tokens);
    let mut checks = SupportChecks::default();
    let mut costs = Vec::with_capacity(candidates.len());
    for candidate in &candidates {
        let target = target(candidate);
        let is_supported = checks.check(job, target).is_none();
        costs.push(is_supported.then(|| target.endpoint().counted(job, cost)));
    }
    let rejection = match checks.into_unsupported() {
        Some(unsupported) if costs.iter().all(Option::is_none) => {
            Some((unsupported.obstacle.code(), unsupported.to_string()))
        }
        _ => None,
    };
    Ok(JobRoute {
        candidates: CandidateSet::new(&pool, &candidates, &costs),
        pool,
        cost,
        rejection,
    })
}

/// Checks whether targets can express a job. Targets that are spoken to alike are checked once.
#[derive(Default)]
struct SupportChecks<'a> {
    checked: Vec<(&'a PoolTarget, Option<Unsupported>)>,
}

impl<'a> SupportChecks<'a> {
    /// Returns why the job cannot be expressed at `target`, if it cannot.
    fn check(&mut self, job: &Job, target: &'a PoolTarget) -> Option<&Unsupported> {
        let is_alike = |(other, _): &(&PoolTarget, _)| other.speaks_as(target);
        let index = self.checked.iter().position(is_alike);
        let index = index.unwrap_or_else(|| {
            let unsupported = target.endpoint().refusal(job, &target.model);
            self.checked.push((target, unsupported));
            self.checked.len() - 1
        });
        self.checked[index].1.as_ref()
    }

    /// The first reason that was found.
    fn into_unsupported(self) -> Option<Unsupported> {
        self.checked
            .into_iter()
            .find_map(|(_, unsupported)| unsupported)
    }
}

fn unknown_model(pools: &Pools, pool_name: &str, pool: &Pool, model: &str) -> Rejection {
    let mut known = Vec::new();
    for candidate in &pool.candidates {
        known.push(pools.target(candidate.target).model.as_str());
    }
    known.dedup();
    let message = format!(
        "pool `{pool_name}` has no model `{model}`; it has {}; leave `model` out to take any",
        known.join(", ")
    );
    ("unknown_model", message)
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

/// Returns the cost of a job at `target`. Where no limit counts tokens, their number is a rough guess from its size, since only the
/// fair queue uses it.
fn cost_at(target: &PoolTarget, job: &Job, counts_tokens: bool) -> CallCost {
    if counts_tokens {
        return target.endpoint().admission_cost(job, &target.model);
    }
    CallCost {
        requests: 1,
        input_tokens: job.size() as u64 / 3,
        ..CallCost::default()
    }
}
