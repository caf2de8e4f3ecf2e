//! The command `forebay run`.

mod dry;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use forebay_schemas::Lane;
use forebay_schemas::flow::DEFAULT_TEAM;
use serde_json::json;

use super::client::{ask, with_worker};
use super::{GlobalOptions, SOME_FAILED, lane, print};
use crate::batch::failures::FailureSummary;
use crate::batch::input::{Batch, BatchChoices};
use crate::batch::input_text::{STANDARD_STREAM, read_text};
use crate::batch::output::{BatchOutput, OutputFiles};
use crate::batch::progress::RunProgress;
use crate::batch::run::{self, RunChoices};
use crate::batch::totals::{RunOutcome, RunTotals};
use crate::batch::trial::TrialError;
use crate::config::{Config, ConfiguredPool};
use crate::control::messages::AccountsReport;
use crate::nats::connection::{Connection, Error};
use crate::process::shutdown::{self, Hangup, INTERRUPTED};

/// Any free port on this machine.
const ANY_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Run an OpenAI Batch input file to its end. The whole file is checked before anything is
/// published. After an interruption, the same command resumes the run. Lines with an answer are not
/// called again.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  forebay run requests.jsonl --output answers.jsonl\n\n\
    Each line's pool is that of its model: other characters than A-Z a-z 0-9 - become _, so that\n  \
    gpt-4.1 is pool gpt-4_1. Failed lines go to answers.errors.jsonl in OpenAI's error shapes."
)]
pub(super) struct Args {
    /// The input file, one job per line, or - for standard input. It may be compressed with gzip or zstd.
    #[arg(value_name = "INPUT.jsonl")]
    input: PathBuf,
    /// The output file for succeeded lines, in input order, or - for standard output.
    #[arg(long, value_name = "OUT.jsonl", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// The output file for all other lines. The default is OUT.errors.jsonl, or - if OUT is -.
    #[arg(long, value_name = "ERR.jsonl")]
    errors: Option<PathBuf>,
    /// The pool of all lines.
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// The team of the jobs.
    #[arg(long, default_value = DEFAULT_TEAM)]
    team: String,
    /// The lane: interactive, normal or bulk.
    #[arg(long, default_value = "normal", value_parser = lane)]
    lane: Lane,
    /// The batch's name. The default is derived from file, pool and team.
    #[arg(long, value_name = "NAME")]
    batch: Option<String>,
    /// Call lines again that failed, expired or were cancelled in an earlier run.
    #[arg(long)]
    retry_failed: bool,
    /// Send all lines, although the first 20 fail with the same error.
    #[arg(long)]
    keep_going: bool,
    /// Call all lines, although other batches have answers to the same requests.
    #[arg(long)]
    fresh: bool,
    /// Call lines again and pay for them again whose answers are no longer kept.
    #[arg(long)]
    pay_again: bool,
    /// Overwrite an output file that is not this batch's.
    #[arg(long)]
    force: bool,
    /// Send and write nothing. Print the likely calls, tokens, cost and time of all lines together.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(global: &GlobalOptions, args: Args) -> Result<u8, Error> {
    let mut config = Config::load(global.config.as_deref())?;
    // No other process needs the address of this server.
    config.nats.listen.get_or_insert(ANY_ADDRESS);
    let choices = BatchChoices {
        pool: args.pool.clone(),
        team: args.team.clone(),
        name: args.batch.clone(),
    };
    let max_request = config.call.max_request;
    let text = read_text(&args.input).map_err(Error::Usage)?;
    let output = match &args.output {
        Some(output) if !args.dry_run => output.clone(),
        _ => {
            let batch = Batch::parse(&args.input, text, &choices).map_err(Error::Usage)?;
            let (workers, known) = (config.workers()?, pools(&config, &batch));
            let checked = batch.check(&args.input, Some(&known), max_request);
            checked.map_err(Error::Usage)?;
            return Ok(dry::dry_run(global, &config, workers, &batch));
        }
    };
    let stop = shutdown::on_signal(Hangup::Ends, Some(config.call.grace));
    let stop = stop.map_err(|error| Error::Usage(error.into()))?;
    let files = OutputFiles::new(output, args.errors.clone());
    let prepare = || {
        let input = (&*args.input, text.clone());
        let prepared = run::prepare(input, &choices, files.clone(), args.force);
        prepared.map_err(Error::Usage)
    };
    let (batch, output) = prepare()?;
    // Everything that can be refused without starting a worker is refused here.
    let has_own_server = config.nats.url.is_none();
    if has_own_server && config.serves_anything() {
        refuse_unknown_team(config.refuses_team(&args.team))?;
        batch
            .check(&args.input, Some(&pools(&config, &batch)), usize::MAX)
            .map_err(Error::Usage)?;
    }
    let mut prepared = Some((batch, output));
    let ended = with_worker(&config, async |connection| {
        let (batch, output) = prepared.take().map_or_else(prepare, Ok)?;
        let progress = RunProgress::new(batch.lines.len(), global.json);
        check_and_run(
            &connection,
            (&args, max_request),
            batch,
            output,
            progress,
            &stop,
        )
        .await
    })
    .await?;
    report(global, &files, ended)
}

fn refuse_unknown_team(problem: Option<String>) -> Result<(), Error> {
    problem.map_or(Ok(()), |problem| {
        Err(Error::Usage(anyhow::anyhow!(problem)))
    })
}

/// Returns the pools that a worker with this configuration has for a batch, with their models.
fn pools(config: &Config, batch: &Batch) -> BTreeMap<String, BTreeSet<String>> {
    let models = |pool: &ConfiguredPool| {
        pool.targets
            .iter()
            .map(|target| target.model.clone())
            .collect()
    };
    let mut pools: BTreeMap<String, BTreeSet<_>> = config
        .pools
        .iter()
        .map(|(name, pool)| (name.clone(), models(pool)))
        .collect();
    for line in &batch.lines {
        let model = line.model();
        if config.serves(&line.pool, model) {
            pools
                .entry(line.pool.clone())
                .or_default()
                .extend(model.map(str::to_owned));
        }
    }
    pools
}

async fn check_and_run(
    connection: &Connection,
    (args, max_request): (&Args, usize),
    batch: Batch,
    output: BatchOutput,
    progress: RunProgress,
    stop: &tokio_util::sync::CancellationToken,
) -> Result<RunOutcome, Error> {
    let accounts: AccountsReport = ask(connection, "accounts", Vec::new()).await?;
    refuse_unknown_team(accounts.refuses_team(&args.team))?;
    let known = (!accounts.makes_pools).then(|| accounts.served());
    batch
        .check(&args.input, known.as_ref(), max_request)
        .map_err(Error::Usage)?;
    run::run(
        connection,
        batch,
        RunChoices {
            lane: args.lane,
            retry_failed: args.retry_failed,
            keep_going: args.keep_going,
            fresh: args.fresh,
            pay_again: args.pay_again,
        },
        output,
        progress,
        stop,
    )
    .await
}

fn report(global: &GlobalOptions, files: &OutputFiles, ended: RunOutcome) -> Result<u8, Error> {
    let (interrupted, totals, stopped_by) = match ended {
        RunOutcome::Done(totals) => (false, totals, None),
        RunOutcome::Interrupted(totals) => (true, totals, None),
        RunOutcome::Stopped(totals, error) => (false, totals, Some(error)),
    };
    let done = totals.done();
    let RunTotals {
        batch: name,
        lines,
        succeeded,
        failed,
        cost,
        failures,
    } = totals;
    // The standard output may be that of the answers.
    let print_line = |text: &str| match files.use_standard_output() {
        true => print::note(text),
        false => {
            print::line(text);
        }
    };
    if global.json {
        let mut report = json!({
            "batch": name, "lines": lines, "succeeded": succeeded, "failed": failed,
            "interrupted": interrupted, "output": files.output, "errors": files.errors,
            "failures": failures.in_json(), "stopped_by": stopped_by.as_ref().map(|error| &error.code),
        });
        if let (Some(report), Some(cost)) = (report.as_object_mut(), cost.in_json().as_object_mut())
        {
            report.append(cost);
        }
        print_line(&report.to_string());
    } else {
        let mut text = if interrupted {
            vec![format!(
                "batch {name}: interrupted with {done} of {lines} lines done; run the same command again to go on"
            )]
        } else if let Some(error) = &stopped_by {
            stopped(&name, error, (failed, lines - done))
        } else {
            ended_lines(&name, files, (succeeded, failed, lines), &failures)
        };
        text.push(cost.to_string());
        text.iter().for_each(|line| print_line(line));
    }
    Ok(match (interrupted, failed) {
        (true, _) => INTERRUPTED,
        (false, 0) => 0,
        (false, _) => SOME_FAILED,
    })
}

/// Says why a batch was stopped after its first lines.
fn stopped(name: &str, error: &TrialError, (failed, left): (usize, usize)) -> Vec<String> {
    let TrialError { code, message, .. } = error;
    vec![
        format!(
            "batch {name}: stopped, since the first {failed} lines all failed with {code}: {message}"
        ),
        format!(
            "the other {left} lines were not sent; correct them and run the file again, or send them as they are with --keep-going"
        ),
    ]
}

/// Says how a whole batch ended, and what can be done about its failed lines.
fn ended_lines(
    name: &str,
    files: &OutputFiles,
    (succeeded, failed, lines): (usize, usize, usize),
    failures: &FailureSummary,
) -> Vec<String> {
    let place = |path: &Path| match path.to_str() {
        Some(STANDARD_STREAM) => "the standard output".to_owned(),
        _ => path.display().to_string(),
    };
    let mut text = vec![format!(
        "batch {name}: {succeeded} of {lines} lines succeeded, in {}{}",
        place(&files.output),
        match failed {
            0 => String::new(),
            _ => format!("; {failed} did not, in {}", place(&files.errors)),
        }
    )];
    text.extend(failures.lines());
    if failed > 0 {
        text.push(
            "  to call the failed lines again, as they are or corrected, add --retry-failed"
                .to_owned(),
        );
    }
    text
}
