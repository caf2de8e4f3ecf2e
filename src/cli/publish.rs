//! `forebay publish`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use async_nats::HeaderMap;
use forebay_schemas::subjects::{DEFAULT_TEAM, is_name};
use forebay_schemas::{Flow, Identity, Job, Lane};
use serde_json::json;

use super::client::connect;
use super::{Global, lane, print};
use crate::batch::{check_url, without_bom};
use crate::config::Config;
use crate::connection::Error;

/// Publish jobs, one JSON object per line, and print what NATS acknowledged. Answers come as
/// completions: see `forebay results tail`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  echo '{\"id\":\"hello-1\",\"body\":{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}}' \\\n    | forebay publish --pool gpt-4o-mini"
)]
pub(super) struct Args {
    /// The file; standard input if none is named.
    #[arg(value_name = "JOBS.jsonl")]
    file: Option<PathBuf>,
    /// The pool.
    #[arg(long, value_name = "POOL")]
    pool: String,
    /// The team that the jobs belong to.
    #[arg(long, default_value = DEFAULT_TEAM)]
    team: String,
    /// interactive, normal or bulk.
    #[arg(long, default_value = "normal", value_parser = lane)]
    lane: Lane,
}

pub(super) async fn publish(global: &Global, args: Args) -> Result<u8, Error> {
    for (what, name) in [("pool", &args.pool), ("team", &args.team)] {
        if !is_name(name) {
            return Err(Error::Usage(anyhow!("`{name}` is no {what} name, use 1 to 64 of A-Z a-z 0-9 _ -")));
        }
    }
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    let flow = Flow { pool: args.pool, team: args.team, lane: args.lane };
    let subject = connection.names.job(&flow);
    let input: Box<dyn BufRead> = match &args.file {
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| path.display().to_string());
            Box::new(BufReader::new(file.map_err(Error::Usage)?))
        }
        None => Box::new(std::io::stdin().lock()),
    };
    for (number, line) in (1..).zip(input.split(b'\n')) {
        let line = line.map_err(|error| Error::Usage(error.into()))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let in_line =
            |error: anyhow::Error| error.context(format!("line {number}; the lines before it are published"));
        let line = if number == 1 { without_bom(&line).to_vec() } else { line };
        let (size, most) = (line.len(), config.call.max_request);
        if size > most {
            let problem = anyhow!("{size} bytes are more than max_request of {most} in [call]");
            return Err(Error::Usage(in_line(problem)));
        }
        let job = Job::parse(&line).map_err(|error| Error::Usage(in_line(error.into())))?;
        check_url(&job).map_err(|problem| Error::Usage(in_line(anyhow!(problem))))?;
        let identity = Identity {
            team: flow.team.clone(),
            batch: job.batch.clone(),
            // One without a name is given one when its message has a place.
            id: job.own_id().map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned),
        };
        let published = async {
            let mut headers = HeaderMap::new();
            let message = connection.enclose(&identity, line.into(), &mut headers).await?;
            let ack = connection.context.publish_with_headers(subject.clone(), headers, message).await?;
            anyhow::Ok(ack.await?)
        };
        let ack = published.await.map_err(|error| Error::Unreachable(in_line(error)))?;
        if global.json {
            print::json(
                &json!({ "id": job.own_id(), "subject": subject, "stream": ack.stream, "sequence": ack.sequence }),
            );
        } else {
            print::line(&format!("{} {} {subject}", ack.sequence, job.own_id().unwrap_or("-")));
        }
    }
    Ok(0)
}
