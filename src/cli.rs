//! The command line: one file per command below `cli/`.

mod accounts;
mod check;
mod client;
mod controls;
mod dead;
mod demo;
mod init;
mod models;
mod permissions;
mod print;
mod publish;
mod queues;
mod renamed;
mod results;
mod run;
mod serve;
mod simulate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use forebay_schemas::Lane;

use crate::nats::connection::Error;
use crate::process::telemetry;

/// Exit code: some jobs failed.
pub const SOME_FAILED: u8 = 1;
/// Exit code: the request or the configuration is invalid.
pub const USAGE: u8 = 2;
/// Exit code: NATS or a provider is unreachable.
pub const UNREACHABLE: u8 = 3;

/// Publish AI jobs to NATS; Forebay makes the calls at exactly the rate that each key is allowed,
/// stores each result and publishes a completion.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 all succeeded, 1 some jobs failed, 2 usage or configuration, \
    3 NATS or provider unreachable, 130 interrupted and resumable.\n\n\
    Begin with `forebay demo`, which needs no configuration and no account."
)]
struct Cli {
    #[command(flatten)]
    global: GlobalOptions,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
struct GlobalOptions {
    /// The configuration file. The default is forebay.toml in the working directory, if it exists.
    #[arg(long, global = true, value_name = "FILE", env = "FOREBAY_CONFIG")]
    config: Option<PathBuf>,
    /// Print results and logs as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch Forebay do its job: 300 jobs over two simulated accounts, in about 20 seconds.
    Demo(demo::Args),
    /// Serve jobs until a signal arrives.
    Serve(serve::Args),
    /// Run an OpenAI Batch input file to its end. The same command resumes an interrupted run.
    Run(run::Args),
    /// Publish jobs, one JSON object per line.
    Publish(publish::Args),
    /// Read results.
    #[command(subcommand)]
    Results(results::ResultsCommand),
    /// Show waiting jobs by pool, team and lane.
    Queues,
    /// Show accounts, their keys and models: state, reason, end of the state, calls and refusals.
    Accounts(accounts::Args),
    /// List known models: context windows, prices and abilities.
    Models(models::ModelsArgs),
    /// List the providers that an account may name.
    Providers(models::ProvidersArgs),
    /// Show, replay and delete dead letters: jobs that were given up.
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// Stop calls for a pool, an account or a team until it is resumed. The pause outlives a
    /// restart.
    Pause(controls::PauseArgs),
    /// Resume calls for a paused pool, account or team.
    Resume(controls::PauseArgs),
    /// Cancel jobs. Waiting jobs end as cancelled; jobs in flight get their answer.
    Cancel(controls::CancelArgs),
    /// Write a commented forebay.toml from the keys in the environment.
    Init(init::Args),
    /// Check the configuration, the NATS server, and each key at its provider. Nothing is changed.
    Check(check::Args),
    /// Print a team's NATS permissions as a NATS account for the server's configuration.
    NatsPermissions(permissions::Args),
    /// Run a simulated provider that enforces limits strictly and speaks the API of any provider.
    Simulate(simulate::Args),
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Parses the command line and runs the command.
pub async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match renamed::message(&error) {
            Some(message) => {
                print::error(message);
                return ExitCode::from(USAGE);
            }
            None => error.exit(),
        },
    };
    // Serving commands log what they do. Commands that print results log warnings only.
    let serves = matches!(cli.command, Command::Serve(_) | Command::Simulate(_));
    telemetry::start(
        cli.global.json,
        if serves {
            "info,async_nats=warn"
        } else {
            "warn"
        },
    );
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
        Command::Accounts(args) => accounts::accounts(&global, args).await,
        Command::Models(args) => models::models(&global, &args),
        Command::Providers(args) => models::providers(&global, &args),
        Command::Dead(command) => dead::dead(&global, command).await,
        Command::Pause(args) => controls::pause(&global, args, "pause").await,
        Command::Resume(args) => controls::pause(&global, args, "resume").await,
        Command::Cancel(args) => controls::cancel(&global, args).await,
        Command::Init(args) => init::init(&global, &args),
        Command::Check(args) => check::check(&global, &args).await,
        Command::NatsPermissions(args) => permissions::permissions(&global, &args),
        Command::Simulate(args) => simulate::simulate(&global, args).await,
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
