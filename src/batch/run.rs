//! A run of a batch: lines without an answer are published, completions are gathered and files are
//! written.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_schemas::{Lane, Status};
use tokio_util::sync::CancellationToken;

use crate::batch::completions::{self, BatchCompletions, COMPLETION_TIMEOUT, FoundCompletion};
use crate::batch::input::{Batch, BatchLine};
use crate::batch::kept_answers::KeptAnswers;
use crate::batch::output::{BatchOutput, OutputFiles};
use crate::batch::ownership::OwnLines;
use crate::batch::paid_again;
use crate::batch::pool_watch::PoolWatch;
use crate::batch::progress::RunProgress;
use crate::batch::publishing::publish_all;
use crate::batch::totals::{RunOutcome, RunTotals};
use crate::batch::trial::{Trial, TrialError};
use crate::control::messages::AccountsReport;
use crate::nats::connection::{Connection, Error};

/// The interval of requests for the state of the worker.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The choices of a person for a run.
#[derive(Debug, Clone, Copy)]
pub struct RunChoices {
    /// The lane of the jobs.
    pub lane: Lane,
    /// True if lines that did not succeed in an earlier run are called again.
    pub retry_failed: bool,
    /// True if all lines are sent although the first ones fail alike.
    pub keep_going: bool,
    /// True if all lines are called although other batches have answers to the same requests.
    pub fresh: bool,
    /// True if lines may be called again whose answers are no longer kept.
    pub pay_again: bool,
}

/// Runs a batch to its end, or until `stop`. It stops too if its first lines all fail with the same error.
///
/// # Errors
/// Returns an error when NATS does not answer, or when files cannot be written. Returns an error
/// when no account of a pool can serve it any more.
pub async fn run(
    connection: &Connection,
    mut batch: Batch,
    choices: RunChoices,
    output: BatchOutput,
    progress: RunProgress,
    stop: &CancellationToken,
) -> Result<RunOutcome, Error> {
    let unreachable = |error: anyhow::Error| Error::Unreachable(error);
    let kept = if choices.fresh {
        let name = fresh_name(connection, &batch).await;
        batch.name = name.map_err(unreachable)?;
        KeptAnswers::default()
    } else {
        let kept = KeptAnswers::find(connection, &batch).await;
        kept.map_err(unreachable)?
    };
    let own_lines = OwnLines::new(&batch, &kept);
    let written = output.claim(&own_lines).map_err(Error::Usage)?;
    let batch = Arc::new(batch);
    let mut state = BatchRun::new(Arc::clone(&batch), choices, output, progress);
    let mut completions = BatchCompletions::open(connection, &batch)
        .await
        .map_err(unreachable)?;
    tokio::select! {
        caught_up = state.catch_up(&mut completions) => caught_up.map_err(Error::Usage)?,
        () = stop.cancelled() => return Ok(RunOutcome::Interrupted(state.interrupted())),
    }
    state.take_kept(kept).map_err(Error::Usage)?;
    let lost = state.recall(connection, &written).await;
    let lost = lost.map_err(Error::Usage)?;
    if lost > 0 && !choices.pay_again {
        let asked = paid_again::confirm(lost, &state.output.name()).await;
        asked.map_err(Error::Usage)?;
    }
    state.done_before = state.totals.done();
    let publish_unanswered = |state: &BatchRun| {
        publish_all(
            connection.clone(),
            Arc::clone(&batch),
            choices.lane,
            state.unanswered(),
            state.trial.over(),
        )
    };
    let mut publishing = std::pin::pin!(publish_unanswered(&state));
    let mut published = false;
    let mut polls = tokio::time::interval(PROGRESS_INTERVAL);
    while !state.is_done() {
        tokio::select! {
            result = &mut publishing, if !published => {
                result.map_err(unreachable)?;
                published = true;
            }
            found = completions.next() => {
                state.take(&found).map_err(Error::Usage)?;
                if let Some(error) = state.trial_failure() {
                    return Ok(RunOutcome::Stopped(state.interrupted(), error));
                }
            }
            _ = polls.tick() => {
                state.output.check_place().map_err(Error::Usage)?;
                state.poll_worker(connection).await?;
                if completions.were_recreated().await {
                    state.last_before = 0;
                    publishing.set(publish_unanswered(&state));
                    published = false;
                }
            }
            () = stop.cancelled() => return Ok(RunOutcome::Interrupted(state.interrupted())),
        }
    }
    state.finish().map(RunOutcome::Done).map_err(Error::Usage)
}

/// Returns the first of the names NAME, NAME-2, NAME-3 … whose batch is not answered to its end. A name that a person gave
/// stays.
async fn fresh_name(connection: &Connection, batch: &Batch) -> anyhow::Result<String> {
    if !batch.is_derived {
        return Ok(batch.name.clone());
    }
    let names = (1..).map(|number| match number {
        1 => batch.name.clone(),
        _ => format!("{}-{number}", batch.name),
    });
    for name in names {
        let answered = completions::stored(connection, &batch.team, &name).await?;
        if answered < batch.lines.len() as u64 {
            return Ok(name);
        }
    }
    anyhow::bail!("there is no free name for the batch")
}

/// The state of a run.
struct BatchRun {
    batch: Arc<Batch>,
    indices: HashMap<String, usize>,
    answered: HashSet<String>,
    /// True if lines that did not succeed in an earlier run are called again.
    retry_failed: bool,
    trial: Trial,
    /// The next revision of lines that are called again, by id.
    revisions: HashMap<String, u32>,
    /// The last sequence number in the stream before this run published anything.
    last_before: u64,
    totals: RunTotals,
    /// Number of lines that were answered before this run.
    done_before: usize,
    pool_watch: PoolWatch,
    output: BatchOutput,
    progress: RunProgress,
}

impl BatchRun {
    fn new(
        batch: Arc<Batch>,
        choices: RunChoices,
        output: BatchOutput,
        progress: RunProgress,
    ) -> Self {
        let indices = batch
            .lines
            .iter()
            .enumerate()
            .map(|(index, line)| (line.id.clone(), index))
            .collect();
        let totals = RunTotals {
            batch: batch.name.clone(),
            lines: batch.lines.len(),
            ..RunTotals::default()
        };
        Self {
            batch,
            indices,
            answered: HashSet::new(),
            retry_failed: choices.retry_failed,
            trial: Trial::new(choices.keep_going),
            revisions: HashMap::new(),
            last_before: 0,
            totals,
            done_before: 0,
            pool_watch: PoolWatch::default(),
            output,
            progress,
        }
    }

    /// Reads the completions that are already in the stream.
    async fn catch_up(&mut self, completions: &mut BatchCompletions) -> anyhow::Result<()> {
        let mut pending = completions.stored;
        while pending > 0 {
            // A completion that is deleted meanwhile for lack of room never arrives.
            let Ok(found) = tokio::time::timeout(COMPLETION_TIMEOUT, completions.next()).await
            else {
                break;
            };
            // A completion that a foreign message hid is older than the one before it.
            self.last_before = self.last_before.max(found.sequence);
            self.take(&found)?;
            pending = found.pending;
        }
        Ok(())
    }

    /// Takes the answers of other batches, after saying so.
    fn take_kept(&mut self, kept: KeptAnswers) -> anyhow::Result<()> {
        if kept.answers.is_empty() {
            return Ok(());
        }
        let (answers, lines) = (kept.answers.len(), self.totals.lines);
        let batches: Vec<_> = kept.batches.into_keys().collect();
        for found in &kept.answers {
            self.last_before = self.last_before.max(found.sequence);
            self.take(found)?;
        }
        self.progress.say(&format!(
            "{answers} of {lines} lines are answered already, in batch {}: these answers are used, and {} lines are called \
             (--fresh calls all)",
            batches.join(", "),
            lines - self.totals.done()
        ));
        Ok(())
    }

    /// Takes the answers that the worker's store has to lines that an earlier run had written. Returns the number of these
    /// lines that have no answer any more.
    async fn recall(
        &mut self,
        connection: &Connection,
        written: &HashSet<usize>,
    ) -> anyhow::Result<usize> {
        let batch = Arc::clone(&self.batch);
        if !batch.is_derived {
            return Ok(self.without_answer(written));
        }
        let lines = written.iter().map(|index| &batch.lines[*index]);
        let lost: Vec<_> = lines
            .filter(|line| !self.answered.contains(&line.id))
            .collect();
        for found in paid_again::stored_answers(connection, &batch, &lost).await {
            self.take(&found)?;
        }
        Ok(self.without_answer(written))
    }

    /// Returns the number of these lines that have no answer yet.
    fn without_answer(&self, indices: &HashSet<usize>) -> usize {
        let is_lost = |index: &&usize| {
            let line = &self.batch.lines[**index];
            !self.answered.contains(&line.id)
        };
        indices.iter().filter(is_lost).count()
    }

    /// Returns the error with which all lines of the trial failed, if others are left.
    fn trial_failure(&self) -> Option<TrialError> {
        self.trial.failure().filter(|_| !self.is_done()).cloned()
    }

    /// Returns the lines without an answer, each with the revision of its next answer.
    fn unanswered(&self) -> Vec<(BatchLine, u32)> {
        let is_unanswered = |line: &&BatchLine| !self.answered.contains(&line.id);
        let with_revision = |line: &BatchLine| {
            let revision = self.revisions.get(&line.id);
            (line.clone(), revision.copied().unwrap_or(1))
        };
        let lines = self.batch.lines.iter();
        let unanswered = lines.filter(is_unanswered);
        unanswered.map(with_revision).collect()
    }

    fn is_done(&self) -> bool {
        let totals = &self.totals;
        totals.done() >= totals.lines
    }

    fn take(&mut self, found: &FoundCompletion) -> anyhow::Result<()> {
        let FoundCompletion {
            completion,
            fingerprint,
            sequence,
            is_rejection,
            ..
        } = found;
        let id = &completion.id;
        let Some(index) = self.indices.get(id) else {
            // A batch with a name from the command line may hold lines of other files.
            return Ok(());
        };
        // A line without a final answer from an earlier run is published again. With
        // `retry_failed`, so is a failed line.
        let failed = self.retry_failed && completion.status != Status::Succeeded;
        let is_ignored =
            *sequence <= self.last_before && (*is_rejection || !completion.is_final() || failed);
        if is_ignored && failed && !is_rejection {
            let next_revision = completion.revision.saturating_add(1);
            self.revisions.insert(id.clone(), next_revision);
        }
        if is_ignored || !self.answered.insert(id.clone()) {
            return Ok(());
        }
        let batch = &self.batch;
        let expected = batch.fingerprint(&batch.lines[*index]);
        if let (Some(answered), Some(expected)) = (fingerprint, &expected)
            && answered != expected
        {
            anyhow::bail!(
                "line `{}`: batch {} holds the answer to another request under this custom_id; name another --batch",
                id,
                batch.name
            );
        }
        match completion.status {
            Status::Succeeded => self.totals.succeeded += 1,
            _ => self.totals.failed += 1,
        }
        if *sequence > self.last_before {
            self.trial.take(completion);
        }
        self.totals.failures.add(completion);
        self.totals.cost.add(completion);
        self.output.take(*index, completion)?;
        self.progress.show(&self.totals);
        Ok(())
    }

    /// Requests the state of the worker's accounts, for the progress and to learn if the run can
    /// continue.
    async fn poll_worker(&mut self, connection: &Connection) -> Result<(), Error> {
        let request = connection.request_control("accounts", Bytes::new());
        let report = match tokio::time::timeout(PROGRESS_INTERVAL, request).await {
            Ok(Ok(reply)) => serde_json::from_slice::<AccountsReport>(&reply.payload).ok(),
            _ => None,
        };
        let Some(report) = report else {
            self.progress.note("no worker answers".to_owned());
            self.progress.show(&self.totals);
            return Ok(());
        };
        let pools = self.batch.pools();
        let has_progress = self.totals.done() > self.done_before;
        let accounts = self.pool_watch.check(&report, &pools, has_progress)?;
        self.progress.sample(accounts);
        self.progress.show(&self.totals);
        Ok(())
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

/// Reads and checks the input and the output, as far as that is possible without NATS.
///
/// # Errors
/// Returns an error when lines cannot be sent or files cannot be written.
pub fn prepare(
    (input, text): (&Path, Bytes),
    choices: &crate::batch::input::BatchChoices,
    files: OutputFiles,
    force: bool,
) -> anyhow::Result<(Batch, BatchOutput)> {
    let batch = Batch::parse(input, text, choices)?;
    let output = BatchOutput::open(input, &files, force)?;
    Ok((batch, output))
}
