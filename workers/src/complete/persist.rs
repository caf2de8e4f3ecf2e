//! Stored on disk before anything else, and forgotten by the journal after that.

use std::sync::Arc;

use forebay_schemas::{Completion, Status};
use tracing::warn;

use crate::job::admitted_job::AdmittedJob;
use crate::queue::Queue;
use crate::store::results::ResultRecord;
use crate::until_done::retry_until_done;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// What is known of the job is kept, so the journal needs it no more.
pub(crate) fn forget<Q, U>(state: &WorkerState<Q, U>, admitted: &AdmittedJob) {
    state.journal.attempts.over(&admitted.identity);
    state.journal.suspects.forget(&admitted.delivery.unique_id);
}

/// Stores a record, however long that takes; no calls are made meanwhile.
pub(crate) async fn persist<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: &AdmittedJob,
    record: &ResultRecord,
) {
    let store = || {
        state
            .results
            .store(&admitted.identity, record, state.clock.now())
    };
    let Err(error) = store().await else { return };
    warn!(%error, "a result cannot be stored; no call is made until that is mended");
    let _no_calls = state.backpressure.cannot_store();
    retry_until_done("storing a result", store).await;
}

/// Keeps an answer for others that ask the same, if its job asks for that. They are called by themselves where that
/// fails.
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
        .keep(&admitted.request(), completion, state.clock.now())
        .await
    {
        warn!(%error, "an answer cannot be kept for others that ask the same");
    }
}
