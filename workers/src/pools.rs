//! Targets and the pools that name them: those that are configured, and those that are made when a model is first
//! asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_schemas::Cache;
use forebay_schemas::flow::pool_of_model;
use parking_lot::RwLock;

use crate::accounts::Account;
use forebay_providers::Endpoint;
use forebay_providers::price::Prices;

/// Models of which nothing is known and for which pools are made, at most: a producer must not fill the memory with
/// names.
const MOST_UNKNOWN: usize = 1_000;

/// A named queue and what serves it.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// What serves it.
    pub targets: Vec<TargetConfig>,
    /// Whether what one target refuses for its content is taken to another.
    pub content_fallback: bool,
    /// Whether embeddings of several jobs travel in one request.
    pub merge: bool,
    /// Whether another job's answer may serve one that does not say.
    pub cache: Cache,
}

/// An account and a model that can serve a pool.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// The account, as an index into [`crate::Config::accounts`].
    pub account: usize,
    /// The model to ask for.
    pub model: String,
    /// Lower tiers first.
    pub tier: u32,
    /// Its share where several of a tier have room; 1 is usual.
    pub weight: f64,
    /// How long a job waits here for lower tiers before it is asked.
    pub after: Duration,
    /// The most tokens of prompt and answer together, where that is known: what is too long for one target is taken
    /// to one with a larger window.
    pub context_window: Option<u64>,
    /// What calls cost, where that is known.
    pub prices: Option<Arc<Prices>>,
    /// The most tokens of an answer, where that is known.
    pub max_output: Option<u64>,
}

/// What a job asks for where pools are made as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedModel<'a> {
    /// This model.
    Model(&'a str),
    /// Any model after which this pool may be named.
    AnyOf(&'a str),
}

impl TargetConfig {
    /// A target of the lowest tier of which nothing more is known.
    pub fn new(account: usize, model: &str) -> Self {
        Self {
            account,
            model: model.to_owned(),
            tier: 0,
            weight: 1.0,
            after: Duration::ZERO,
            context_window: None,
            prices: None,
            max_output: None,
        }
    }
}

type TargetSearch = dyn Fn(WantedModel<'_>) -> Vec<TargetConfig> + Send + Sync;

/// What serves models that no configured pool is for.
#[derive(Clone)]
pub struct OnDemand(Arc<TargetSearch>);

impl OnDemand {
    /// `find` says what serves a model; nothing, if nobody has it.
    pub fn new(
        find: impl Fn(WantedModel<'_>) -> Vec<TargetConfig> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(find))
    }

    /// What serves a job for `pool` that names `model`, or none.
    pub fn targets(&self, pool: &str, model: Option<&str>) -> Vec<TargetConfig> {
        match model.filter(|model| *model != pool) {
            None => (self.0)(WantedModel::AnyOf(pool)),
            Some(model) if pool_of_model(model) == pool => (self.0)(WantedModel::Model(model)),
            Some(_) => Vec::new(),
        }
    }
}

impl fmt::Debug for OnDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDemand")
    }
}

/// An account × model, as the dispatcher sees it. Pools that name the same one share it.
#[derive(Debug)]
pub(crate) struct PoolTarget {
    pub(crate) account: Arc<Account>,
    pub(crate) model: String,
    pub(crate) prices: Option<Arc<Prices>>,
    pub(crate) max_output: Option<u64>,
}

impl PoolTarget {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.account.config().endpoint
    }

    /// Returns true if a job is encoded the same way for both targets.
    pub(crate) fn speaks_as(&self, other: &Self) -> bool {
        let (one, two) = (self.endpoint(), other.endpoint());
        std::ptr::eq(one.provider, two.provider)
            && one.api_version == two.api_version
            && self.model == other.model
    }
}

/// A target that a pool names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolCandidate {
    /// Which target.
    pub(crate) target: usize,
    /// Lower ones first.
    pub(crate) tier: u32,
    pub(crate) weight: f64,
    /// How long a job waits here for lower tiers first.
    pub(crate) after: Duration,
    pub(crate) context_window: Option<u64>,
}

/// What may serve a pool.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub(crate) candidates: Vec<PoolCandidate>,
    /// Whether what one target refuses for its content is taken to another.
    pub(crate) content_fallback: bool,
    /// Whether embeddings of several jobs travel in one request.
    pub(crate) merge: bool,
    /// Whether another job's answer may serve one that does not say.
    pub(crate) cache: Cache,
}

/// Every account × model once, and what of them each pool names.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Only ever added to: an index stays what it is.
    targets: boxcar::Vec<PoolTarget>,
    named: RwLock<BTreeMap<String, Arc<Pool>>>,
    accounts: Vec<Arc<Account>>,
    on_demand: Option<OnDemand>,
    /// Models of which nothing is known and that pools were made for.
    unknown: AtomicUsize,
}

impl Pools {
    pub(crate) fn new(
        configured: Vec<PoolConfig>,
        accounts: &[Arc<Account>],
        on_demand: Option<OnDemand>,
    ) -> Self {
        let pools = Self {
            targets: boxcar::Vec::new(),
            named: RwLock::default(),
            accounts: accounts.to_vec(),
            on_demand,
            unknown: AtomicUsize::new(0),
        };
        for PoolConfig {
            name,
            targets,
            content_fallback,
            merge,
            cache,
        } in configured
        {
            let candidates = targets
                .into_iter()
                .map(|target| pools.candidate(target))
                .collect();
            let pool = Arc::new(Pool {
                candidates,
                content_fallback,
                merge,
                cache,
            });
            pools.named.write().insert(name, pool);
        }
        pools
    }

    /// Every target; its place is its index.
    pub(crate) fn targets(&self) -> &boxcar::Vec<PoolTarget> {
        &self.targets
    }

    /// The target at this place.
    pub(crate) fn target(&self, place: usize) -> &PoolTarget {
        &self.targets[place]
    }

    /// The place of a target.
    pub(crate) fn place(&self, account: &str, model: &str) -> Option<usize> {
        let is_it = |target: &PoolTarget| target.model == model && target.account.name() == account;
        let mut targets = self.targets.iter();
        targets.find_map(|(place, target)| is_it(target).then_some(place))
    }

    fn candidate(&self, config: TargetConfig) -> PoolCandidate {
        let TargetConfig {
            account,
            model,
            tier,
            weight,
            after,
            context_window,
            prices,
            max_output,
        } = config;
        let account = Arc::clone(&self.accounts[account]);
        let known = self.place(account.name(), &model);
        let target = known.unwrap_or_else(|| {
            self.targets.push(PoolTarget {
                account,
                model,
                prices,
                max_output,
            })
        });
        PoolCandidate {
            target,
            tier,
            weight,
            after,
            context_window,
        }
    }

    /// Every pool, by name.
    pub(crate) fn all(&self) -> BTreeMap<String, Arc<Pool>> {
        self.named.read().clone()
    }

    /// A pool, if it was configured or made.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Pool>> {
        self.named.read().get(name).cloned()
    }

    /// Whether no more pools are made for models of which nothing is known.
    pub(crate) fn is_full(&self) -> bool {
        self.unknown.load(Ordering::Relaxed) >= MOST_UNKNOWN
    }

    /// Whether pools are made as they are asked for.
    pub(crate) fn are_made_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// The pool for a job that names `model`; made, if that is how pools come to be and somebody has the model.
    pub(crate) fn for_job(&self, name: &str, model: Option<&str>) -> Option<Arc<Pool>> {
        let known = self.get(name);
        // A job that names none takes any of its pool's.
        let named = model.filter(|model| *model != name);
        let has_it = |pool: &Arc<Pool>| {
            let is_it = |candidate: &PoolCandidate| {
                named.is_none_or(|model| self.targets[candidate.target].model == model)
            };
            pool.candidates.iter().any(is_it)
        };
        let Some(on_demand) = &self.on_demand else {
            return known;
        };
        if known.as_ref().is_some_and(has_it) {
            return known;
        }
        let found = on_demand.targets(name, model);
        let is_unknown = found.iter().all(|target| target.prices.is_none());
        if found.is_empty() || (is_unknown && self.is_full()) {
            return known;
        }
        if is_unknown {
            self.unknown.fetch_add(1, Ordering::Relaxed);
        }
        let mut named = self.named.write();
        let fresh = || {
            let candidates = Vec::new();
            Pool {
                candidates,
                content_fallback: false,
                merge: true,
                cache: Cache::Off,
            }
        };
        let mut pool = named.get(name).map_or_else(fresh, |pool| Pool::clone(pool));
        for target in found {
            let candidate = self.candidate(target);
            // Another job may have asked for it meanwhile.
            if pool
                .candidates
                .iter()
                .all(|known| known.target != candidate.target)
            {
                pool.candidates.push(candidate);
            }
        }
        let pool = Arc::new(pool);
        named.insert(name.to_owned(), Arc::clone(&pool));
        Some(pool)
    }
}
