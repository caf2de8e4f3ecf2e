//! The dead letter of a failed job: what an operator needs to look at it and to publish it again.

use std::sync::Arc;

use forebay_schemas::Completion;

use crate::job::admitted_job::AdmittedJob;
use crate::queue::{DeadLetter, DeadLetterMeta, Queue};
use crate::until_done::retry_until_done;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Publishes the dead letter of a failed job, however long that takes.
pub(crate) async fn publish_dead_letter<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: &AdmittedJob,
    completion: &Completion,
) {
    let (code, message) = completion
        .error
        .as_ref()
        .map_or_else(Default::default, |error| {
            (error.code.clone(), error.message.clone())
        });
    let letter = DeadLetterMeta {
        pool: admitted.flow.pool.clone(),
        team: admitted.flow.team.clone(),
        batch: completion.batch.clone(),
        id: completion.id.clone(),
        revision: completion.revision,
        code,
        message,
        attempts: completion.attempts.clone(),
        format: admitted.delivery.format,
    };
    let dead = DeadLetter {
        letter,
        delivery: admitted.delivery.clone(),
    };
    retry_until_done("keeping a dead letter", || {
        state.queue.publish_dead_letter(dead.clone())
    })
    .await;
}
