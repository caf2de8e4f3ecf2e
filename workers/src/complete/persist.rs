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
pub(crate) fn over<Q, U>(engine: &WorkerState<Q, U>, admitted: &AdmittedJob) {
    engine.journal.attempts.over(&admitted.identity);
    engine.journal.suspects.forget(&admitted.delivery.unique_id);
}

/// Stores a record, however long that takes; no calls are made meanwhile.
pub(crate) async fn persist<Q: Queue, U: Upstream>(
    engine: &Arc<WorkerState<Q, U>>,
    admitted: &AdmittedJob,
    record: &ResultRecord,
) {
    let store = || {
        engine
            .results
            .store(&admitted.identity, record, engine.clock.now())
    };
    let Err(error) = store().await else { return };
    warn!(%error, "a result cannot be stored; no call is made until that is mended");
    let _no_calls = engine.brake.cannot_store();
    retry_until_done("storing a result", store).await;
}

/// Keeps an answer for others that ask the same, if its job asks for that. They are called by themselves where that
/// fails.
pub(crate) async fn keep<Q: Queue, U: Upstream>(
    engine: &Arc<WorkerState<Q, U>>,
    admitted: &AdmittedJob,
    completion: &Completion,
) {
    let asks = admitted
        .share
        .as_ref()
        .is_some_and(|share| !share.within.is_zero());
    if !asks || completion.status != Status::Succeeded || completion.cached_from.is_some() {
        return;
    }
    if let Err(error) = engine
        .results
        .keep(&admitted.request(), completion, engine.clock.now())
        .await
    {
        warn!(%error, "an answer cannot be kept for others that ask the same");
    }
}
