//! The command `forebay demo`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use forebay_schemas::Lane;
use forebay_schemas::completion::OutputLine;
use forebay_schemas::flow::DEFAULT_TEAM;
use serde_json::json;
use tokio::net::TcpListener;

use super::client::with_worker;
use super::{GlobalOptions, SOME_FAILED, print};
use crate::batch::input::BatchChoices;
use crate::batch::output::OutputFiles;
use crate::batch::progress::RunProgress;
use crate::batch::run::{self, RunChoices};
use crate::batch::totals::RunOutcome;
use crate::config::Config;
use crate::nats::connection::Error;
use crate::process::shutdown::{self, Hangup, INTERRUPTED};
use forebay_simulator::Provider;
use forebay_simulator::fault::FaultPlan;
use forebay_simulator::record::{RecordSummary, summarise};

/// The example that is run.
const JOBS: &str = include_str!("../../examples/demo.jsonl");
/// The two accounts of the simulated provider. Their keys are valid nowhere else.
const ACCOUNTS: [&str; 2] = [
    "name=large,key=sk-demo-large,limit=600/1m",
    "name=small,key=sk-demo-small,limit=300/1m",
];

/// Watch Forebay do its job: it starts a NATS server, and a simulated provider with two accounts of
/// 600 and 300 calls a minute. The provider refuses every call over its limits. Forebay then runs
/// 300 jobs, and the demo ends with the provider's counts. It fails if a single call was refused.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn demo(global: &GlobalOptions, _: Args) -> Result<u8, Error> {
    let stop =
        shutdown::on_signal(Hangup::Ends, None).map_err(|error| Error::Usage(error.into()))?;
    let usage = |error: anyhow::Error| Error::Usage(error);
    let dir = tempfile::tempdir()
        .context("a directory for the demo")
        .map_err(usage)?;
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|error| usage(error.into()))?;
    let accounts: Result<Vec<_>, _> = ACCOUNTS.into_iter().map(str::parse).collect();
    let provider = Provider::start(
        forebay_simulator::Config {
            accounts: accounts.map_err(|problem: String| usage(anyhow::anyhow!(problem)))?,
            latency: (Duration::from_millis(50), Duration::from_millis(250)),
            faults: FaultPlan::default(),
            seed: 1,
            record: None,
        },
        listener,
    )
    .map_err(|error| usage(error.into()))?;
    let config = configuration(dir.path(), &provider.base_url()).map_err(usage)?;
    let input = dir.path().join("demo.jsonl");
    std::fs::write(&input, JOBS).map_err(|error| usage(error.into()))?;
    let files = OutputFiles::new(dir.path().join("answers.jsonl"), None);
    let choices = BatchChoices {
        team: DEFAULT_TEAM.to_owned(),
        ..BatchChoices::default()
    };
    if !global.json {
        print::note(&format!(
            "{} jobs for two accounts of 600 and 300 calls a minute; the provider is simulated and refuses every call over a limit",
            JOBS.lines().count()
        ));
    }
    let ended = with_worker(&config, async |connection| {
        let (batch, output) =
            run::prepare((&input, JOBS.into()), &choices, files.clone(), false).map_err(usage)?;
        let progress = RunProgress::new(batch.lines.len(), global.json);
        run::run(
            &connection,
            batch,
            RunChoices {
                lane: Lane::Normal,
                retry_failed: false,
                keep_going: false,
                fresh: false,
                pay_again: false,
            },
            output,
            progress,
            &stop,
        )
        .await
    })
    .await?;
    let RunOutcome::Done(totals) = ended else {
        return Ok(INTERRUPTED);
    };
    let summaries = summarise(&provider.calls(), &provider.accounts());
    let answers = first_answers(&files.output, 3).map_err(usage)?;
    report(global, &summaries, &answers);
    let refusals = |summary: &RecordSummary| summary.refusals;
    let refusals: usize = summaries.iter().map(refusals).sum();
    if refusals > 0 {
        print::error(&format!("the provider refused {refusals} calls"));
    }
    Ok(if refusals > 0 || totals.failed > 0 {
        SOME_FAILED
    } else {
        0
    })
}

/// Writes a configuration as a user would. The keys are in files in the demo's directory.
fn configuration(dir: &Path, base_url: &str) -> anyhow::Result<Config> {
    let mut text = format!(
        "[nats]\nlisten = \"127.0.0.1:0\"\n[data]\ndir = {:?}\n",
        dir.join("data")
    );
    let mut targets = Vec::new();
    for (name, limit) in [("large", 600), ("small", 300)] {
        let file = dir.join(format!("{name}.key"));
        std::fs::write(&file, format!("sk-demo-{name}"))?;
        text.push_str(&format!(
            "[account.{name}]\nprovider = \"openai\"\nbase_url = {base_url:?}\nkeys = [{{ name = \"a\", file = {file:?} }}]\n\
             limits = [{{ requests = {limit}, per = \"1m\" }}]\n"
        ));
        targets.push(format!(
            "{{ account = \"{name}\", model = \"gpt-4o-mini\" }}"
        ));
    }
    text.push_str(&format!(
        "[pool.gpt-4o-mini]\ntargets = [{}]\n",
        targets.join(", ")
    ));
    Ok(Config::parse(&text)?)
}

fn first_answers(path: &Path, count: usize) -> anyhow::Result<Vec<OutputLine>> {
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .take(count)
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

fn report(global: &GlobalOptions, summaries: &[RecordSummary], answers: &[OutputLine]) {
    if global.json {
        print::json(&json!({ "accounts": summaries, "answers": answers }));
        return;
    }
    let percent = |share: Option<f64>| {
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
    };
    let row = |summary: &RecordSummary| {
        let key = summary.key.as_deref().unwrap_or("a");
        vec![
            summary.account.clone(),
            key.to_owned(),
            summary.calls.to_string(),
            summary.refusals.to_string(),
            percent(summary.share),
        ]
    };
    let rows: Vec<_> = summaries.iter().map(row).collect();
    print::line("\nWhat the provider counted:");
    print::table(
        &["ACCOUNT", "KEY", "CALLS", "REFUSALS", "OF THE ALLOWED RATE"],
        &rows,
    );
    print::line("\nThree of the answers:");
    for answer in answers {
        let text = answer_text(answer).unwrap_or_default();
        print::line(&format!("  {}: {text}", answer.custom_id));
    }
}

fn answer_text(answer: &OutputLine) -> Option<String> {
    let response = answer.response.as_ref()?;
    let body: serde_json::Value = serde_json::from_str(response.body.get()).ok()?;
    let text = body.pointer("/choices/0/message/content")?;
    text.as_str().map(str::to_owned)
}
