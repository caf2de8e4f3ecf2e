//! `forebay.toml`: read, checked as a whole, and turned into what workers need.
//!
//! All mistakes come at once, each with its path: types and unknown fields first ([`raw`]), then what
//! values and relations must hold ([`check`]).

mod check;
mod environment;
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
use forebay_workers::{OnDemand, SubjectRules, TeamConfig, unknown_team};

use crate::catalogue::{Catalogue, CatalogueModel};

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "forebay.toml";

/// Where the minded server listens unless somebody says otherwise.
const USUAL_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4222);

/// No stream is smaller, in bytes: one message may have half of it.
pub const SMALLEST_STREAM: u64 = 16 << 20;

/// A mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where, for example `account.openai-main.limits[0].per`.
    pub path: String,
    /// What is wrong and what to do.
    pub problem: String,
}

/// All mistakes of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file they are in, if it is one.
    pub file: Option<PathBuf>,
    /// Each of them.
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

/// A checked configuration. Secrets are not read yet: see [`Config::workers`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it came from, if it is one.
    pub file: Option<PathBuf>,
    /// How NATS is reached.
    pub nats: NatsConfig,
    /// Where things are kept, and for how long.
    pub data: DataConfig,
    /// Sizes and ages of streams.
    pub streams: StreamsConfig,
    /// How calls are made.
    pub call: CallConfig,
    /// What is known of models.
    pub catalogue: Catalogue,
    /// The providers that can be named.
    pub providers: Vec<&'static Provider>,
    /// Lanes and their weights.
    pub lanes: [(Lane, u64); 3],
    /// The accounts, by name.
    pub accounts: BTreeMap<String, AccountConfig>,
    /// The pools, by name.
    pub pools: BTreeMap<String, PoolConfig>,
    /// What serves models that no pool is for: without a configuration there is a pool for each that is asked for.
    pub on_demand: Option<OnDemand>,
    /// Teams that differ from the defaults.
    pub teams: BTreeMap<String, TeamConfig>,
}

/// How NATS is reached.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// A server that others run; without it, Forebay minds its own.
    pub url: Option<String>,
    /// Where the minded server listens, if that is given; port 0 is any free one.
    pub listen: Option<SocketAddr>,
    /// All names.
    pub names: Names,
    /// How often the minded server syncs its files.
    pub sync_interval: Duration,
    /// Whether jobs of teams that are not configured are refused.
    pub refuses_unknown_teams: bool,
}

impl NatsConfig {
    /// Where the minded server listens.
    pub fn address(&self) -> SocketAddr {
        self.listen.unwrap_or(USUAL_ADDRESS)
    }
}

/// Where things are kept, and for how long.
#[derive(Debug, Clone)]
pub struct DataConfig {
    /// The data directory.
    pub dir: PathBuf,
    /// Days for which results are kept.
    pub keep_days: u16,
    /// Days for which an answered identity is not called again.
    pub dedupe_days: u16,
}

/// Sizes and ages of streams.
#[derive(Debug, Clone, Copy)]
pub struct StreamsConfig {
    /// Bytes of waiting jobs beyond which publishers are refused.
    pub jobs_max_bytes: StreamSize,
    /// Waiting jobs of one pool, team and lane beyond which their publishers are refused, if that is limited.
    pub jobs_max_per_queue: Option<u32>,
    /// How long completions are kept in the stream.
    pub completions_max_age: Duration,
    /// Bytes of completions beyond which the oldest go.
    pub completions_max_bytes: StreamSize,
    /// The most that each of the two object stores holds, in bytes: what does not fit is refused of jobs, and of
    /// completions the oldest go.
    pub objects_max_bytes: StreamSize,
}

/// The most that a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamSize {
    /// So many bytes, or the stream cannot be made.
    Given(u64),
    /// So many bytes, or what the server has room for when the stream is made.
    Usual(u64),
}

impl StreamSize {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        let (StreamSize::Given(bytes) | StreamSize::Usual(bytes)) = self;
        bytes
    }
}

/// How calls are made.
#[derive(Debug, Clone, Copy)]
pub struct CallConfig {
    /// Attempts that count.
    pub attempts: u32,
    /// From sending to the end of the answer.
    pub timeout: Duration,
    /// For the connection alone.
    pub connect_timeout: Duration,
    /// The largest job that is fetched from the object store, in bytes.
    pub max_request: usize,
    /// The largest answer that is taken, in bytes.
    pub max_answer: usize,
}

/// An account.
#[derive(Debug, Clone)]
pub struct AccountConfig {
    /// Where its calls go.
    pub endpoint: Endpoint,
    /// Where its credentials are.
    pub keys: Vec<KeyConfig>,
    /// Its limits.
    pub limits: Vec<Limit>,
}

/// Where a credential is.
#[derive(Debug, Clone)]
pub struct KeyConfig {
    /// Its name, for people.
    pub name: String,
    /// Where it is read from.
    pub source: KeySource,
}

/// Where a credential is read from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// An environment variable.
    Env(String),
    /// A file.
    File(PathBuf),
}

/// A named queue.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// What serves it.
    pub targets: Vec<TargetConfig>,
    /// Whether what one target refuses for its content is taken to another.
    pub content_fallback: bool,
    /// Whether embeddings of several jobs travel in one request.
    pub merge: bool,
    /// Whether another job's answer may serve one that does not say.
    pub cache: Cache,
}

/// An account and a model that serve a pool.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// The account's name.
    pub account: String,
    /// The model to ask for.
    pub model: String,
    /// Lower tiers first.
    pub tier: u32,
    /// Its share where several of a tier have room.
    pub weight: f64,
    /// How long a job waits for lower tiers first.
    pub after: Duration,
    /// The most tokens of prompt and answer together, where that is known.
    pub context_window: Option<u64>,
}

impl Config {
    /// Reads `file`, or `forebay.toml` in the working directory if there is one, or else what the environment says.
    ///
    /// # Errors
    /// With all mistakes.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigErrors> {
        let default = Path::new(DEFAULT_FILE);
        let Some(file) = file.or_else(|| default.exists().then_some(default)) else {
            return Self::of_environment();
        };
        let in_file = |mistakes: ConfigErrors| ConfigErrors {
            file: Some(file.to_owned()),
            ..mistakes
        };
        let text = std::fs::read_to_string(file).map_err(|error| {
            let problem = format!("cannot be read: {error}");
            in_file(ConfigErrors {
                file: None,
                all: vec![ConfigError {
                    path: String::new(),
                    problem,
                }],
            })
        })?;
        let config = Self {
            file: Some(file.to_owned()),
            ..Self::parse(&text).map_err(in_file)?
        };
        match config.accounts.is_empty() && config.pools.is_empty() {
            true => config.with_environment(environment::variable),
            false => Ok(config),
        }
    }

    /// Reads a configuration from its text. Where it has accounts and no pools, these are made as models are asked for.
    ///
    /// # Errors
    /// With all mistakes.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        let (raw, mut mistakes, unreadable) = raw::read(text);
        let mut config = check::check(raw, &unreadable, &mut mistakes);
        if !mistakes.is_empty() {
            return Err(ConfigErrors {
                file: None,
                all: mistakes,
            });
        }
        if config.pools.is_empty() && !config.accounts.is_empty() {
            config.on_demand = Some(environment::on_demand(&config.accounts, &config.catalogue));
        }
        Ok(config)
    }

    /// The defaults, with what the environment says.
    ///
    /// # Errors
    /// With every address there that is none.
    pub fn of_environment() -> Result<Self, ConfigErrors> {
        Self::parse("")?.with_environment(environment::variable)
    }

    /// With an account for each provider whose key is in the environment, and a pool for each model asked for.
    ///
    /// # Errors
    /// With every address there that is none.
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

    /// What workers need, with the credentials read.
    ///
    /// # Errors
    /// With every credential that is not there, and if there is nothing to serve.
    pub fn workers(&self) -> Result<forebay_workers::Config, ConfigErrors> {
        let mut mistakes = Vec::new();
        if self.pools.is_empty() && self.on_demand.is_none() {
            let missing = match &self.file {
                Some(_) => "no [account.NAME] is configured".to_owned(),
                None => format!("there is no {DEFAULT_FILE} here"),
            };
            let half = environment::without_address(&self.providers, environment::variable);
            let half = half
                .into_iter()
                .map(|(key, url)| format!("; {key} is set, and needs {url} beside it"));
            let problem = format!(
                "{missing}, and no key of a provider is in the environment: set OPENAI_API_KEY or another that `forebay \
                 providers` names, name a file with --config, or try `forebay demo`{}",
                half.collect::<String>()
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
        let index = |account: &str| {
            self.accounts
                .keys()
                .position(|name| name == account)
                .unwrap_or_default()
        };
        let target = |target: &TargetConfig| forebay_workers::TargetConfig {
            account: index(&target.account),
            model: target.model.clone(),
            tier: target.tier,
            weight: target.weight,
            after: target.after,
            context_window: target
                .context_window
                .or_else(|| self.model(target)?.context_window),
            prices: self
                .model(target)
                .map(|model| Arc::new(model.prices.clone())),
            max_output: self.model(target).and_then(|model| model.max_output),
        };
        let pool = |(name, pool): (&String, &PoolConfig)| forebay_workers::PoolConfig {
            name: name.clone(),
            targets: pool.targets.iter().map(target).collect(),
            content_fallback: pool.content_fallback,
            merge: pool.merge,
            cache: pool.cache,
        };
        Ok(forebay_workers::Config {
            accounts,
            pools: self.pools.iter().map(pool).collect(),
            on_demand: self.on_demand.clone(),
            teams: self.teams.clone().into_iter().collect(),
            addressing: self.addressing(),
            policy: forebay_workers::outcome::policy::RetryPolicy {
                max_attempts: self.call.attempts,
            },
            lane_weights: self.lanes,
            idle: None,
            standings: std::collections::HashMap::new(),
            kept: true,
            orders: forebay_workers::WorkerControls::default(),
            results_are_complete: true,
            max_request: self.call.max_request,
        })
    }
}

impl Config {
    /// Whether somebody serves a job for a pool that is not configured.
    pub fn serves(&self, pool: &str, model: Option<&str>) -> bool {
        self.on_demand
            .as_ref()
            .is_some_and(|on_demand| !on_demand.targets(pool, model).is_empty())
    }

    fn addressing(&self) -> SubjectRules {
        let models = self.catalogue.models().map(|model| &model.name);
        let dotted = models
            .filter(|name| name.matches('.').count() == 1)
            .cloned();
        SubjectRules {
            names: self.nats.names.clone(),
            dotted_models: Arc::new(dotted.collect()),
            refuses_unknown_teams: self.nats.refuses_unknown_teams,
        }
    }

    /// Why jobs of a team would be refused, if they would be.
    pub fn refuses_team(&self, team: &str) -> Option<String> {
        let is_known = team == DEFAULT_TEAM || self.teams.contains_key(team);
        (self.nats.refuses_unknown_teams && !is_known).then(|| unknown_team(team))
    }

    /// What is known of a target's model.
    fn model(&self, target: &TargetConfig) -> Option<&CatalogueModel> {
        let account = self.accounts.get(&target.account)?;
        self.catalogue
            .find(account.endpoint.provider, &target.model)
            .map(AsRef::as_ref)
    }
}

impl AccountConfig {
    fn build(&self, name: &str, mistakes: &mut Vec<ConfigError>) -> accounts::Config {
        let mut keys = Vec::new();
        for (index, key) in self.keys.iter().enumerate() {
            match key.read() {
                Ok(secret) => match self.endpoint.wrong_key(&secret) {
                    None => keys.push(accounts::AccountKey {
                        name: key.name.clone(),
                        secret,
                    }),
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
            // The provider may be called without one.
            keys.push(accounts::AccountKey {
                name: "none".to_owned(),
                secret: Secret::new(""),
            });
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
            KeySource::Env(variable) => {
                let text = std::env::var(variable).map_err(|_| {
                    (
                        "env",
                        format!("the environment variable {variable} is not set"),
                    )
                })?;
                ("env", text)
            }
            KeySource::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    (
                        "file",
                        format!("{} cannot be read: {error}", path.display()),
                    )
                })?;
                ("file", text)
            }
        };
        match text.trim() {
            "" => Err((field, "the key is empty".to_owned())),
            key => Ok(Secret::new(key)),
        }
    }
}

#[cfg(test)]
mod tests;
