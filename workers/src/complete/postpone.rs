//! A job that must wait for longer does so in the queue, not in this process.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::complete::complete::conflict;
use crate::complete::persist::forget;
use crate::complete::release::{ack_all, drop_objects, give_back};
use crate::crash::{self, CrashPoint};
use crate::job::admitted_job::AdmittedJob;
use crate::job::in_flight::DuplicateDeliveries;
use crate::queue::{PostponedJob, PostponedState, Queue};
use crate::until_done::retry_until_done;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Publishes a job's schedule, then acks its delivery. If the process ends between the two, the delivery comes again and
/// its second schedule replaces the first.
pub(crate) async fn postpone<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    mut admitted: AdmittedJob,
    wait: Duration,
) {
    crash::at(CrashPoint::Postponing);
    let at = state.now().checked_add(wait).unwrap_or(Timestamp::MAX);
    let DuplicateDeliveries { same, others } = admitted.registration.end();
    let job = PostponedJob {
        flow: admitted.flow.clone(),
        identity: admitted.identity.clone(),
        // A job whose deadline passes must be here to be ended.
        at: admitted
            .job
            .deadline
            .map_or(at, |deadline| deadline.min(at)),
        state: PostponedState {
            id: admitted.identity.id.clone(),
            fingerprint: admitted.fingerprint.clone(),
            revision: admitted.revision,
            published: admitted.delivery.published,
            attempts: admitted.attempts.clone(),
            counted: admitted.counted,
            replies: std::iter::once(&admitted.held)
                .chain(&same)
                .flat_map(|c| c.replies.clone())
                .collect(),
            format: admitted.delivery.format,
        },
        payload: admitted.delivery.payload.clone(),
        object: admitted.delivery.object.clone(),
        traceparent: admitted.delivery.traceparent.clone(),
    };
    let mut job = job;
    let mut postponed =
        retry_until_done("scheduling a job", || state.queue.postpone(job.clone())).await;
    if postponed && admitted.is_cancelled(&state.controls) {
        // The cancellation may have searched the scheduled jobs before this one was there.
        job.at = state.now();
        postponed =
            retry_until_done("scheduling a job", || state.queue.postpone(job.clone())).await;
    }
    crash::at(CrashPoint::Scheduled);
    give_back(state, others).await;
    if !postponed {
        give_back(state, same).await;
        return conflict(state, admitted).await;
    }
    forget(state, &admitted);
    let objects = ack_all(state, same.into_iter().chain([admitted.held])).await;
    crash::at(CrashPoint::Postponed);
    let of_repetitions = objects
        .into_iter()
        .filter(|object| Some(object) != job.object.as_ref());
    drop_objects(state, of_repetitions).await;
}
