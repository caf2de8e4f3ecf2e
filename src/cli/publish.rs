//! `forebay publish`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use forebay_schemas::subjects::DEFAULT_TEAM;
use forebay_schemas::{Flow, Identity, Job, Lane};
use forebay_workers::queue::jetstream::given_id;
use serde_json::json;

use super::client::{ask, connect};
use super::{Global, lane, print};
use crate::batch::{check_url, unknown_pool, without_bom};
use crate::config::Config;
use crate::connection::{Connection, Error};
use crate::control::Accounts;

/// How long a worker is waited for that may know the pool.
const PATIENCE: Duration = Duration::from_secs(2);

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
    let flow = Flow { pool: args.pool, team: args.team, lane: args.lane };
    if let Some(problem) = flow.problem() {
        return Err(Error::Usage(anyhow!(problem)));
    }
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    check_flow(&connection, &flow).await?;
    let subject = connection.names.job(&flow);
    // When the stream of jobs was made, once that has been asked for.
    let mut created = None;
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
            let no_stream =
                || anyhow!("no stream takes {subject}: `forebay serve` makes it when it first starts");
            ack.await.map_err(|error| match error.kind() {
                PublishErrorKind::StreamNotFound => no_stream(),
                _ => error.into(),
            })
        };
        let ack = published.await.map_err(|error| Error::Unreachable(in_line(error)))?;
        let id = match job.own_id() {
            Some(id) => Some(id.to_owned()),
            None => {
                if created.is_none() {
                    created = Some(created_at(&connection).await);
                }
                created.flatten().map(|created| given_id(created, ack.sequence))
            }
        };
        if global.json {
            print::json(
                &json!({ "id": id, "subject": subject, "stream": ack.stream, "sequence": ack.sequence }),
            );
        } else {
            print::line(&format!("{} {} {subject}", ack.sequence, id.as_deref().unwrap_or("-")));
        }
    }
    Ok(0)
}

/// Refuses a pool or a team that the worker does not serve. Without a worker jobs wait for one, which may.
async fn check_flow(connection: &Connection, Flow { pool, team, .. }: &Flow) -> Result<(), Error> {
    let asked = tokio::time::timeout(PATIENCE, ask::<Accounts>(connection, "accounts", Vec::new())).await;
    let Ok(Ok(accounts)) = asked else {
        print::note(&format!(
            "no worker answers, so it is not checked whether pool `{pool}` and team `{team}` are served; jobs wait for a worker"
        ));
        return Ok(());
    };
    if let Some(problem) = accounts.refuses_team(team) {
        return Err(Error::Usage(anyhow!(problem)));
    }
    let known = accounts.served();
    if accounts.makes_pools || known.contains_key(pool) {
        Ok(())
    } else {
        Err(Error::Usage(anyhow!(unknown_pool(pool, &known))))
    }
}

/// When the stream of jobs was made, in seconds since 1970. Not everybody who may publish may ask for that.
async fn created_at(connection: &Connection) -> Option<i64> {
    let stream =
        tokio::time::timeout(PATIENCE, connection.context.get_stream(connection.names.jobs_stream()));
    Some(stream.await.ok()?.ok()?.cached_info().created.unix_timestamp())
}
