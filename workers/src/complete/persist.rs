//! Stores a result, caches its answer, and lets the journal forget the job.

use std::sync::Arc;

use forebay_schemas::{Completion, OnAmbiguous, Status};
use tracing::warn;

use crate::job::admitted_job::AdmittedJob;
use crate::queue::Queue;
use crate::store::results::ResultRecord;
use crate::until_done::retry_until_done;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Lets the journal forget a job: its result is stored.
pub(crate) fn forget<Q, U>(state: &WorkerState<Q, U>, admitted: &AdmittedJob) {
    state.journal.attempts.over(&admitted.identity);
    state.journal.poison_pills.forget(admitted.message_id());
}

/// Deletes the record of a job's calls that other workers read: its completion is published.
pub(crate) async fn forget_attempts<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    admitted: &AdmittedJob,
) {
    if admitted.job.on_ambiguous == OnAmbiguous::Fail {
        let forget = || state.queue.forget_attempts(&admitted.identity);
        retry_until_done("deleting the record of a job's calls", forget).await;
    }
}

/// Stores a result, however long that takes. While it cannot be stored, no calls are made.
pub(crate) async fn persist<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: &AdmittedJob,
    record: &ResultRecord,
) {
    let store = || state.results.store(&admitted.identity, record, state.now());
    let Err(error) = store().await else { return };
    let _no_calls = state.backpressure.cannot_store(&error);
    retry_until_done("storing a result", store).await;
}

/// Caches an answer for later jobs with the same request, if the job allows it. If that fails, those jobs are called.
pub(crate) async fn cache_answer<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: &AdmittedJob,
    completion: &Completion,
) {
    let asks = admitted
        .coalesce
        .as_ref()
        .is_some_and(|share| !share.max_age.is_zero());
    if !asks || completion.status != Status::Succeeded || completion.cached_from.is_some() {
        return;
    }
    if let Err(error) = state
        .results
        .keep(&admitted.request(), completion, state.now())
        .await
    {
        warn!(%error, "an answer cannot be cached");
    }
}
