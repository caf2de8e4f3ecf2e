//! The commands `forebay pause`, `forebay resume` and `forebay cancel`.

use clap::ValueEnum;
use forebay_workers::{CancelledJobs, PauseTarget};

use super::client::{ask, connect};
use super::{GlobalOptions, print};
use crate::config::Config;
use crate::control::messages::{CancelReply, OrdersReply};
use crate::nats::connection::Error;

#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// The kind of what is named.
    kind: ControlKind,
    /// Its name.
    name: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ControlKind {
    /// All jobs of a pool.
    Pool,
    /// All calls through an account.
    Account,
    /// All jobs of a team.
    Team,
}

#[derive(Debug, clap::Args)]
pub(super) struct CancelArgs {
    /// Ids of jobs. Without any, all jobs of the batch.
    #[arg(required_unless_present = "batch")]
    ids: Vec<String>,
    /// The batch of the jobs.
    #[arg(long)]
    batch: Option<String>,
    /// The team of the jobs.
    #[arg(long, default_value = forebay_schemas::flow::DEFAULT_TEAM)]
    team: String,
}

impl PauseArgs {
    fn what(self) -> PauseTarget {
        match self.kind {
            ControlKind::Pool => PauseTarget::Pool(self.name),
            ControlKind::Account => PauseTarget::Account(self.name),
            ControlKind::Team => PauseTarget::Team(self.name),
        }
    }
}

/// Pauses or resumes a pool, an account or a team.
pub(super) async fn pause(
    global: &GlobalOptions,
    args: PauseArgs,
    verb: &str,
) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    let request = serde_json::to_vec(&args.what()).map_err(|error| Error::Usage(error.into()))?;
    let reply: OrdersReply = ask(&connection, verb, request).await?;
    if global.json {
        print::json(&reply);
    } else if reply.paused.is_empty() {
        print::line("nothing is paused");
    } else {
        for what in reply.paused {
            print::line(&format!("paused: {}", target_in_words(&what)));
        }
    }
    Ok(0)
}

/// Formats a pool, an account or a team for messages.
pub(super) fn target_in_words(what: &PauseTarget) -> String {
    match what {
        PauseTarget::Pool(name) => format!("pool {name}"),
        PauseTarget::Account(name) => format!("account {name}"),
        PauseTarget::Team(name) => format!("team {name}"),
    }
}

/// Cancels jobs.
pub(super) async fn cancel(global: &GlobalOptions, args: CancelArgs) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    let CancelArgs { ids, batch, team } = args;
    let ids = if ids.is_empty() {
        vec![None]
    } else {
        ids.into_iter().map(Some).collect()
    };
    for id in ids {
        let what = CancelledJobs {
            team: team.clone(),
            batch: batch.clone(),
            id,
        };
        let request = serde_json::to_vec(&what).map_err(|error| Error::Usage(error.into()))?;
        let reply: CancelReply = ask(&connection, "cancel", request).await?;
        if global.json {
            print::json(&reply);
            continue;
        }
        let cancelled = &reply.what;
        let what = match (&cancelled.id, &cancelled.batch) {
            (Some(id), _) => format!("job {id}"),
            (None, batch) => format!("batch {}", batch.as_deref().unwrap_or_default()),
        };
        print::line(&format!(
            "{what} of team {team} is cancelled, as far as it was published until {}",
            reply.at
        ));
    }
    Ok(0)
}
