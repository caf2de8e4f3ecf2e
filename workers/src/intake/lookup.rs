//! What is known of an identity: the result that it has, and the calls that were made for it.

use forebay_schemas::{Attempt, Completion, OnAmbiguous};
use tracing::warn;

use crate::job::admitted_job::AdmittedJob;
use crate::outcome::end::JobResult;
use crate::outcome::outcome::CallOutcome;
use crate::queue::Queue;
use crate::store::results::ResultRecord;
use crate::until_done::retry_until_done;
use crate::worker_state::WorkerState;

/// What the store says of an identity whose record it cannot read.
struct DamagedRecord;

/// The record of an answer that this identity has: from the store, and for what may have been worked on
/// elsewhere, or where the store lacks some, also from the stream of completions.
pub(crate) async fn answered<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    admitted: &AdmittedJob,
) -> Option<ResultRecord> {
    let now = state.clock.now();
    // What cannot be looked up for now may be there; what is damaged is not.
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
    // One that does not say which request it was is taken to be that of this delivery.
    let fingerprint = published
        .fingerprint
        .unwrap_or_else(|| admitted.fingerprint.clone());
    Some(ResultRecord {
        fingerprint,
        message: published.message,
        completion,
    })
}

/// Adds the calls that were made for the job before it was delivered now. Returns its end, if it must not be called
/// again because nobody knows what became of the last of them.
pub(crate) fn recall<Q, U>(
    state: &WorkerState<Q, U>,
    admitted: &mut AdmittedJob,
) -> Option<JobResult> {
    let past = state.journal.attempts.recall(
        &admitted.identity,
        &admitted.fingerprint,
        admitted.revision,
    )?;
    for attempt in past.attempts {
        let same = |known: &Attempt| {
            (known.started_at, &known.account) == (attempt.started_at, &attempt.account)
        };
        if !admitted.attempts.iter().any(same) {
            admitted.add_attempt(attempt);
        }
    }
    admitted.counted = admitted.counted.max(past.counted);
    admitted.interrupted = past.unknown;
    // An end of this process is no failure of the provider's: it uses up no attempt.
    let gives_up = past.unknown && admitted.job.on_ambiguous == OnAmbiguous::Fail;
    gives_up.then(|| JobResult::of(CallOutcome::of_interrupted()))
}
