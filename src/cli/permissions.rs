//! The command `forebay nats-permissions`.

use anyhow::anyhow;
use forebay_schemas::flow::problem_of_team;
use serde_json::json;

use super::{GlobalOptions, print};
use crate::config::Config;
use crate::nats::connection::Error;
use crate::nats::permissions::TeamGrants;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The team.
    team: String,
    /// Print a user of Forebay's own NATS account instead of a NATS account for the team. This is
    /// for teams that trust each other.
    #[arg(long)]
    shared_account: bool,
}

pub(super) fn permissions(global: &GlobalOptions, args: &Args) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let team = &args.team;
    if let Some(problem) = problem_of_team(team) {
        return Err(Error::Usage(anyhow!(problem)));
    }
    let names = &config.nats.names;
    let grants = TeamGrants::of(team, &config.team(team).lanes, names);
    if global.json && !args.shared_account {
        print::json(&grants.in_json(team));
    } else if global.json {
        print::json(&json!({
            "user": team,
            "permissions": {
                "publish": { "allow": grants.publish },
                "subscribe": { "allow": grants.subscribe },
            },
        }));
    } else if args.shared_account {
        print::line(&grants.to_user(team, names));
    } else {
        print::line(&grants.to_account(team));
    }
    Ok(0)
}
