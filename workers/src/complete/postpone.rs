//! A job that waits for its time does so outside of this process.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::complete::complete::conflict;
use crate::complete::persist::over;
use crate::complete::release::{ack_all, drop_objects, give_back};
use crate::crash::{self, CrashPoint};
use crate::job::admitted_job::AdmittedJob;
use crate::job::in_flight::DuplicateDeliveries;
use crate::queue::{PostponedJob, PostponedState, Queue};
use crate::until_done::retry_until_done;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Moves a job that waits for itself out of this process. If the process ends between the two steps, the
/// job's delivery comes again and is moved again, which replaces the first move.
pub(crate) async fn postpone<Q: Queue, U: Upstream>(
    engine: &Arc<WorkerState<Q, U>>,
    mut staged: AdmittedJob,
    wait: Duration,
) {
    crash::at(CrashPoint::Postponing);
    let at = engine
        .clock
        .now()
        .checked_add(wait)
        .unwrap_or(Timestamp::MAX);
    let DuplicateDeliveries { same, others } = staged.entry.end();
    let job = PostponedJob {
        flow: staged.flow.clone(),
        identity: staged.identity.clone(),
        // It must be here when its deadline passes.
        at: staged.job.deadline.map_or(at, |deadline| deadline.min(at)),
        state: PostponedState {
            id: staged.identity.id.clone(),
            fingerprint: staged.fingerprint.clone(),
            revision: staged.revision,
            published: staged.delivery.published,
            attempts: staged.attempts.clone(),
            counted: staged.counted,
            replies: std::iter::once(&staged.claim)
                .chain(&same)
                .flat_map(|c| c.replies.clone())
                .collect(),
            format: staged.delivery.format,
        },
        payload: staged.delivery.payload.clone(),
        object: staged.delivery.object.clone(),
        traceparent: staged.delivery.traceparent.clone(),
    };
    let mut job = job;
    let mut postponed =
        retry_until_done("scheduling a job", || engine.queue.postpone(job.clone())).await;
    if postponed && staged.is_cancelled(&engine.orders) {
        // Whoever cancelled it may have looked before it was there.
        job.at = engine.clock.now();
        postponed =
            retry_until_done("scheduling a job", || engine.queue.postpone(job.clone())).await;
    }
    crash::at(CrashPoint::Scheduled);
    give_back(engine, others).await;
    if !postponed {
        give_back(engine, same).await;
        return conflict(engine, staged).await;
    }
    over(engine, &staged);
    let objects = ack_all(engine, same.into_iter().chain([staged.claim])).await;
    crash::at(CrashPoint::Postponed);
    let of_repetitions = objects
        .into_iter()
        .filter(|object| Some(object) != job.object.as_ref());
    drop_objects(engine, of_repetitions).await;
}
