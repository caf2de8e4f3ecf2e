//! `forebay results`.

use anyhow::anyhow;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use forebay_schemas::subjects::DEFAULT_TEAM;
use forebay_schemas::{Completion, Identity};
use forebay_workers::clock::SystemClock;
use futures::StreamExt;

use super::{Global, SOME_FAILED, ask, connect, connect_to, print};
use crate::app::open_results;
use crate::config::Config;
use crate::connection::Error;
use crate::control::{ResultsReply, ResultsRequest};
use crate::data_dir::{DataDir, Hold};
use crate::shutdown;

/// Read answers.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Print the stored completion of a job, as JSON.
    Get {
        /// The job's id.
        id: String,
        /// The job's team.
        #[arg(long, default_value = DEFAULT_TEAM)]
        team: String,
        /// The job's batch, if it is of one.
        #[arg(long)]
        batch: Option<String>,
    },
    /// Print completions as they come, a JSON object per line.
    Tail {
        /// Only this team's.
        #[arg(long)]
        team: Option<String>,
        /// Only this batch's; needs --team.
        #[arg(long, requires = "team")]
        batch: Option<String>,
        /// Begin with those that the stream still has.
        #[arg(long)]
        all: bool,
    },
}

pub(super) async fn results(global: &Global, command: Command) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    match command {
        Command::Get { id, team, batch } => get(&config, Identity { team, batch, id }).await,
        Command::Tail { team, batch, all } => tail(&config, team, batch, all).await,
    }
}

async fn get(config: &Config, identity: Identity) -> Result<u8, Error> {
    match find(config, &identity).await? {
        Some(completion) => {
            print::json(&completion);
            Ok(0)
        }
        None => {
            print::error(&format!("there is no result for {identity} (team/batch/id)"));
            Ok(SOME_FAILED)
        }
    }
}

/// Asks the worker; without one, the store itself is read.
async fn find(config: &Config, identity: &Identity) -> Result<Option<Completion>, Error> {
    if config.nats.url.is_none() && !config.data.dir.exists() {
        return Ok(None);
    }
    let connection = match DataDir::hold(&config.data.dir).map_err(|error| Error::Usage(error.into()))? {
        Hold::Taken(by) => connect_to(config, by).await?,
        Hold::Ours(_) if config.nats.url.is_some() => connect(config).await?,
        Hold::Ours(dir) => {
            let results = open_results(config, &dir.join("results"), &SystemClock).await?;
            let identity = identity.clone();
            let found = tokio::task::spawn_blocking(move || results.get(&identity)).await;
            let found = found.map_err(|error| Error::Usage(error.into()))?;
            return Ok(found.map_err(|error| Error::Usage(error.into()))?.map(|record| record.completion));
        }
    };
    let Identity { team, batch, id } = identity.clone();
    let request = serde_json::to_vec(&ResultsRequest { team, batch, id });
    let request = request.map_err(|error| Error::Usage(error.into()))?;
    ask::<ResultsReply>(&connection, "results", request).await
}

async fn tail(config: &Config, team: Option<String>, batch: Option<String>, all: bool) -> Result<u8, Error> {
    let connection = connect(config).await?;
    let stop = shutdown::on_signal().map_err(|error| Error::Usage(error.into()))?;
    let names = &connection.names;
    let unreachable =
        |error: String| Error::Unreachable(anyhow!("the stream of completions cannot be read: {error}"));
    let stream = connection
        .context
        .get_stream_no_info(names.completions_stream())
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let config = OrderedConfig {
        filter_subject: match team {
            Some(team) => names.completions_of(&team, batch.as_deref()),
            None => names.all_completions(),
        },
        deliver_policy: if all { DeliverPolicy::All } else { DeliverPolicy::New },
        ..OrderedConfig::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| unreachable(error.to_string()))?;
    let mut messages = consumer.messages().await.map_err(|error| unreachable(error.to_string()))?;
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(Ok(message)) => if !print::line(&String::from_utf8_lossy(&message.payload)) {
                    return Ok(0);
                },
                Some(Err(error)) => return Err(unreachable(error.to_string())),
                None => return Ok(0),
            },
            () = stop.cancelled() => return Ok(0),
        }
    }
}
