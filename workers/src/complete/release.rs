//! The last step of a job: copies are sent, deliveries acked or given back, and objects deleted.

use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_schemas::{Completion, Status};
use tracing::warn;

use crate::crash::{self, CrashPoint};
use crate::job::admitted_job::AdmittedJob;
use crate::job::delivery::HeldDelivery;
use crate::job::in_flight::DuplicateDeliveries;
use crate::queue::Queue;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Answers and acks the deliveries of a job that has its completion. Deliveries of other requests are given back.
pub(crate) async fn release<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    mut admitted: AdmittedJob,
    completion: &Completion,
) {
    let DuplicateDeliveries { same, others } = admitted.registration.end();
    give_back(state, others).await;
    let deliveries = same
        .into_iter()
        .chain(admitted.duplicates)
        .chain([admitted.held])
        .collect();
    copy_and_ack(
        state,
        deliveries,
        completion,
        admitted.delivery.traceparent.as_deref(),
    )
    .await;
}

/// Sends the copies that the deliveries ask for, then acks them.
async fn copy_and_ack<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    deliveries: Vec<HeldDelivery>,
    completion: &Completion,
    traceparent: Option<&str>,
) {
    let subjects: BTreeSet<_> = deliveries
        .iter()
        .flat_map(|held| held.replies.clone())
        .collect();
    if !subjects.is_empty()
        && let Err(error) = state.queue.copy(subjects, completion, traceparent).await
    {
        warn!(%error, "copies of a completion cannot be sent");
    }
    crash::at(CrashPoint::Copied);
    let objects = ack_all(state, deliveries).await;
    crash::at(CrashPoint::Acked);
    // A dead letter names the object that holds its job.
    if completion.status != Status::Failed {
        drop_objects(state, objects).await;
    }
}

/// Gives deliveries back: they are delivered again at once.
pub(crate) async fn give_back<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    deliveries: impl IntoIterator<Item = HeldDelivery>,
) {
    for held in deliveries {
        state.queue.give_back(held.receipt()).await;
    }
}

/// Acks deliveries. Returns the objects of those that were acked.
pub(crate) async fn ack_all<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    deliveries: impl IntoIterator<Item = HeldDelivery>,
) -> BTreeSet<String> {
    let mut objects = BTreeSet::new();
    for held in deliveries {
        match state.queue.ack(held.receipt()).await {
            Ok(()) => objects.extend(held.object),
            // The delivery comes again and is answered from the store.
            Err(error) => warn!(%error, "a job cannot be acknowledged; it will be delivered again"),
        }
    }
    objects
}

/// Deletes objects. One that cannot be deleted expires.
pub(crate) async fn drop_objects<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    objects: impl IntoIterator<Item = String>,
) {
    for object in objects {
        if let Err(error) = state.queue.drop_object(&object).await {
            warn!(%error, object, "cannot delete an object; it will expire");
        }
        crash::at(CrashPoint::Dropped);
    }
}
