//! Pools and their targets: those that are configured, and those that are made when a job first names a model.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_schemas::Cache;
use forebay_schemas::flow::pool_of_model;
use parking_lot::RwLock;

use crate::accounts::Account;
use crate::outcome::patience::Patience;
use forebay_providers::Endpoint;
use forebay_providers::price::Prices;

/// The most pools that are made for models in no list: a producer must not fill the memory with names.
const MAX_UNKNOWN_MODELS: usize = 1_000;

/// A pool: a name that jobs are published to, and the targets that serve them.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// Its targets.
    pub targets: Vec<TargetConfig>,
    /// True if a job that one target refuses for its content is tried at another.
    pub content_fallback: bool,
    /// True if embeddings of several jobs share a call.
    pub merge: bool,
    /// The `cache` of jobs that do not set it.
    pub cache: Cache,
    /// How long its jobs outlast an outage; `None` means as long as those of other pools.
    pub patience: Option<Patience>,
}

/// An account and a model that can serve a pool.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// The account, as an index into [`crate::Config::accounts`].
    pub account: usize,
    /// The model.
    pub model: String,
    /// Targets of lower tiers come first.
    pub tier: u32,
    /// Its share where several targets of a tier have room; 1 by default.
    pub weight: f64,
    /// How long a job waits for lower tiers before this one is asked.
    pub after: Duration,
    /// The most tokens of prompt and answer together, if known. A job that is too long for one target is tried at one with a
    /// larger window.
    pub context_window: Option<u64>,
    /// The prices of its tokens, if known.
    pub prices: Option<Arc<Prices>>,
    /// The most tokens of an answer, if known.
    pub max_output: Option<u64>,
}

/// The model that a job wants, where pools are made on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedModel<'a> {
    /// This model.
    Model(&'a str),
    /// Any model whose pool has this name.
    AnyOf(&'a str),
}

impl TargetConfig {
    /// A target of the lowest tier, with nothing else known about it.
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

/// Finds the targets of models that no configured pool has.
#[derive(Clone)]
pub struct OnDemand(Arc<TargetSearch>);

impl OnDemand {
    /// `find` returns the targets of a model; none if no account has it.
    pub fn new(
        find: impl Fn(WantedModel<'_>) -> Vec<TargetConfig> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(find))
    }

    /// Returns the targets for a job in `pool` with `model`; none if no account has it.
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

/// A model at an account. Pools that have the same one share it.
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

/// A target as a pool has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolCandidate {
    /// The target's index in [`Pools`].
    pub(crate) target: usize,
    /// Lower tiers come first.
    pub(crate) tier: u32,
    pub(crate) weight: f64,
    /// How long a job waits for lower tiers before this one is asked.
    pub(crate) after: Duration,
    pub(crate) context_window: Option<u64>,
}

/// A pool.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    pub(crate) candidates: Vec<PoolCandidate>,
    /// True if a job that one target refuses for its content is tried at another.
    pub(crate) content_fallback: bool,
    /// True if embeddings of several jobs share a call.
    pub(crate) merge: bool,
    /// The `cache` of jobs that do not set it.
    pub(crate) cache: Cache,
    /// How long its jobs outlast an outage; `None` means as long as those of other pools.
    pub(crate) patience: Option<Patience>,
}

/// Every target once, and the pools by name.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Targets are only added, so an index never changes its meaning.
    targets: boxcar::Vec<PoolTarget>,
    named: RwLock<BTreeMap<String, Arc<Pool>>>,
    accounts: Vec<Arc<Account>>,
    on_demand: Option<OnDemand>,
    /// How many pools were made for models in no list.
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
            patience,
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
                patience,
            });
            pools.named.write().insert(name, pool);
        }
        pools
    }

    /// Every target, by its index.
    pub(crate) fn targets(&self) -> &boxcar::Vec<PoolTarget> {
        &self.targets
    }

    /// The target with this index.
    pub(crate) fn target(&self, index: usize) -> &PoolTarget {
        &self.targets[index]
    }

    /// The index of a target.
    pub(crate) fn index_of(&self, account: &str, model: &str) -> Option<usize> {
        let is_it = |target: &PoolTarget| target.model == model && target.account.name() == account;
        let mut targets = self.targets.iter();
        targets.find_map(|(index, target)| is_it(target).then_some(index))
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
        let known = self.index_of(account.name(), &model);
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

    /// A pool that was configured or made.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Pool>> {
        self.named.read().get(name).cloned()
    }

    /// Returns true if no more pools are made for models in no list.
    pub(crate) fn is_full(&self) -> bool {
        self.unknown.load(Ordering::Relaxed) >= MAX_UNKNOWN_MODELS
    }

    /// Returns true if a pool is made for each model that is asked for.
    pub(crate) fn are_made_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// Returns the pool for a job that names `model`. Makes it or adds targets to it, if pools are made on demand and an
    /// account has the model.
    pub(crate) fn for_job(&self, name: &str, model: Option<&str>) -> Option<Arc<Pool>> {
        let known = self.get(name);
        // A job that names no model takes any of its pool.
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
                patience: None,
            }
        };
        let mut pool = named.get(name).map_or_else(fresh, |pool| Pool::clone(pool));
        for target in found {
            let candidate = self.candidate(target);
            // Another job may have added it meanwhile.
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
