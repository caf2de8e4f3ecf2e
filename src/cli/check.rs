//! `forebay check`.

use anyhow::{Context, anyhow};
use serde_json::json;

use super::{Global, print};
use crate::config::Config;
use crate::connection::{Connection, Error};
use crate::nats;

pub(super) async fn check(global: &Global) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let workers = config.workers()?;
    let file = config.file.as_ref().map_or_else(String::new, |file| file.display().to_string());
    let keys: usize = config.quotas.values().map(|quota| quota.keys.len()).sum();
    let (quotas, pools, teams) = (workers.quotas.len(), workers.pools.len(), config.teams.len());
    let server = server(&config).await?;
    if global.json {
        print::json(&json!({
            "config": file, "quotas": quotas, "keys": keys, "pools": pools, "teams": teams, "nats": server,
        }));
    } else {
        print::line(&format!(
            "{file}: {quotas} quotas with {keys} keys, {pools} pools, {teams} teams: no mistakes"
        ));
        print::line(&server);
    }
    Ok(0)
}

/// The server that would be used, which must have JetStream.
async fn server(config: &Config) -> Result<String, Error> {
    let Some(url) = &config.nats.url else {
        let server = nats::find().map_err(|error| Error::Unreachable(error.into()))?;
        return Ok(format!("the minded server is {}", server.display()));
    };
    let connection = Connection::open(url, config).await?;
    let server = connection.client.server_info();
    let at = format!("NATS {} on {}:{}", server.version, server.host, server.port);
    let account = connection.context.query_account().await;
    account
        .map_err(|error| anyhow!(error))
        .with_context(|| format!("{at} has no JetStream for this account"))
        .map_err(Error::Unreachable)?;
    Ok(format!("{at} answers, with JetStream"))
}
