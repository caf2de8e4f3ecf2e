//! Running a batch: what is not answered yet is published, completions are gathered, files written.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use async_nats::HeaderMap;
use forebay_schemas::header::REVISION_HEADER;
use forebay_schemas::{Flow, Lane, Status};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::batch::completions::{BatchCompletions, FoundCompletion};
use crate::batch::input::{Batch, BatchLine};
use crate::batch::output::{BatchOutput, OutputFiles};
use crate::batch::progress::RunProgress;
use crate::batch::totals::{RunOutcome, RunTotals};
use crate::control::messages::{AccountReport, AccountsReport};
use crate::nats::connection::{Connection, Error};

/// Publishes whose acknowledgement is awaited at once.
const WINDOW: usize = 256;
/// Lines that no message can hold and that are on their way at once: each looks first whether there is room for it,
/// and what was put of one that did not fit would stay.
const LARGE_AT_ONCE: usize = 1;
/// The pause before a publish that was refused is tried again.
const PUBLISH_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How often the worker is asked what it is doing.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a completion that should be in the stream is waited for.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long accounts that no call ever reached are tried.
const UNREACHABLE: Duration = Duration::from_secs(10);

/// Runs a batch to its end, or until `stop`.
///
/// # Errors
/// When NATS does not answer, files cannot be written, or no account of a pool can serve it any more.
pub async fn run(
    connection: &Connection,
    batch: Batch,
    lane: Lane,
    retry_failed: bool,
    output: BatchOutput,
    progress: RunProgress,
    stop: &CancellationToken,
) -> Result<RunOutcome, Error> {
    let batch = Arc::new(batch);
    let mut gathering = BatchRun::new(Arc::clone(&batch), retry_failed, output, progress);
    let unreachable = |error: anyhow::Error| Error::Unreachable(error);
    let mut completions = BatchCompletions::open(connection, &batch)
        .await
        .map_err(unreachable)?;
    tokio::select! {
        caught_up = gathering.catch_up(&mut completions) => caught_up.map_err(Error::Usage)?,
        () = stop.cancelled() => return Ok(RunOutcome::Interrupted(gathering.interrupted())),
    }
    let publish_open = |gathering: &BatchRun| {
        publish_all(
            connection.clone(),
            Arc::clone(&batch),
            lane,
            gathering.open(),
        )
    };
    let mut publishing = std::pin::pin!(publish_open(&gathering));
    let mut published = false;
    let mut ask = tokio::time::interval(PROGRESS_INTERVAL);
    while gathering.totals.done() < batch.lines.len() {
        tokio::select! {
            result = &mut publishing, if !published => {
                result.map_err(unreachable)?;
                published = true;
            }
            found = completions.next() => gathering.take(&found).map_err(Error::Usage)?,
            _ = ask.tick() => {
                gathering.look(connection).await?;
                if completions.were_made_again().await {
                    gathering.before = 0;
                    publishing.set(publish_open(&gathering));
                    published = false;
                }
            }
            () = stop.cancelled() => return Ok(RunOutcome::Interrupted(gathering.interrupted())),
        }
    }
    gathering
        .finish()
        .map(RunOutcome::Done)
        .map_err(Error::Usage)
}

/// Publishes lines; those that the server refuses for now are tried again.
async fn publish_all(
    connection: Connection,
    batch: Arc<Batch>,
    lane: Lane,
    lines: Vec<(BatchLine, u32)>,
) -> anyhow::Result<()> {
    let large = Semaphore::new(LARGE_AT_ONCE);
    futures::stream::iter(lines)
        .map(|line| publish(&connection, &batch, lane, line, &large))
        .buffered(WINDOW)
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn publish(
    connection: &Connection,
    batch: &Batch,
    lane: Lane,
    (line, revision): (BatchLine, u32),
    large: &Semaphore,
) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    if revision > 1 {
        headers.insert(REVISION_HEADER, revision.to_string());
    }
    let flow = Flow {
        pool: line.pool.clone(),
        team: batch.team.clone(),
        lane,
    };
    let subject = connection.names.job(&flow);
    let mut told = false;
    loop {
        let published = async {
            let _turn = match connection.is_large(line.size()) {
                true => Some(large.acquire().await?),
                false => None,
            };
            let message = batch.message(&line);
            let message = connection
                .enclose(&batch.identity(&line), message, &mut headers)
                .await?;
            let publish =
                connection
                    .context
                    .publish_with_headers(subject.clone(), headers.clone(), message);
            publish.await?.await?;
            anyhow::Ok(())
        };
        match published.await {
            Ok(()) => return Ok(()),
            Err(error) => {
                if !told {
                    warn!("a job cannot be published yet: {error:#}");
                    told = true;
                }
                tokio::time::sleep(PUBLISH_RETRY_PAUSE).await;
            }
        }
    }
}

/// What has come so far.
struct BatchRun {
    batch: Arc<Batch>,
    places: HashMap<String, usize>,
    answered: HashSet<String>,
    /// Whether lines that an earlier run got another answer than success for are called again.
    retry_failed: bool,
    /// The number of the answer that is asked for, of lines that are called again.
    revisions: HashMap<String, u32>,
    /// The last place in the stream that was there before anything was published now.
    before: u64,
    totals: RunTotals,
    /// Lines that were answered before this run.
    done_before: usize,
    /// Pools that no account of can be reached, and since when.
    unreachable: HashMap<String, Instant>,
    output: BatchOutput,
    progress: RunProgress,
}

impl BatchRun {
    fn new(
        batch: Arc<Batch>,
        retry_failed: bool,
        output: BatchOutput,
        progress: RunProgress,
    ) -> Self {
        let places = batch
            .lines
            .iter()
            .enumerate()
            .map(|(place, line)| (line.id.clone(), place))
            .collect();
        let totals = RunTotals {
            lines: batch.lines.len(),
            ..RunTotals::default()
        };
        Self {
            batch,
            places,
            answered: HashSet::new(),
            retry_failed,
            revisions: HashMap::new(),
            before: 0,
            totals,
            done_before: 0,
            unreachable: HashMap::new(),
            output,
            progress,
        }
    }

    /// Reads what is in the stream already.
    async fn catch_up(&mut self, completions: &mut BatchCompletions) -> anyhow::Result<()> {
        let mut behind = completions.stored;
        while behind > 0 {
            // What is pushed out of the stream meanwhile never comes.
            let Ok(found) = tokio::time::timeout(COMPLETION_TIMEOUT, completions.next()).await
            else {
                break;
            };
            self.before = found.sequence;
            self.take(&found)?;
            behind = found.pending;
        }
        self.done_before = self.totals.done();
        Ok(())
    }

    /// Lines without an answer, and the number of the answer that each is to have.
    fn open(&self) -> Vec<(BatchLine, u32)> {
        let open = self
            .batch
            .lines
            .iter()
            .filter(|line| !self.answered.contains(&line.id));
        open.map(|line| {
            (
                line.clone(),
                self.revisions.get(&line.id).copied().unwrap_or(1),
            )
        })
        .collect()
    }

    fn take(&mut self, found: &FoundCompletion) -> anyhow::Result<()> {
        let FoundCompletion {
            completion,
            fingerprint,
            sequence,
            ..
        } = found;
        let Some(place) = self.places.get(&completion.id) else {
            // A batch that was named by hand may hold other files' lines.
            return Ok(());
        };
        // A line that an earlier run got no final answer for is published again; so is one that failed, if that
        // is asked for.
        let failed = self.retry_failed && completion.status != Status::Succeeded;
        let passed_over = *sequence <= self.before && (!completion.is_final() || failed);
        if passed_over && failed {
            self.revisions
                .insert(completion.id.clone(), completion.revision.saturating_add(1));
        }
        if passed_over || !self.answered.insert(completion.id.clone()) {
            return Ok(());
        }
        let asked = self.batch.fingerprint(&self.batch.lines[*place]);
        if fingerprint
            .as_ref()
            .is_some_and(|answered| asked.is_some_and(|asked| asked != *answered))
        {
            anyhow::bail!(
                "line `{}`: batch {} holds the answer to another request under this custom_id; name another --batch",
                completion.id,
                self.batch.name
            );
        }
        match completion.status {
            Status::Succeeded => self.totals.succeeded += 1,
            _ => self.totals.failed += 1,
        }
        self.totals.failures.add(completion);
        self.totals.bill.add(completion);
        self.output.take(*place, completion)?;
        self.progress.show(&self.totals);
        Ok(())
    }

    /// Asks the worker what it is doing, for the progress and to learn whether it can go on at all.
    async fn look(&mut self, connection: &Connection) -> Result<(), Error> {
        let asked = connection
            .client
            .request(connection.names.ctl("accounts"), "".into());
        let answer = tokio::time::timeout(PROGRESS_INTERVAL, asked)
            .await
            .ok()
            .and_then(Result::ok);
        let Some(Ok(told)) =
            answer.map(|reply| serde_json::from_slice::<AccountsReport>(&reply.payload))
        else {
            self.progress.note("no worker answers".to_owned());
            self.progress.show(&self.totals);
            return Ok(());
        };
        let pools = self.batch.pools();
        let used: Vec<_> = told
            .pools
            .iter()
            .filter(|(name, _)| pools.contains_key(name.as_str()))
            .collect();
        for (pool, names) in &used {
            let accounts: Vec<_> = told
                .accounts
                .iter()
                .filter(|account| names.contains(&account.name))
                .collect();
            if !accounts.is_empty() && accounts.iter().all(|account| account.is_shut()) {
                let reasons: Vec<_> = accounts
                    .iter()
                    .flat_map(|account| account.reasons())
                    .collect();
                return Err(Error::Unreachable(anyhow!(
                    "no account serves pool `{pool}` any more ({}); mend that and run the same command again to go on",
                    reasons.join(", ")
                )));
            }
            self.give_up_unreachable(pool, &accounts)?;
        }
        let accounts = told
            .accounts
            .iter()
            .filter(|account| used.iter().any(|(_, names)| names.contains(&account.name)));
        self.progress.look(accounts.cloned().collect());
        self.progress.show(&self.totals);
        Ok(())
    }

    /// An outage in the middle of a batch is waited out; but where no call ever got through, a wrong
    /// address is likelier.
    fn give_up_unreachable(
        &mut self,
        pool: &str,
        accounts: &[&AccountReport],
    ) -> Result<(), Error> {
        let unreachable =
            !accounts.is_empty() && accounts.iter().all(|account| account.is_unreachable());
        if !unreachable || self.totals.done() > self.done_before {
            self.unreachable.remove(pool);
            return Ok(());
        }
        let since = *self
            .unreachable
            .entry(pool.to_owned())
            .or_insert_with(Instant::now);
        if since.elapsed() < UNREACHABLE {
            return Ok(());
        }
        let reasons: Vec<_> = accounts
            .iter()
            .flat_map(|account| account.reasons())
            .collect();
        Err(Error::Unreachable(anyhow!(
            "no account of pool `{pool}` can be reached ({}); mend that and run the same command again to go on",
            reasons.join(", ")
        )))
    }

    fn finish(self) -> anyhow::Result<RunTotals> {
        self.progress.end(&self.totals);
        self.output.finish()?;
        Ok(self.totals)
    }

    fn interrupted(self) -> RunTotals {
        self.progress.end(&self.totals);
        self.totals
    }
}

/// Reads and checks everything about the input and the output that can be checked without NATS.
///
/// # Errors
/// When lines cannot be sent or files cannot be written.
pub fn prepare(
    input: &Path,
    choices: &crate::batch::input::BatchChoices,
    files: OutputFiles,
    force: bool,
) -> anyhow::Result<(Batch, BatchOutput)> {
    let batch = Batch::read(input, choices)?;
    let output = BatchOutput::open(input, files, &batch, force)?;
    Ok((batch, output))
}
