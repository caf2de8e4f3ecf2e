//! The configuration file `forebay.toml`: reading, checking and conversion to what workers need.
//!
//! All mistakes are reported together, each with its path. [`raw`] finds wrong types and unknown
//! fields; [`check`] then finds wrong values and wrong relations between them.

mod address;
mod check;
mod environment;
pub mod key_files;
mod raw;
mod renamed;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay_providers::Endpoint;
use forebay_providers::Secret;
use forebay_providers::registry::Provider;
use forebay_schemas::flow::DEFAULT_TEAM;
use forebay_schemas::{Cache, Lane, Names};
use forebay_workers::accounts::{self, Limit};
use forebay_workers::clock::SystemClock;
use forebay_workers::fence::CallFence;
use forebay_workers::outcome::patience::Patience;
use forebay_workers::{OnDemand, SubjectRules, TeamConfig, unknown_team};

use crate::catalogue::{Catalogue, CatalogueModel};

/// The configuration file that is read if no other is named.
pub const DEFAULT_FILE: &str = "forebay.toml";

/// The default listen address of the managed NATS server.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4222);

/// Minimum size of a stream in bytes: a single message may take half of it.
pub const SMALLEST_STREAM: u64 = 16 << 20;

/// A mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The path of the field, for example `account.openai-main.limits[0].per`.
    pub path: String,
    /// The mistake, and the correction.
    pub problem: String,
}

/// All mistakes of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The configuration file. `None` if the text came from no file.
    pub file: Option<PathBuf>,
    /// Each mistake, in the order in which it was found.
    pub all: Vec<ConfigError>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = match self.all.len() {
            1 => "1 mistake".to_owned(),
            count => format!("{count} mistakes"),
        };
        match &self.file {
            Some(file) => write!(f, "{count} in {}:", file.display())?,
            None => write!(f, "{count} in the configuration:")?,
        }
        for ConfigError { path, problem } in &self.all {
            let colon = if path.is_empty() { "" } else { ": " };
            write!(f, "\n  {path}{colon}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A checked configuration. It holds no secrets: [`Config::workers`] reads them.
#[derive(Debug, Clone)]
pub struct Config {
    /// The configuration file. `None` if the configuration came from no file.
    pub file: Option<PathBuf>,
    /// The connection to NATS.
    pub nats: NatsConfig,
    /// The data directory and the retention of its contents.
    pub data: DataConfig,
    /// Sizes and ages of streams.
    pub streams: StreamsConfig,
    /// Timeouts, size limits and attempts of calls.
    pub call: CallConfig,
    /// The known models.
    pub catalogue: Catalogue,
    /// The providers that an account may name.
    pub providers: Vec<&'static Provider>,
    /// The weight of each lane within a team.
    pub lanes: [(Lane, u64); 3],
    /// The accounts, by name.
    pub accounts: BTreeMap<String, AccountConfig>,
    /// The pools, by name.
    pub pools: BTreeMap<String, ConfiguredPool>,
    /// The targets of models that have no configured pool: each requested model gets a pool. `None`
    /// if pools are configured, or if there is no account.
    pub on_demand: Option<OnDemand>,
    /// The configured teams, by name. All other teams have the defaults.
    pub teams: BTreeMap<String, TeamConfig>,
}

/// The connection to NATS.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// The URL of an external NATS server. `None` if Forebay runs a server itself.
    pub url: Option<String>,
    /// The listen address of the managed server. Port 0 takes any free port. `None` means the
    /// default address.
    pub listen: Option<SocketAddr>,
    /// The names of subjects, streams and buckets.
    pub names: Names,
    /// The interval at which the managed server syncs its files to disk.
    pub sync_interval: Duration,
    /// True if jobs of teams that are not configured are refused.
    pub refuses_unknown_teams: bool,
}

impl NatsConfig {
    /// Returns the listen address of the managed server.
    pub fn address(&self) -> SocketAddr {
        self.listen.unwrap_or(DEFAULT_ADDRESS)
    }
}

/// The data directory and the retention of its contents.
#[derive(Debug, Clone)]
pub struct DataConfig {
    /// The path of the data directory.
    pub dir: PathBuf,
    /// Number of days for which results are kept.
    pub keep_days: u16,
    /// Number of days for which an answered identity causes no further call.
    pub dedupe_days: u16,
}

/// Sizes and ages of streams.
#[derive(Debug, Clone, Copy)]
pub struct StreamsConfig {
    /// Total size of waiting jobs; publishers are refused beyond it.
    pub jobs_max_bytes: StreamSize,
    /// Number of waiting jobs per pool, team and lane; their publishers are refused beyond it.
    /// `None` means no limit.
    pub jobs_max_per_queue: Option<u32>,
    /// The time for which completions are kept in the stream.
    pub completions_max_age: Duration,
    /// Total size of completions; the oldest are deleted beyond it.
    pub completions_max_bytes: StreamSize,
    /// Size of each of the two object stores. Beyond it, new jobs are refused, and the oldest
    /// completions are deleted.
    pub objects_max_bytes: StreamSize,
}

/// The maximum size of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamSize {
    /// A configured size in bytes. The stream is not created if the server has less room.
    Given(u64),
    /// A default size in bytes. The stream is created smaller if the server has less room.
    Usual(u64),
}

impl StreamSize {
    /// Returns the size in bytes.
    pub fn bytes(self) -> u64 {
        let (StreamSize::Given(bytes) | StreamSize::Usual(bytes)) = self;
        bytes
    }
}

/// Timeouts, size limits and attempts of calls.
#[derive(Debug, Clone, Copy)]
pub struct CallConfig {
    /// Maximum number of attempts of a job. Attempts that do not count, such as refusals by a
    /// limit, are not included.
    pub attempts: u32,
    /// The time from sending a request to the end of its response.
    pub timeout: Duration,
    /// The time to establish the connection.
    pub connect_timeout: Duration,
    /// The time that calls under way have when the process is asked to stop.
    pub grace: Duration,
    /// Maximum size in bytes of a job that is fetched from the object store.
    pub max_request: usize,
    /// Maximum size in bytes of a response.
    pub max_answer: usize,
    /// The time for which the jobs of a pool that does not name it outlast an outage of the provider or the network.
    pub patience: Patience,
}

/// An account at a provider.
#[derive(Debug, Clone)]
pub struct AccountConfig {
    /// The endpoint of its calls.
    pub endpoint: Endpoint,
    /// The sources of its credentials.
    pub keys: Vec<KeyConfig>,
    /// Its limits.
    pub limits: Vec<Limit>,
}

/// A named credential and its source.
#[derive(Debug, Clone)]
pub struct KeyConfig {
    /// The name of the key in output and messages.
    pub name: String,
    /// The source of the credential.
    pub source: KeySource,
}

/// The source of a credential.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// The name of an environment variable.
    Env(String),
    /// The path of a file.
    File(PathBuf),
}

/// A pool: a named queue.
#[derive(Debug, Clone)]
pub struct ConfiguredPool {
    /// The targets that serve it.
    pub targets: Vec<ConfiguredTarget>,
    /// True if a request that one target refuses for its content is sent to another target.
    pub content_fallback: bool,
    /// True if embeddings of several jobs are merged into one request.
    pub merge: bool,
    /// The cache mode of jobs that name none. It decides if another job's answer may serve a job.
    pub cache: Cache,
    /// The time for which its jobs outlast an outage, if it differs from that of other pools.
    pub patience: Option<Patience>,
}

/// A target: an account and a model that serve a pool.
#[derive(Debug, Clone)]
pub struct ConfiguredTarget {
    /// The account's name.
    pub account: String,
    /// The model that requests name.
    pub model: String,
    /// The tier. Lower tiers are used first.
    pub tier: u32,
    /// The share of this target where several targets of a tier have capacity.
    pub weight: f64,
    /// The time for which a job waits for lower tiers before this target may serve it.
    pub after: Duration,
    /// Maximum number of tokens of prompt and response together. `None` means the catalogue's
    /// value, if there is one.
    pub context_window: Option<u64>,
}

impl Config {
    /// Reads `file`, or else `forebay.toml` in the working directory, or else the environment.
    ///
    /// The environment also provides the accounts of a file that has neither accounts nor pools.
    ///
    /// # Errors
    /// Returns all mistakes of the configuration.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigErrors> {
        let default = Path::new(DEFAULT_FILE);
        let Some(file) = file.or_else(|| default.exists().then_some(default)) else {
            return Self::of_environment();
        };
        let in_file = |mistakes: ConfigErrors| ConfigErrors {
            file: Some(file.to_owned()),
            ..mistakes
        };
        let unreadable = |error: std::io::Error| ConfigErrors {
            file: Some(file.to_owned()),
            all: vec![ConfigError {
                path: String::new(),
                problem: format!("cannot be read: {error}"),
            }],
        };
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        let config = Self {
            file: Some(file.to_owned()),
            ..Self::parse(&text).map_err(in_file)?
        };
        match config.has_accounts() || config.has_pools() {
            true => Ok(config),
            false => config.with_environment(environment::variable),
        }
    }

    /// Parses the text of a configuration. If it has accounts and no pools, each requested model
    /// gets a pool.
    ///
    /// # Errors
    /// Returns all mistakes of the configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        let (raw, mut mistakes, unreadable) = raw::read(text);
        let mut config = check::check(raw, &unreadable, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(ConfigErrors {
                file: None,
                all: mistakes,
            });
        }
        if config.has_accounts() && !config.has_pools() {
            config.on_demand = Some(environment::on_demand(&config.accounts, &config.catalogue));
        }
        Ok(config)
    }

    /// Returns the defaults, with the accounts of the environment.
    ///
    /// # Errors
    /// Returns each invalid address in the environment.
    pub fn of_environment() -> Result<Self, ConfigErrors> {
        Self::parse("")?.with_environment(environment::variable)
    }

    /// Sets the accounts to one for each provider whose key is in the environment. Each requested
    /// model then gets a pool.
    ///
    /// # Errors
    /// Returns each invalid address in the environment.
    pub(crate) fn with_environment(
        self,
        read: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        let mut mistakes = Vec::new();
        let accounts = environment::accounts(&self.providers, read, &mut mistakes);
        let on_demand =
            (!accounts.is_empty()).then(|| environment::on_demand(&accounts, &self.catalogue));
        if mistakes.is_empty() {
            Ok(Self {
                accounts,
                on_demand,
                ..self
            })
        } else {
            Err(ConfigErrors {
                file: None,
                all: mistakes,
            })
        }
    }

    /// Builds the configuration of the workers and reads the credentials.
    ///
    /// # Errors
    /// Returns each credential that is missing or malformed. Returns a mistake if there is nothing
    /// to serve.
    pub fn workers(&self) -> Result<forebay_workers::Config, ConfigErrors> {
        let mut mistakes = Vec::new();
        if !self.serves_anything() {
            let missing = match &self.file {
                Some(_) => "no [account.NAME] is configured".to_owned(),
                None => format!("there is no {DEFAULT_FILE} here"),
            };
            let incomplete = environment::without_address(&self.providers, environment::variable);
            let incomplete = incomplete
                .into_iter()
                .map(|(key, url)| format!("; {key} is set, and needs {url} beside it"));
            let problem = format!(
                "{missing}, and no key of a provider is in the environment: set OPENAI_API_KEY or another that `forebay \
                 providers` names, name a file with --config, or try `forebay demo`{}",
                incomplete.collect::<String>()
            );
            mistakes.push(ConfigError {
                path: String::new(),
                problem,
            });
        }
        let accounts: Vec<_> = self
            .accounts
            .iter()
            .map(|(name, account)| account.build(name, &mut mistakes))
            .collect();
        if !mistakes.is_empty() {
            return Err(ConfigErrors {
                file: self.file.clone(),
                all: mistakes,
            });
        }
        let pools = self.pools.iter();
        let pools = pools.map(|(name, pool)| self.worker_pool(name, pool));
        let teams = self.teams.clone().into_iter();
        Ok(forebay_workers::Config {
            accounts,
            pools: pools.collect(),
            on_demand: self.on_demand.clone(),
            teams: teams.collect(),
            addressing: self.addressing(),
            policy: forebay_workers::outcome::policy::RetryPolicy {
                max_attempts: self.call.attempts,
                patience: self.call.patience,
            },
            lane_weights: self.lanes,
            idle: None,
            saved_states: std::collections::HashMap::new(),
            kept: true,
            controls: forebay_workers::WorkerControls::default(),
            fence: CallFence::unlimited(Arc::new(SystemClock)),
            results_are_complete: true,
            max_request: self.call.max_request,
        })
    }
}

impl Config {
    fn has_accounts(&self) -> bool {
        !self.accounts.is_empty()
    }

    /// Returns the settings of a team, or the defaults if it is not configured.
    pub(crate) fn team(&self, name: &str) -> TeamConfig {
        self.teams.get(name).cloned().unwrap_or_default()
    }

    fn has_pools(&self) -> bool {
        !self.pools.is_empty()
    }

    /// Returns true if there are pools, or pools on demand.
    pub(crate) fn serves_anything(&self) -> bool {
        self.has_pools() || self.on_demand.is_some()
    }

    /// Returns the names of the accounts, in order.
    pub(crate) fn account_names(&self) -> Vec<&str> {
        let names = self.accounts.keys();
        names.map(String::as_str).collect()
    }

    fn worker_pool(&self, name: &str, pool: &ConfiguredPool) -> forebay_workers::PoolConfig {
        let targets = pool.targets.iter();
        let targets = targets.map(|target| self.worker_target(target));
        forebay_workers::PoolConfig {
            name: name.to_owned(),
            targets: targets.collect(),
            content_fallback: pool.content_fallback,
            merge: pool.merge,
            cache: pool.cache,
            patience: pool.patience,
        }
    }

    fn worker_target(&self, target: &ConfiguredTarget) -> forebay_workers::TargetConfig {
        let account = self
            .accounts
            .keys()
            .position(|name| *name == target.account);
        let model = self.model(target);
        forebay_workers::TargetConfig {
            account: account.unwrap_or_default(),
            model: target.model.clone(),
            tier: target.tier,
            weight: target.weight,
            after: target.after,
            context_window: target.context_window.or_else(|| model?.context_window),
            prices: model.map(|model| Arc::new(model.prices.clone())),
            max_output: model.and_then(|model| model.max_output),
        }
    }

    /// Returns true if an account serves a job whose pool is not configured.
    pub fn serves(&self, pool: &str, model: Option<&str>) -> bool {
        self.on_demand
            .as_ref()
            .is_some_and(|on_demand| !on_demand.targets(pool, model).is_empty())
    }

    fn addressing(&self) -> SubjectRules {
        let has_one_dot = |name: &&String| name.matches('.').count() == 1;
        let models = self.catalogue.models();
        let names = models.map(|model| &model.name);
        let dotted = names.filter(has_one_dot).cloned();
        SubjectRules {
            names: self.nats.names.clone(),
            dotted_models: Arc::new(dotted.collect()),
            refuses_unknown_teams: self.nats.refuses_unknown_teams,
        }
    }

    /// Returns why jobs of a team are refused. `None` means that they are accepted.
    pub fn refuses_team(&self, team: &str) -> Option<String> {
        let is_known = team == DEFAULT_TEAM || self.teams.contains_key(team);
        (self.nats.refuses_unknown_teams && !is_known).then(|| unknown_team(team))
    }

    /// Finds a target's model in the catalogue.
    fn model(&self, target: &ConfiguredTarget) -> Option<&CatalogueModel> {
        let account = self.accounts.get(&target.account)?;
        let provider = account.endpoint.provider;
        let found = self.catalogue.find(provider, &target.model);
        found.map(AsRef::as_ref)
    }
}

impl AccountConfig {
    fn build(&self, name: &str, mistakes: &mut Vec<ConfigError>) -> accounts::Config {
        let mut keys = Vec::new();
        for (index, key) in self.keys.iter().enumerate() {
            match key.read() {
                Ok(secret) => match self.endpoint.wrong_key(&secret) {
                    None => keys.push(accounts::AccountKey::new(key.name.clone(), secret)),
                    Some(problem) => {
                        mistakes.push(ConfigError {
                            path: format!("account.{name}.keys[{index}]"),
                            problem,
                        });
                    }
                },
                Err((field, problem)) => {
                    mistakes.push(ConfigError {
                        path: format!("account.{name}.keys[{index}].{field}"),
                        problem,
                    });
                }
            }
        }
        if self.keys.is_empty() {
            // The provider may be called without a key.
            keys.push(accounts::AccountKey::new("none", Secret::new("")));
        }
        accounts::Config {
            name: name.to_owned(),
            endpoint: self.endpoint.clone(),
            keys,
            limits: self.limits.clone(),
        }
    }
}

impl KeyConfig {
    fn read(&self) -> Result<Secret, (&'static str, String)> {
        let (field, text) = match &self.source {
            KeySource::Env(variable) => ("env", text_of_variable(variable)),
            KeySource::File(path) => ("file", text_of_file(path)),
        };
        let text = text.map_err(|problem| (field, problem))?;
        match text.trim() {
            "" => Err((field, "the key is empty".to_owned())),
            key => Ok(Secret::new(key)),
        }
    }
}

fn text_of_variable(variable: &str) -> Result<String, String> {
    let unset = format!("the environment variable {variable} is not set");
    std::env::var(variable).map_err(|_| unset)
}

fn text_of_file(path: &Path) -> Result<String, String> {
    let unreadable = |error| format!("{} cannot be read: {error}", path.display());
    std::fs::read_to_string(path).map_err(unreadable)
}

#[cfg(test)]
mod tests;
