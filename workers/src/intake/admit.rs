//! From a delivery to an admitted job: read, registered, looked up, matched with the pool's targets.

use std::sync::Arc;
use std::time::Duration;

use forebay_providers::cost::CallCost;
use forebay_providers::file_of;
use forebay_schemas::flow::is_name;
use forebay_schemas::{Class, Flow, Reason, Status};
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug, debug_span};

use crate::complete::complete;
use crate::crash::{self, CrashPoint};
use crate::dispatch::dispatcher::MAX_IN_MEMORY_DELAY;
use crate::intake::candidates::choose_candidates;
use crate::intake::lookup::{answered, recall};
use crate::intake::payload::{self, JobPayload};
use crate::intake::read::{NO_JOB, ReadMessage, is_foreign, read};
use crate::job::admitted_job::AdmittedJob;
use crate::job::candidates::CandidateSet;
use crate::job::delivery::{HeldDelivery, PrefetchBuffer};
use crate::job::in_flight::RegistrationOutcome;
use crate::large::run_blocking_if_large;
use crate::memory_budget::COPIES;
use crate::outcome::end::JobResult;
use crate::outcome::outcome::Rejection;
use crate::queue::{Delivery, Queue, QueueReading};
use crate::store::journal::WorkStep;
use crate::store::results::ResultRecord;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Takes in a delivery. A job that can be called goes to the dispatcher; every other one ends here.
pub(crate) async fn admit<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    reading: &QueueReading,
    delivery: Delivery,
    buffer: &Arc<PrefetchBuffer>,
) {
    let span = job_span(&reading.flow);
    let guard = state.unacked.hold(delivery.receipt.clone());
    let memory = state.memory.take(delivery.payload.len() * COPIES);
    let mut held = HeldDelivery::unread(&delivery, guard, buffer, memory);
    span.in_scope(|| crash::at(CrashPoint::Delivered));
    let Some(object) = delivery.object.clone() else {
        let taken_in = take_in(state, reading, delivery, held, JobPayload::Message);
        return taken_in.instrument(span).await;
    };
    // A large object must not hold up the next jobs of its queue.
    let (state, reading) = (Arc::clone(state), reading.clone());
    let fetched = async move {
        let payload = payload::fetch(&state, &reading.flow, object, &mut held).await;
        crash::at(CrashPoint::Fetched);
        take_in(&state, &reading, delivery, held, payload).await;
    };
    tokio::spawn(fetched.instrument(span));
}

/// The span of a job's events. Its id is recorded once the job is read.
fn job_span(flow: &Flow) -> Span {
    debug_span!(
        "job",
        id = Empty,
        team = flow.team,
        pool = flow.pool,
        lane = flow.lane.as_str()
    )
}

async fn take_in<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    reading: &QueueReading,
    delivery: Delivery,
    held: HeldDelivery,
    payload: JobPayload,
) {
    let message = read_guarded(state, &reading.flow, delivery, held, payload);
    Span::current().record("id", message.identity.id.as_str());
    let (identity, fingerprint) = (&message.identity, &message.fingerprint);
    let registered = state.in_flight.arrive(identity, fingerprint, message.held);
    let (held, registration, conflicts) = match registered {
        RegistrationOutcome::First(held, registration) => (held, registration, false),
        RegistrationOutcome::Conflict(held, registration) => (held, registration, true),
        RegistrationOutcome::Waits => {
            debug!("waits for the end of the same job");
            return;
        }
    };
    let not_before = message.job.not_before;
    let wait = not_before.and_then(|at| Duration::try_from(at.duration_since(state.now())).ok());
    let last_attempt = message.attempts.last();
    let mut admitted = AdmittedJob {
        span: Span::current(),
        waiting_since: last_attempt.map_or(message.delivery.published, |last| last.started_at),
        not_before: wait.map(|wait| Instant::now() + wait),
        job: message.job,
        identity: message.identity,
        flow: reading.flow.clone(),
        due: reading.due,
        fingerprint: message.fingerprint,
        delivery: message.delivery,
        held,
        registration,
        duplicates: Vec::new(),
        revision: message.revision,
        candidates: CandidateSet::default(),
        reason: Reason::default(),
        first_queued_at: None,
        interrupted: false,
        cost: CallCost::default(),
        attempts: message.attempts,
        counted: message.counted,
        answer_permit: None,
        unpublished: None,
        coalesce: None,
        merge: None,
        uncalled_since: None,
        last_error: None,
    };
    if conflicts {
        return take_step(state, admitted, AdmissionStep::Conflict);
    }
    if file_of(&admitted.job).is_none() {
        let step = next_step(state, &mut admitted, message.rejection).await;
        return take_step(state, admitted, step);
    }
    // Nor must a large file hold up the next jobs of its queue.
    let state = Arc::clone(state);
    let attached = async move {
        let step = next_step(&state, &mut admitted, message.rejection).await;
        take_step(&state, admitted, step);
    };
    tokio::spawn(attached.in_current_span());
}

/// Reads a message under the poison-pill guard: if this ends the process, the next one knows which message it may have
/// been.
fn read_guarded<Q: Queue, U: Upstream>(
    state: &WorkerState<Q, U>,
    flow: &Flow,
    delivery: Delivery,
    held: HeldDelivery,
    payload: JobPayload,
) -> ReadMessage {
    let name = delivery.unique_id.clone();
    let poison_pills = &state.journal.poison_pills;
    let poisoned_at = poison_pills.poisoned_at(&name);
    let read = || {
        let bytes = payload.of(&delivery);
        if poisoned_at != Some(WorkStep::Reading) {
            crash::over("reading", bytes);
        }
        run_blocking_if_large(bytes.len(), || {
            read(state, flow, delivery, held, payload, poisoned_at)
        })
    };
    poison_pills.guarded(WorkStep::Reading, &name, read)
}

/// The step that follows admission.
#[derive(Debug)]
enum AdmissionStep {
    Call,
    /// Another request has the identity.
    Conflict,
    /// There is no subject for a completion.
    Reject(Rejection),
    /// The identity has its answer already.
    Republish(Box<ResultRecord>),
    End(Box<JobResult>),
}

fn take_step<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: AdmittedJob,
    step: AdmissionStep,
) {
    admitted.registration.set_revision(admitted.revision);
    if matches!(step, AdmissionStep::Call) {
        admitted.registration.mark_admitted();
        crash::at(CrashPoint::Admitted);
        // If the dispatcher is gone, the process ends, and the delivery comes again.
        let _ = state.dispatcher.take(admitted);
        return;
    }
    let state = Arc::clone(state);
    let ended = async move {
        match step {
            AdmissionStep::Call => {}
            AdmissionStep::Conflict => complete::conflict(&state, admitted).await,
            AdmissionStep::Reject(rejection) => complete::reject(&state, admitted, rejection).await,
            AdmissionStep::Republish(record) => {
                complete::republish(&state, admitted, *record).await;
            }
            AdmissionStep::End(end) => complete::finish(&state, admitted, *end).await,
        }
    };
    tokio::spawn(ended.in_current_span());
}

async fn next_step<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    admitted: &mut AdmittedJob,
    mut rejection: Option<Rejection>,
) -> AdmissionStep {
    let format = admitted.delivery.format;
    let of_subject = state
        .addressing
        .refusal(&admitted.flow, &state.teams, format);
    if let Some(of_subject) = &of_subject
        && !is_name(&admitted.flow.team)
    {
        return AdmissionStep::Reject(of_subject.clone());
    }
    if let Some(rejection) = rejection.take_if(|rejection| is_foreign(rejection)) {
        return AdmissionStep::Reject(rejection);
    }
    if let Some(step) = step_of_answered(state, admitted, rejection.as_ref()).await {
        return step;
    }
    let interrupted = recall(state, admitted).await;
    rejection = of_subject.or(rejection);
    // A job that waits for its time is delivered again then, and its file is attached then.
    let is_postponed = admitted
        .not_before
        .is_some_and(|at| at > Instant::now() + MAX_IN_MEMORY_DELAY);
    if rejection.is_none() && interrupted.is_none() && !is_postponed {
        let (job, flow) = (&mut admitted.job, &admitted.flow);
        let attached = payload::attach(state, job, flow, &mut admitted.held).await;
        rejection = attached.err();
    }
    let end = match rejection.or_else(|| choose_candidates(state, admitted)) {
        Some((code, message)) => Some(JobResult::failed(code, message, Class::Rejected)),
        None => interrupted,
    };
    end.map_or(AdmissionStep::Call, |end| AdmissionStep::End(Box::new(end)))
}

/// The step that follows from the result that the identity already has; `None` if the job is called.
async fn step_of_answered<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    admitted: &mut AdmittedJob,
    rejection: Option<&Rejection>,
) -> Option<AdmissionStep> {
    let record = answered(state, admitted).await?;
    let is_unreadable =
        rejection.is_some_and(payload::is_gone) && admitted.fingerprint.starts_with(NO_JOB);
    if is_unreadable {
        // Its object is gone, so its fingerprint cannot be computed. Its publisher put it there for this identity.
        admitted.fingerprint.clone_from(&record.fingerprint);
    }
    let is_same_request = record.fingerprint == admitted.fingerprint;
    let completion = &record.completion;
    // A failure of an earlier revision does not count for this one, which may be a corrected request.
    let counts = completion.revision >= admitted.revision || completion.status == Status::Succeeded;
    if !counts {
        return None;
    }
    if completion.is_final() && !is_same_request {
        return Some(AdmissionStep::Conflict);
    }
    let is_same_message = record.message.as_deref() == Some(admitted.message_id());
    if completion.is_final() || (is_same_request && is_same_message) {
        return Some(AdmissionStep::Republish(Box::new(record)));
    }
    admitted.revision = completion.revision.saturating_add(1);
    None
}
