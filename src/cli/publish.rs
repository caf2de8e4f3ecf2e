//! The command `forebay publish`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::publish::PublishAck;
use forebay_schemas::flow::DEFAULT_TEAM;
use forebay_schemas::{Flow, Identity, Job, Lane};
use forebay_workers::queue::jetstream::given_id;
use serde_json::json;

use super::client::{ask, connect};
use super::{GlobalOptions, lane, print};
use crate::batch::input::{check_url, unknown_pool};
use crate::batch::input_text::without_bom;
use crate::config::Config;
use crate::control::messages::AccountsReport;
use crate::nats::connection::{Connection, Error};

/// The time to wait for a reply of a worker.
const WORKER_TIMEOUT: Duration = Duration::from_secs(2);

/// Publish jobs, one JSON object per line, and print the acknowledgements of NATS. Answers arrive
/// as completions: see `forebay results tail`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  echo '{\"id\":\"hello-1\",\"body\":{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}}' \\\n    | forebay publish --pool gpt-4o-mini"
)]
pub(super) struct Args {
    /// The file of jobs. Without it, standard input.
    #[arg(value_name = "JOBS.jsonl")]
    file: Option<PathBuf>,
    /// The pool.
    #[arg(long, value_name = "POOL")]
    pool: String,
    /// The team of the jobs.
    #[arg(long, default_value = DEFAULT_TEAM)]
    team: String,
    /// The lane: interactive, normal or bulk.
    #[arg(long, default_value = "normal", value_parser = lane)]
    lane: Lane,
}

pub(super) async fn publish(global: &GlobalOptions, args: Args) -> Result<u8, Error> {
    let flow = Flow {
        pool: args.pool,
        team: args.team,
        lane: args.lane,
    };
    if let Some(problem) = flow.problem() {
        return Err(Error::Usage(anyhow!(problem)));
    }
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    check_flow(&connection, &flow).await?;
    let subject = connection.names.job(&flow);
    let max_request = config.call.max_request;
    let mut publisher = JobPublisher {
        connection,
        flow,
        subject,
        max_request,
        created: None,
    };
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
        let line = if number == 1 {
            without_bom(&line).to_vec()
        } else {
            line
        };
        let in_line = |error: anyhow::Error| {
            error.context(format!("line {number}; the lines before it are published"))
        };
        let job = publisher
            .read(&line)
            .map_err(|error| Error::Usage(in_line(error)))?;
        let ack = publisher.publish(&job, line).await;
        let ack = ack.map_err(|error| Error::Unreachable(in_line(error)))?;
        let id = publisher.id(&job, ack.sequence).await;
        print_ack(global, id.as_deref(), &publisher.subject, &ack);
    }
    Ok(0)
}

fn print_ack(global: &GlobalOptions, id: Option<&str>, subject: &str, ack: &PublishAck) {
    if global.json {
        let (stream, sequence) = (&ack.stream, ack.sequence);
        print::json(
            &json!({ "id": id, "subject": subject, "stream": stream, "sequence": sequence }),
        );
    } else {
        print::line(&format!("{} {} {subject}", ack.sequence, id.unwrap_or("-")));
    }
}

/// Publishes jobs to one subject.
struct JobPublisher {
    connection: Connection,
    flow: Flow,
    subject: String,
    /// Maximum size of a job in bytes.
    max_request: usize,
    /// Creation time of the stream of jobs in seconds since 1970. The outer `None` means not
    /// requested yet, the inner one unavailable.
    created: Option<Option<i64>>,
}

impl JobPublisher {
    fn read(&self, line: &[u8]) -> anyhow::Result<Job> {
        let (size, max) = (line.len(), self.max_request);
        if size > max {
            bail!("{size} bytes are more than max_request of {max} in [call]");
        }
        let job = Job::parse(line)?;
        check_url(&job).map_err(|problem| anyhow!(problem))?;
        Ok(job)
    }

    async fn publish(&self, job: &Job, line: Vec<u8>) -> anyhow::Result<PublishAck> {
        let identity = Identity {
            team: self.flow.team.clone(),
            batch: job.batch.clone(),
            // A job without an id gets its id from its place in the stream.
            id: job
                .own_id()
                .map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned),
        };
        let mut headers = HeaderMap::new();
        let message = self
            .connection
            .enclose(&identity, line.into(), &mut headers)
            .await?;
        let published = self
            .connection
            .publish_job(&self.subject, &headers, message);
        published.await.map_err(|error| self.publish_error(error))
    }

    fn publish_error(&self, error: PublishError) -> anyhow::Error {
        if error.kind() != PublishErrorKind::StreamNotFound {
            return error.into();
        }
        let subject = &self.subject;
        anyhow!("no stream takes {subject}: `forebay serve` makes it when it first starts")
    }

    /// Returns the job's own id, or the one that the worker derives from its place in the stream.
    async fn id(&mut self, job: &Job, sequence: u64) -> Option<String> {
        if let Some(id) = job.own_id() {
            return Some(id.to_owned());
        }
        if self.created.is_none() {
            self.created = Some(created_at(&self.connection).await);
        }
        self.created
            .flatten()
            .map(|created| given_id(created, sequence))
    }
}

/// Refuses a pool or a team that the worker does not serve. Without a worker nothing is refused:
/// the jobs wait for a worker that may serve them.
async fn check_flow(connection: &Connection, Flow { pool, team, .. }: &Flow) -> Result<(), Error> {
    let reply = tokio::time::timeout(
        WORKER_TIMEOUT,
        ask::<AccountsReport>(connection, "accounts", Vec::new()),
    )
    .await;
    let Ok(Ok(accounts)) = reply else {
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

/// Returns the creation time of the stream of jobs in seconds since 1970. Returns `None` if the
/// user has no permission to request it.
async fn created_at(connection: &Connection) -> Option<i64> {
    let stream = tokio::time::timeout(
        WORKER_TIMEOUT,
        connection
            .context
            .get_stream(connection.names.jobs_stream()),
    );
    let stream = stream.await.ok()?.ok()?;
    Some(stream.cached_info().created.unix_timestamp())
}
