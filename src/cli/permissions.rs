//! `forebay nats-permissions`.

use anyhow::anyhow;
use forebay_schemas::subjects::is_name;
use serde_json::json;

use super::{Global, print};
use crate::config::Config;
use crate::connection::Error;
use crate::permissions::Grants;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The team.
    team: String,
    /// Print an account of the team's own beside this one, in which Forebay is. Teams that do not trust each other
    /// need that.
    #[arg(long, value_name = "ACCOUNT")]
    beside: Option<String>,
}

pub(super) fn permissions(global: &Global, args: &Args) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let team = &args.team;
    if !is_name(team) {
        return Err(Error::Usage(anyhow!("`{team}` is no team name, use 1 to 64 of A-Z a-z 0-9 _ -")));
    }
    let names = &config.nats.names;
    let grants = Grants::of(team, names);
    if global.json {
        print::json(&json!({
            "user": team,
            "permissions": {
                "publish": { "allow": grants.publish },
                "subscribe": { "allow": grants.subscribe },
            },
        }));
    } else if let Some(forebay) = &args.beside {
        print::line(&grants.to_account(team, forebay));
    } else {
        print::line(&grants.to_config(team, names));
    }
    Ok(0)
}
