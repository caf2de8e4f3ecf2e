//! The command `forebay check`.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow};
use forebay_schemas::Class;
use forebay_workers::accounts::{self, AccountKey};
use forebay_workers::clock::SystemClock;
use forebay_workers::key_check::{KeyCheck, KeyProblem, probe};
use forebay_workers::upstream::http::HttpUpstream;
use futures::StreamExt;
use serde_json::{Value, json};

use super::{GlobalOptions, UNREACHABLE, USAGE, print};
use crate::app::upstream;
use crate::config::Config;
use crate::nats::connection::{Connection, Error};
use crate::nats::server;

/// Maximum number of keys that are tried at the same time.
const MAX_CONCURRENT_CHECKS: usize = 8;

/// Check the configuration, the NATS server, and each key at its provider. Nothing is changed. A
/// key is tried by listing the account's models, which is free. If the provider lists no models,
/// the key is tried by a response of one token.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Call no provider.
    #[arg(long)]
    offline: bool,
}

pub(super) async fn check(global: &GlobalOptions, args: &Args) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let workers = config.workers()?;
    let file = config.file.as_ref().map_or_else(
        || "the environment".to_owned(),
        |file| file.display().to_string(),
    );
    let keys: usize = config
        .accounts
        .values()
        .map(|account| account.keys.len())
        .sum();
    let (accounts, pools, teams) = (
        workers.accounts.len(),
        workers.pools.len(),
        config.teams.len(),
    );
    let (server, warnings) = server(&config).await?;
    let tried = if args.offline {
        Vec::new()
    } else {
        try_keys(&config, workers.accounts).await?
    };
    if global.json {
        print::json(&json!({
            "config": file, "accounts": accounts, "keys": keys, "pools": pools, "teams": teams, "nats": server, "warnings": warnings,
            "tried": tried.iter().map(TriedKey::in_json).collect::<Vec<_>>(),
        }));
    } else {
        print::line(&format!(
            "{file}: {accounts} accounts with {keys} keys, {pools} pools, {teams} teams: no mistakes"
        ));
        print::line(&server);
        for warning in &warnings {
            print::line(&format!("warning: {warning}"));
        }
        if !tried.is_empty() {
            let header = ["ACCOUNT", "KEY", "STATE", "MODELS", "LIMITS SEEN"];
            print::table(
                &header,
                &tried.iter().map(TriedKey::row).collect::<Vec<_>>(),
            );
        }
        for note in tried.iter().flat_map(TriedKey::notes) {
            print::line(&note);
        }
    }
    let problems = || tried.iter().filter_map(TriedKey::problem);
    Ok(match problems().next() {
        None => 0,
        Some(_) if problems().all(|problem| problem.class == Class::NetBeforeSend) => UNREACHABLE,
        Some(_) => USAGE,
    })
}

/// A key, and the result of its check at the provider.
struct TriedKey {
    account: String,
    key: String,
    /// The models of the pools' targets at this account.
    models: BTreeSet<String>,
    /// True if the account has its own model names, which are in no list.
    names_deployments: bool,
    probe: Option<KeyCheck>,
}

async fn try_keys(
    config: &Config,
    accounts: Vec<accounts::Config>,
) -> Result<Vec<TriedKey>, Error> {
    let upstream = upstream(config)?;
    let keys = accounts.iter().flat_map(keys_of);
    let tried = keys.map(|(account, key)| try_key(config, &upstream, account, key));
    let tried = futures::stream::iter(tried).buffered(MAX_CONCURRENT_CHECKS);
    Ok(tried.collect().await)
}

fn keys_of(account: &accounts::Config) -> impl Iterator<Item = (&accounts::Config, &AccountKey)> {
    let keys = account.keys.iter();
    keys.map(move |key| (account, key))
}

async fn try_key(
    config: &Config,
    upstream: &HttpUpstream,
    account: &accounts::Config,
    key: &AccountKey,
) -> TriedKey {
    let pools = config.pools.values();
    let targets = pools.flat_map(|pool| &pool.targets);
    let targets = targets.filter(|target| target.account == account.name);
    let models = targets.map(|target| target.model.clone());
    let models: BTreeSet<_> = models.collect();
    let first = models.first().map(String::as_str);
    let probe = probe(upstream, account, key, first, &SystemClock).await;
    TriedKey {
        account: account.name.clone(),
        key: key.name.clone(),
        models,
        names_deployments: account.endpoint.provider.names_deployments,
        probe,
    }
}

impl TriedKey {
    fn state(&self) -> &'static str {
        match &self.probe {
            None => "not tried",
            Some(KeyCheck { problem: None, .. }) => "accepted",
            Some(KeyCheck {
                problem: Some(problem),
                ..
            }) => problem.class.as_str(),
        }
    }

    fn problem(&self) -> Option<&KeyProblem> {
        let probe = self.probe.as_ref()?;
        probe.problem.as_ref()
    }

    /// Returns the models that the provider lists. `None` means that it lists none.
    fn listed_models(&self) -> Option<&Vec<String>> {
        let probe = self.probe.as_ref()?;
        probe.models.as_ref()
    }

    fn limits(&self) -> Vec<String> {
        let Some(probe) = &self.probe else {
            return Vec::new();
        };
        let limits = probe.limits.iter();
        limits
            .map(|limit| format!("{} {}", limit.limit, limit.dimension))
            .collect()
    }

    fn row(&self) -> Vec<String> {
        let models = self.listed_models().map(Vec::len);
        let models = models.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let limits = self.limits();
        let limits = if limits.is_empty() {
            "-".to_owned()
        } else {
            limits.join(", ")
        };
        vec![
            self.account.clone(),
            self.key.clone(),
            self.state().to_owned(),
            models,
            limits,
        ]
    }

    /// Returns the problems that an operator should solve.
    fn notes(&self) -> Vec<String> {
        let key = format!("{}: {}", self.account, self.key);
        if self.probe.is_none() {
            let why = "its provider lists no models, and no pool says which one to ask";
            return vec![format!("{key} is not tried: {why}")];
        }
        let problem = self.problem();
        let problem = problem.map(|problem| format!("{key}: {}", problem.message));
        let missing = self.missing().into_iter();
        let missing = missing
            .map(|model| format!("{key}: `{model}` is not in the provider's list of models"));
        problem.into_iter().chain(missing).collect()
    }

    /// Returns the requested models that the provider does not list.
    fn missing(&self) -> Vec<&String> {
        if self.names_deployments {
            return Vec::new();
        }
        let Some(models) = self.listed_models() else {
            return Vec::new();
        };
        // Ollama lists models with a tag, which may be left out in a request.
        let is_model = |listed: &String, model: &String| {
            listed
                .strip_prefix(model.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        self.models
            .iter()
            .filter(|model| !models.iter().any(|listed| is_model(listed, model)))
            .collect()
    }

    fn in_json(&self) -> Value {
        json!({
            "account": self.account, "key": self.key, "state": self.state(),
            "message": self.problem().map(|problem| &problem.message),
            "models": self.listed_models(),
            "models_not_listed": self.missing(), "limits": self.limits(),
        })
    }
}

/// Describes the server that would be used, which must have JetStream, and what publishers risk there.
async fn server(config: &Config) -> Result<(String, Vec<String>), Error> {
    let Some(url) = &config.nats.url else {
        let server = server::find().map_err(|error| Error::Unreachable(error.into()))?;
        // It has one user, so no team can do another harm.
        return Ok((
            format!("the managed server is {}", server.display()),
            Vec::new(),
        ));
    };
    let connection = Connection::open(url, config).await?;
    let server = connection.client.server_info();
    let at = format!("NATS {} on {}:{}", server.version, server.host, server.port);
    let account = connection.context.query_account().await;
    account
        .map_err(|error| anyhow!(error))
        .with_context(|| format!("{at} has no JetStream for this account"))
        .map_err(Error::Unreachable)?;
    let risks = connection.publisher_risks().await;
    Ok((format!("{at} answers, with JetStream"), risks))
}
