//! `forebay check`.

use super::{Global, print};
use crate::config::Config;
use crate::connection::{Connection, Error};
use crate::nats;

pub(super) async fn check(global: &Global) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let workers = config.workers()?;
    let file = config.file.as_ref().map_or_else(String::new, |file| file.display().to_string());
    let keys: usize = workers.quotas.iter().map(|quota| quota.keys.len()).sum();
    print::line(&format!(
        "{file}: {} quotas with {keys} keys, {} pools, {} teams: no mistakes",
        workers.quotas.len(),
        workers.pools.len(),
        config.teams.len()
    ));
    match &config.nats.url {
        Some(url) => {
            let connection = Connection::open(url, &config).await?;
            let server = connection.client.server_info();
            print::line(&format!("NATS {} answers on {}:{}", server.version, server.host, server.port));
        }
        None => {
            let server = nats::find().map_err(|error| Error::Unreachable(error.into()))?;
            print::line(&format!("the minded server is {}", server.display()));
        }
    }
    Ok(0)
}
