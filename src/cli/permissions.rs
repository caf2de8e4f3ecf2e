//! `forebay nats-permissions`.

use anyhow::anyhow;
use forebay_schemas::subjects::is_name;
use serde_json::json;

use super::client::connect;
use super::{Global, print};
use crate::config::Config;
use crate::connection::Error;
use crate::permissions::{Grants, make_consumer};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The team.
    team: String,
    /// Make the consumer that the team reads all its completions through, too.
    #[arg(long)]
    make_consumer: bool,
}

pub(super) async fn permissions(global: &Global, args: Args) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let team = &args.team;
    if !is_name(team) {
        return Err(Error::Usage(anyhow!("`{team}` is no team name, use 1 to 64 of A-Z a-z 0-9 _ -")));
    }
    let names = &config.nats.names;
    let grants = Grants::of(team, names);
    if args.make_consumer {
        let connection = connect(&config).await?;
        make_consumer(&connection, team).await.map_err(|problem| {
            Error::Unreachable(anyhow!("the consumer of team {team} cannot be made: {problem}"))
        })?;
        print::note(&format!(
            "the consumer {} of stream {} is there",
            names.team_consumer(team),
            names.completions_stream()
        ));
    }
    if global.json {
        print::json(&json!({
            "user": team,
            "permissions": {
                "publish": { "allow": grants.publish },
                "subscribe": { "allow": grants.subscribe },
            },
        }));
    } else {
        print::line(&grants.to_config(team, names));
    }
    Ok(0)
}
