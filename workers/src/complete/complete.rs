//! From the end of a job to its acked delivery: stored, published, copied, acked, in this order and no other.
//!
//! # Why
//!
//! The process can end between any two steps. Whatever the step, the job must have one completion in the end, and
//! its answer must be on disk. It must not be called a second time for an answer that is known already.
//!
//! # How
//!
//! 1. The result is stored and synced. From here on a redelivery is answered from the store.
//! 2. The journal forgets the job's calls, which the store now has.
//! 3. The completion is published under the identity's subject. If another completion is there already, that one is the
//!    answer and is stored instead.
//! 4. The record of the job's calls that other workers read is deleted. A failed job leaves a dead letter.
//! 5. Copies go to the `reply_to` subjects.
//! 6. The delivery is acked, and the deliveries of its duplicates with it. An object that held the job is deleted.
//!
//! Each step is repeated until it is done. A delivery that is not acked comes again and goes on at the first step
//! that is missing.
//!
//! # Invariants
//!
//! - A job leaves the queue only by an ack that follows the acknowledgement of its completion.
//! - An identity has one final completion, whichever process publishes it.
//! - A rejection does not held the identity: it is released before the ack, so that a corrected job can be accepted.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::{Class, Completion, Status};
use jiff::Timestamp;
use tracing::warn;

use crate::complete::dead_letter::publish_dead_letter;
use crate::complete::persist::{cache_answer, forget, forget_attempts, persist};
use crate::complete::publish::publish;
use crate::complete::release::{give_back, release};
use crate::crash::{self, CrashPoint};
use crate::job::admitted_job::AdmittedJob;
use crate::job::delivery::HeldDelivery;
use crate::job::in_flight::DuplicateDeliveries;
use crate::outcome::end::JobResult;
use crate::outcome::outcome::Rejection;
use crate::queue::Queue;
use crate::store::results::ResultRecord;
use crate::until_done::retry_until_done;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Ends a job: stores its result, publishes its completion and acks its delivery.
pub(crate) async fn finish<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    mut admitted: AdmittedJob,
    end: JobResult,
) {
    let completion = admitted.completion(end);
    let record = ResultRecord {
        fingerprint: admitted.fingerprint.clone(),
        message: Some(admitted.delivery.unique_id.clone()),
        completion,
    };
    persist(state, &admitted, &record).await;
    crash::at(CrashPoint::Stored);
    cache_answer(state, &admitted, &record.completion).await;
    forget(state, &admitted);
    release_identity_if_rejected(state, &mut admitted, &record).await;
    let Some(record) = publish(state, &mut admitted, record).await else {
        return conflict(state, admitted).await;
    };
    debug_assert_eq!(record.completion.identity(), admitted.identity);
    crash::at(CrashPoint::Completed);
    forget_attempts(state, &admitted).await;
    if let Some(leader) = admitted
        .coalesce
        .as_mut()
        .and_then(|share| share.leader.as_mut())
    {
        leader.ended(&record.completion);
    }
    state.counters.count(&record.completion);
    if record.completion.status == Status::Failed {
        publish_dead_letter(state, &admitted, &record.completion).await;
        crash::at(CrashPoint::Buried);
    }
    release(state, admitted, &record.completion).await;
}

/// Releases the identity of a job that was rejected, expired or cancelled before its delivery is acked: its publisher may
/// publish a corrected job as soon as it reads the completion. Duplicates that would end alike end with this one; the
/// others are given back.
async fn release_identity_if_rejected<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: &mut AdmittedJob,
    record: &ResultRecord,
) {
    if record.completion.is_final() {
        return;
    }
    let was_admitted = admitted.registration.is_admitted();
    let DuplicateDeliveries { same, others } = admitted.registration.end();
    // A duplicate that was called before has attempts of its own to report, so it ends by itself.
    let now = state.now();
    let expired = record.completion.status == Status::Expired;
    let is_late = |held: &HeldDelivery| held.deadline.is_some_and(|deadline| deadline <= now);
    let cancelled = record.completion.status == Status::Cancelled;
    let is_cancelled =
        |held: &HeldDelivery| state.controls.cancels(&admitted.identity, held.published);
    let (alike, different): (Vec<_>, Vec<_>) = same.into_iter().partition(|held| {
        let ends_alike = (!expired || is_late(held)) && (!cancelled || is_cancelled(held));
        was_admitted && !held.tried && ends_alike
    });
    admitted.duplicates = alike;
    give_back(state, different.into_iter().chain(others)).await;
}

/// Ends a job with another job's cached answer, if there is one that is not older than `max_age`. Otherwise the job is
/// called.
pub(crate) async fn answer_from_cache<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: AdmittedJob,
    max_age: Duration,
) {
    let now = state.now();
    let since = now.checked_sub(max_age).unwrap_or(Timestamp::MIN);
    let cached = || -> Result<Option<ResultRecord>, crate::store::results::Error> {
        let Some(of) = state.results.kept(&admitted.request(), since)? else {
            return Ok(None);
        };
        state.results.answered(&of, now)
    };
    let found = cached()
        .inspect_err(|error| warn!(%error, "a cached answer cannot be read"))
        .ok()
        .flatten();
    let same = found.filter(|record| record.fingerprint == admitted.fingerprint);
    if let Some(end) = same.and_then(|record| JobResult::cached(&record.completion)) {
        return finish(state, admitted, end).await;
    }
    if let Err(mut admitted) = state.dispatcher.take(admitted) {
        // The process ends.
        let DuplicateDeliveries { same, others } = admitted.registration.end();
        give_back(state, same.into_iter().chain(others).chain([admitted.held])).await;
    }
}

/// Publishes the stored result of an identity again, for a delivery that came again.
pub(crate) async fn republish<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    mut admitted: AdmittedJob,
    record: ResultRecord,
) {
    forget(state, &admitted);
    release_identity_if_rejected(state, &mut admitted, &record).await;
    // The process may have ended between the store and the publish.
    let Some(record) = publish(state, &mut admitted, record).await else {
        return conflict(state, admitted).await;
    };
    forget_attempts(state, &admitted).await;
    // It may also have ended between the publish and the dead letter.
    let is_ours = record.message.as_deref() == Some(admitted.message_id());
    if is_ours && record.completion.status == Status::Failed {
        publish_dead_letter(state, &admitted, &record.completion).await;
    }
    release(state, admitted, &record.completion).await;
}

/// Rejects a message whose identity belongs to another request: that one has the completion, or will have it. A
/// subject beside that of the identity gets the rejection.
pub(crate) async fn conflict<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    mut admitted: AdmittedJob,
) {
    // Each duplicate gets its own dead letter.
    give_back(state, std::mem::take(&mut admitted.duplicates)).await;
    let message = format!(
        "the identity {} is that of another request (other pool, url or body); use another id",
        admitted.identity
    );
    let completion = set_aside(&mut admitted, ("id_conflict", message));
    // The identity's own completion stays what it is.
    retry_until_done("publishing a rejection", || {
        let traceparent = admitted.delivery.traceparent.as_deref();
        state.queue.reject(&completion, traceparent)
    })
    .await;
    publish_dead_letter(state, &admitted, &completion).await;
    release(state, admitted, &completion).await;
}

/// Returns the completion of a message that has none of its own.
fn set_aside(admitted: &mut AdmittedJob, (code, message): Rejection) -> Completion {
    warn!(identity = %admitted.identity, code, "a message is set aside: {message}");
    admitted.completion(JobResult::failed(code, message, Class::Rejected))
}

/// Rejects a message whose subject or origin allows no completion: it leaves a dead letter, and a copy if it asked for one.
pub(crate) async fn reject<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    mut admitted: AdmittedJob,
    rejection: Rejection,
) {
    let completion = set_aside(&mut admitted, rejection);
    publish_dead_letter(state, &admitted, &completion).await;
    release(state, admitted, &completion).await;
}
