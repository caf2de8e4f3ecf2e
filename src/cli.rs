//! The command line: one file per command below `cli/`.

mod check;
mod demo;
mod keys;
mod print;
mod publish;
mod queues;
mod results;
mod run;
mod serve;
mod simulate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use forebay_schemas::Lane;

use crate::app::{App, Started};
use crate::config::Config;
use crate::connection::{Connection, Error};
use crate::data_dir::{DataDir, Hold, TakenBy};
use crate::{shutdown, telemetry};

/// Some jobs failed.
pub const SOME_FAILED: u8 = 1;
/// What was asked for or configured cannot be done.
pub const USAGE: u8 = 2;
/// NATS or a provider is not there.
pub const UNREACHABLE: u8 = 3;

/// Publish AI jobs to NATS; Forebay makes the calls at exactly the rate that each key is allowed,
/// stores each result and publishes a completion.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 all succeeded, 1 some jobs failed, 2 usage or configuration, \
    3 NATS or provider unreachable, 130 interrupted and resumable.\n\n\
    Begin with `forebay demo`, which needs no configuration and no account.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// The configuration; forebay.toml in the working directory if there is one.
    #[arg(long, global = true, value_name = "FILE", env = "FOREBAY_CONFIG")]
    config: Option<PathBuf>,
    /// Print results and logs as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch Forebay do its job: 300 jobs over two simulated accounts, in some 20 seconds.
    Demo(demo::Args),
    /// Serve jobs until a signal comes.
    Serve(serve::Args),
    /// Run an OpenAI Batch input file to its end; the same command again goes on where it was.
    Run(run::Args),
    /// Publish jobs, one JSON object per line.
    Publish(publish::Args),
    /// Read answers.
    #[command(subcommand)]
    Results(results::Command),
    /// Show waiting jobs by pool, team and lane.
    Queues,
    /// Show accounts and keys: state, reason, time of return, calls and refusals.
    Keys,
    /// Check the configuration, the keys it names and the NATS server, and change nothing.
    Check,
    /// Run a simulated provider that enforces limits strictly.
    Simulate(simulate::Args),
    /// Print a shell's completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Reads the command line and does what it says.
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    // What serves tells what it does; a command that prints results tells of trouble alone.
    let serves = matches!(cli.command, Command::Serve(_) | Command::Simulate(_));
    telemetry::start(cli.global.json, if serves { "info,async_nats=warn" } else { "warn" });
    match dispatch(cli).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            print::error(&error.to_string());
            ExitCode::from(match error {
                Error::Usage(_) => USAGE,
                Error::Unreachable(_) => UNREACHABLE,
            })
        }
    }
}

async fn dispatch(cli: Cli) -> Result<u8, Error> {
    let global = cli.global;
    match cli.command {
        Command::Demo(args) => demo::demo(&global, args).await,
        Command::Serve(args) => serve::serve(&global, args).await,
        Command::Run(args) => run::run(&global, args).await,
        Command::Publish(args) => publish::publish(&global, args).await,
        Command::Results(command) => results::results(&global, command).await,
        Command::Queues => queues::queues(&global).await,
        Command::Keys => keys::keys(&global).await,
        Command::Check => check::check(&global).await,
        Command::Simulate(args) => simulate::simulate(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "forebay", &mut script);
            print::line(String::from_utf8_lossy(&script).trim_end());
            Ok(0)
        }
    }
}

fn lane(text: &str) -> Result<Lane, String> {
    text.parse()
}

/// A connection as a client: to `[nats] url`, or to the process that holds the data directory.
async fn connect(config: &Config) -> Result<Connection, Error> {
    if let Some(url) = &config.nats.url {
        return Connection::open(url, config).await;
    }
    let dir = &config.data.dir;
    let nobody = || {
        Error::Unreachable(anyhow::anyhow!(
            "nothing runs on the data directory {}: start `forebay serve`, or name a configuration",
            dir.display()
        ))
    };
    if !dir.exists() {
        return Err(nobody());
    }
    match DataDir::hold(dir).map_err(|error| Error::Usage(error.into()))? {
        Hold::Ours(_) => Err(nobody()),
        Hold::Taken(by) => connect_to(config, by).await,
    }
}

/// A connection to the process that holds the data directory.
async fn connect_to(config: &Config, by: TakenBy) -> Result<Connection, Error> {
    let mut by = by;
    // It may be starting: its address is known once its server is up.
    for _ in 0..100 {
        if let Some(holder) = &by.holder {
            return Connection::open(&holder.url, config).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        match DataDir::hold(&config.data.dir).map_err(|error| Error::Usage(error.into()))? {
            Hold::Ours(_) => break,
            Hold::Taken(again) => by = again,
        }
    }
    Err(Error::Unreachable(anyhow::anyhow!(
        "the process that holds the data directory {} does not come up",
        config.data.dir.display()
    )))
}

/// Asks a running worker.
async fn ask<T: serde::de::DeserializeOwned>(
    connection: &Connection,
    verb: &str,
    request: Vec<u8>,
) -> Result<T, Error> {
    let unreachable = |problem: String| Error::Unreachable(anyhow::anyhow!(problem));
    let reply = connection
        .client
        .request(connection.names.ctl(verb), request.into())
        .await
        .map_err(|error| unreachable(format!("no worker answers: {error}")))?;
    let header = |name| reply.headers.as_ref().and_then(|headers| headers.get(name));
    if let Some(problem) = header("Nats-Service-Error") {
        return Err(unreachable(format!("the worker says: {problem}")));
    }
    serde_json::from_slice(&reply.payload)
        .map_err(|error| unreachable(format!("the worker's answer cannot be read: {error}")))
}

/// Runs `work` beside a running Forebay, which is stopped after it, or as a client of the process that
/// runs already.
async fn with_worker<T>(
    config: &Config,
    work: impl AsyncFnOnce(Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    if config.nats.url.is_some() {
        let connection = connect(config).await?;
        let answered = connection.client.request(connection.names.ctl("keys"), "".into()).await.is_ok();
        if answered {
            return work(connection).await;
        }
    }
    match App::start(config).await? {
        Started::Elsewhere(by) => work(connect_to(config, by).await?).await,
        Started::Here(app) => {
            let result = tokio::select! {
                result = work(app.connection.clone()) => result,
                () = app.unseated() => Err(Error::Unreachable(anyhow::anyhow!(
                    "another worker has taken over; run the same command again to go on"
                ))),
            };
            app.stop(shutdown::GRACE).await;
            result
        }
    }
}
