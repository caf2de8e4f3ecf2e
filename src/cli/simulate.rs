//! The command `forebay simulate`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use serde_json::json;
use tokio::net::TcpListener;

use super::{GlobalOptions, print};
use crate::nats::connection::Error;
use crate::process::shutdown::{self, Hangup};
use forebay_simulator::account;
use forebay_simulator::fault::FaultPlan;
use forebay_simulator::{Config, Provider, VendorFailure, failures};

const AFTER_HELP: &str = "\
Answers are made from the request alone. A last text that begins with `call ` calls the first tool, with \
`refuse ` is refused, with `think ` is thought about, with `cached ` counts as half cached; any other is \
answered with `You said: …`. The model `fail-CASE` fails.

Example:
  forebay simulate --listen 127.0.0.1:9001 \\
    --account name=one,key=sk-one,limit=600/1m \\
    --account name=two,key=sk-two,limit=300/1m,algorithm=fixed \\
    --account name=three,key=sk-three,fixture=anthropic-legacy-t1,scale=60";

/// Run a simulated provider. It speaks the API of OpenAI, Azure, Anthropic, Gemini, Mistral,
/// Cohere, Bedrock, Ollama, Groq, DeepSeek and OpenRouter. It enforces each account's limits
/// strictly, sends the real headers and error bodies, and can fail on purpose.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Args {
    /// The listen address. Port 0 takes any free port.
    #[arg(long, default_value = "127.0.0.1:9001")]
    listen: String,
    /// An account: name=NAME,key=KEY (Ollama needs no key), and any of these fields.
    ///
    /// provider=NAME: openai, azure, anthropic, gemini, mistral, cohere, bedrock, ollama,
    /// groq, deepseek or openrouter.
    /// limit=CALLS/PERIOD, tokens=TOKENS/PERIOD, input_tokens=…, output_tokens=…: its limits.
    /// Each can be given several times.
    /// algorithm=sliding|fixed|bucket, tokens_algorithm=…: how they are counted.
    /// concurrent=CALLS: the most calls at once.
    /// headers=limits|waits|none: responses report all limits, only the wait after a
    /// refusal, or nothing.
    /// scale=N: all periods are N times shorter than written.
    /// fixture=NAME: a real account, whose fields the other fields replace. One of
    /// openai-t1, anthropic-legacy-t1, gemini-free, groq-free, azure-600, deepseek, bedrock
    /// and mistral-rps.
    #[arg(
        long = "account",
        verbatim_doc_comment,
        value_name = "ACCOUNT",
        required_unless_present = "list_failures"
    )]
    accounts: Vec<account::Config>,
    /// The latency of answers: one duration, or two with .. between them. Two mean log-normal times
    /// around their geometric mean.
    #[arg(long, default_value = "50ms", value_parser = latency)]
    latency: (Duration, Duration),
    /// Faults, each with its share of calls: error, overloaded, reset, truncated, malformed, hang,
    /// endless, or a failure that --list-failures names.
    #[arg(long, value_name = "FAULT=SHARE,…", default_value = "")]
    faults: String,
    /// The seed for the choice of latencies and faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The file for the record of calls, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Print every failure that the model fail-CASE can cause: provider, case, class, status. Then
    /// end.
    #[arg(long)]
    list_failures: bool,
}

fn latency(text: &str) -> Result<(Duration, Duration), String> {
    let read = |text: &str| humantime::parse_duration(text).map_err(|error| error.to_string());
    match text.split_once("..") {
        Some((least, most)) => Ok((read(least)?, read(most)?)),
        None => read(text).map(|one| (one, one)),
    }
}

pub(super) async fn simulate(global: &GlobalOptions, args: Args) -> Result<u8, Error> {
    if args.list_failures {
        list_failures(global);
        return Ok(0);
    }
    let faults = match args.faults.as_str() {
        "" => FaultPlan::default(),
        text => text
            .parse()
            .map_err(|problem: String| Error::Usage(anyhow!("--faults: {problem}")))?,
    };
    let stop =
        shutdown::on_signal(Hangup::Ends, None).map_err(|error| Error::Usage(error.into()))?;
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| Error::Usage(anyhow!("--listen {}: {error}", args.listen)))?;
    let config = Config {
        accounts: args.accounts,
        latency: args.latency,
        faults,
        seed: args.seed,
        record: args.record,
    };
    let provider = Provider::start(config, listener).map_err(|error| Error::Usage(error.into()))?;
    if global.json {
        print::json(&json!({ "listening": provider.base_url(), "url": provider.url() }));
    } else {
        print::line(&format!("listening on {}", provider.base_url()));
    }
    stop.cancelled().await;
    Ok(0)
}

fn list_failures(global: &GlobalOptions) {
    let failures = failures();
    if global.json {
        print::json(&json!({ "failures": failures }));
        return;
    }
    let row = |failure: &VendorFailure| {
        [
            failure.provider,
            failure.case,
            failure.class,
            failure.task,
            &failure.status.to_string(),
        ]
        .map(str::to_owned)
        .to_vec()
    };
    print::table(
        &["PROVIDER", "CASE", "CLASS", "OF", "STATUS"],
        &failures.iter().map(row).collect::<Vec<_>>(),
    );
}
