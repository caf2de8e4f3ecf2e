//! Looks up what is known of an identity: its result, and the calls that were made for it.

use forebay_schemas::{Attempt, Completion, OnAmbiguous};
use tracing::warn;

use crate::attempt_record::is_same_call;
use crate::job::admitted_job::AdmittedJob;
use crate::outcome::end::JobResult;
use crate::outcome::outcome::CallOutcome;
use crate::queue::Queue;
use crate::store::results::ResultRecord;
use crate::until_done::retry_until_done;
use crate::worker_state::WorkerState;

/// The store cannot read the identity's record.
struct DamagedRecord;

/// Returns the record of the identity's result: from the store or, for a delivery that came before or if the store is
/// incomplete, from the stream of completions.
pub(crate) async fn answered<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    admitted: &AdmittedJob,
) -> Option<ResultRecord> {
    let now = state.now();
    // A look-up that fails for now is repeated. A damaged record counts as missing.
    let stored = retry_until_done("looking up a result", async || {
        match state.results.answered(&admitted.identity, now) {
            Err(error) if !error.is_passing() => {
                warn!(%error, "a result cannot be looked up");
                Ok(Err(DamagedRecord))
            }
            looked_up => looked_up.map(Ok),
        }
    });
    match stored.await {
        Ok(Some(record)) => return Some(record),
        Ok(None) if state.results_are_complete && !admitted.delivery.redelivered => return None,
        Ok(None) | Err(DamagedRecord) => {}
    }
    let published = retry_until_done("looking up a completion", || {
        state.queue.completion(&admitted.identity)
    })
    .await?;
    let counts = |completion: &Completion| {
        published.published >= state.results.horizon(now)
            && completion.identity() == admitted.identity
    };
    let completion = published.completion.filter(counts)?;
    // Without a fingerprint, it is taken for an answer to this delivery's request.
    let fingerprint = published
        .fingerprint
        .unwrap_or_else(|| admitted.fingerprint.clone());
    Some(ResultRecord {
        fingerprint,
        message: published.message,
        completion,
    })
}

/// Adds the attempts that the journal has of the job. Returns its result, if it must not be called again because the outcome
/// of the last one is unknown. The calls of such a job by a worker with another data directory count too.
pub(crate) async fn recall<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    admitted: &mut AdmittedJob,
) -> Option<JobResult> {
    if admitted.job.on_ambiguous == OnAmbiguous::Fail {
        let recorded = retry_until_done("looking up a job's calls", || {
            state.queue.recorded_attempts(&admitted.identity)
        });
        if let Some(record) = recorded.await {
            state.journal.attempts.adopt(&admitted.identity, record);
        }
    }
    let prior = state.journal.attempts.recall(
        &admitted.identity,
        &admitted.fingerprint,
        admitted.revision,
    )?;
    for attempt in prior.attempts {
        let same = |known: &Attempt| is_same_call(known, &attempt);
        if !admitted.attempts.iter().any(same) {
            admitted.add_attempt(attempt);
        }
    }
    admitted.counted = admitted.counted.max(prior.counted);
    admitted.interrupted = prior.unknown;
    // The end of a process is no failure of the provider, so it does not count.
    let gives_up = prior.unknown && admitted.job.on_ambiguous == OnAmbiguous::Fail;
    gives_up.then(|| JobResult::of(CallOutcome::of_interrupted()))
}
