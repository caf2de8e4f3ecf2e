//! From a delivery to a admitted job: read, looked up, matched with the pool's targets.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::flow::is_name;
use forebay_schemas::{Class, Reason, Status};
use tokio::time::Instant;

use crate::complete::complete;
use crate::crash::{self, CrashPoint};
use crate::dispatch::dispatcher::MAX_IN_MEMORY_DELAY;
use crate::intake::lookup::{answered, recall};
use crate::intake::payload;
use crate::intake::payload::JobPayload;
use crate::intake::read::{NO_JOB, read};
use crate::intake::route::{JobRoute, matching};
use crate::job::admitted_job::AdmittedJob;
use crate::job::candidates::CandidateSet;
use crate::job::delivery::{HeldDelivery, PrefetchBuffer};
use crate::job::in_flight::RegistrationOutcome;
use crate::job::merge_key::MergeCandidate;
use crate::job::share::CoalesceRequest;
use crate::large::at_length;
use crate::outcome::end::JobResult;
use crate::outcome::outcome::Rejection;
use crate::queue::{Delivery, Queue, QueueReading};
use crate::store::journal::WorkStep;
use crate::store::results::ResultRecord;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;
use forebay_providers::cost::CallCost;
use forebay_providers::file_of;
use forebay_providers::registry::MergeLimits;

/// Takes a delivery in. What can be called goes to the dispatcher; everything else is answered here.
pub(crate) async fn admit<Q: Queue, U: Upstream>(
    engine: &Arc<WorkerState<Q, U>>,
    reading: &QueueReading,
    delivery: Delivery,
    stage: &Arc<PrefetchBuffer>,
) {
    crash::at(CrashPoint::Delivered);
    let claim = HeldDelivery::unread(&delivery, engine.held.hold(delivery.receipt.clone()), stage);
    match delivery.object.clone() {
        None => take_in(engine, reading, delivery, claim, JobPayload::Message).await,
        Some(object) => {
            // Whoever fetches much does not hold up the others of the flow.
            let (engine, reading) = (Arc::clone(engine), reading.clone());
            tokio::spawn(async move {
                let mut claim = claim;
                let content = payload::fetch(&engine, &reading.flow.team, object, &mut claim).await;
                crash::at(CrashPoint::Fetched);
                take_in(&engine, &reading, delivery, claim, content).await;
            });
        }
    }
}

async fn take_in<Q: Queue, U: Upstream>(
    engine: &Arc<WorkerState<Q, U>>,
    reading: &QueueReading,
    delivery: Delivery,
    claim: HeldDelivery,
    content: JobPayload,
) {
    let flow = &reading.flow;
    let name = delivery.unique_id.clone();
    let guilty = engine.journal.suspects.guilty(&name);
    let message = engine
        .journal
        .suspects
        .around(WorkStep::Reading, &name, || {
            if guilty != Some(WorkStep::Reading) {
                crash::over("reading", content.of(&delivery));
            }
            at_length(content.of(&delivery).len(), || {
                read(engine, flow, delivery, claim, content, guilty)
            })
        });
    let claim = message.claim;
    let (claim, entry, conflicts) =
        match engine
            .running
            .arrive(&message.identity, &message.fingerprint, claim)
        {
            RegistrationOutcome::First(claim, entry) => (claim, entry, false),
            RegistrationOutcome::Waits => return,
            RegistrationOutcome::Conflict(claim, entry) => (claim, entry, true),
        };
    let wait = message
        .job
        .not_before
        .and_then(|at| Duration::try_from(at.duration_since(engine.clock.now())).ok());
    let mut admitted = AdmittedJob {
        waiting_since: message
            .attempts
            .last()
            .map_or(message.delivery.published, |last| last.started_at),
        not_before: wait.map(|wait| Instant::now() + wait),
        job: message.job,
        identity: message.identity,
        flow: flow.clone(),
        due: reading.due,
        fingerprint: message.fingerprint,
        delivery: message.delivery,
        claim,
        entry,
        joined: Vec::new(),
        revision: message.revision,
        choices: CandidateSet::default(),
        reason: Reason::default(),
        here_since: None,
        interrupted: false,
        cost: CallCost::default(),
        attempts: message.attempts,
        counted: message.counted,
        place: None,
        share: None,
        join: None,
        last_error: None,
    };
    if conflicts {
        return go_on(engine, admitted, AdmissionStep::Conflict);
    }
    if file_of(&admitted.job).is_some() {
        // Nor does whoever fetches a file.
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            let next = next(&engine, &mut admitted, message.refusal).await;
            go_on(&engine, admitted, next);
        });
        return;
    }
    let next = next(engine, &mut admitted, message.refusal).await;
    go_on(engine, admitted, next);
}

fn go_on<Q: Queue, U: Upstream>(
    engine: &Arc<WorkerState<Q, U>>,
    admitted: AdmittedJob,
    next: AdmissionStep,
) {
    admitted.entry.is_for(admitted.revision);
    if matches!(next, AdmissionStep::Call) {
        admitted.entry.admitted();
        crash::at(CrashPoint::Admitted);
        // If it is not taken, the process ends, and the delivery comes again.
        let _ = engine.dispatcher.take(admitted);
        return;
    }
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        match next {
            AdmissionStep::Call => {}
            AdmissionStep::Conflict => complete::conflict(&engine, admitted).await,
            AdmissionStep::SetAside(refusal) => {
                complete::set_aside(&engine, admitted, refusal).await
            }
            AdmissionStep::AnswerAgain(record) => {
                complete::answer_again(&engine, admitted, *record).await
            }
            AdmissionStep::End(end) => complete::finish(&engine, admitted, *end).await,
        }
    });
}

/// What is done with a message.
enum AdmissionStep {
    Call,
    /// Another request has the identity.
    Conflict,
    /// There is no subject for a completion.
    SetAside(Rejection),
    AnswerAgain(Box<ResultRecord>),
    End(Box<JobResult>),
}

async fn next<Q: Queue, U>(
    engine: &WorkerState<Q, U>,
    admitted: &mut AdmittedJob,
    refusal: Option<Rejection>,
) -> AdmissionStep {
    let odd = engine
        .addressing
        .refusal(&admitted.flow, &engine.teams, admitted.delivery.format);
    if let Some(refusal) = odd.clone().filter(|_| !is_name(&admitted.flow.team)) {
        return AdmissionStep::SetAside(refusal);
    }
    if let Some(next) = next_of_answered(engine, admitted, refusal.as_ref()).await {
        return next;
    }
    let interrupted = recall(engine, admitted);
    let mut refusal = odd.or(refusal);
    // One that waits for its time is delivered again then.
    let waits = admitted
        .not_before
        .is_some_and(|at| at > Instant::now() + MAX_IN_MEMORY_DELAY);
    if refusal.is_none() && interrupted.is_none() && !waits {
        refusal = payload::attach(
            engine,
            &mut admitted.job,
            &admitted.flow.team,
            &mut admitted.claim,
        )
        .await
        .err();
    }
    let end = match refusal.or_else(|| choose(engine, admitted)) {
        Some((code, message)) => Some(JobResult::failed(code, message, Class::Rejected)),
        None => interrupted,
    };
    end.map_or(AdmissionStep::Call, |end| AdmissionStep::End(Box::new(end)))
}

/// What becomes of a job by the result that its identity already has; `None` if it is called all the same.
async fn next_of_answered<Q: Queue, U>(
    engine: &WorkerState<Q, U>,
    admitted: &mut AdmittedJob,
    refusal: Option<&Rejection>,
) -> Option<AdmissionStep> {
    // What failed before this revision began does not count for it.
    let answered = answered(engine, admitted).await;
    let is_unknown =
        refusal.is_some_and(payload::is_gone) && admitted.fingerprint.starts_with(NO_JOB);
    if let (Some(record), true) = (&answered, is_unknown) {
        // Which request it was can no longer be told; its publisher put it there for this identity.
        admitted.fingerprint.clone_from(&record.fingerprint);
    }
    if let Some(record) = &answered
        && record.completion.is_final()
        && record.fingerprint != admitted.fingerprint
    {
        return Some(AdmissionStep::Conflict);
    }
    let counts = |record: &ResultRecord| {
        record.completion.revision >= admitted.revision
            || record.completion.status == Status::Succeeded
    };
    if let Some(record) = answered.filter(counts) {
        let same = record.fingerprint == admitted.fingerprint;
        let same_message = record.message.as_ref() == Some(&admitted.delivery.unique_id);
        if record.completion.is_final() || (same && same_message) {
            return Some(AdmissionStep::AnswerAgain(Box::new(record)));
        }
        admitted.revision = record.completion.revision.saturating_add(1);
    }
    None
}

/// As [`choose_targets`], marked: what a job costs is told by its own bytes.
fn choose<Q, U>(engine: &WorkerState<Q, U>, admitted: &mut AdmittedJob) -> Option<Rejection> {
    let name = admitted.delivery.unique_id.clone();
    let size = admitted.job.size();
    engine
        .journal
        .suspects
        .around(WorkStep::Calling, &name, || {
            at_length(size, || choose_targets(engine, admitted))
        })
}

/// Sets the targets that may serve a job and its cost; or says why there is none.
fn choose_targets<Q, U>(
    engine: &WorkerState<Q, U>,
    admitted: &mut AdmittedJob,
) -> Option<Rejection> {
    let counts_tokens = engine.caps.contains_key(&admitted.flow.team);
    let JobRoute {
        pool,
        choices,
        cost,
        refusal,
    } = match matching(
        &engine.pools,
        &admitted.flow.pool,
        &admitted.job,
        counts_tokens,
    ) {
        Ok(found) => found,
        Err(refusal) => return Some(refusal),
    };
    (admitted.choices, admitted.cost) = (choices, cost);
    // An end of this process is no failure of the provider's.
    let told = admitted.attempts.len()
        - usize::from(admitted.interrupted && !admitted.attempts.is_empty());
    admitted
        .choices
        .recall(&admitted.attempts[..told], &engine.pools);
    // One that was sent to another pool is asked something else there than it was first.
    let asks_this =
        |_: &CoalesceRequest| admitted.fingerprint == admitted.job.fingerprint(&admitted.flow.pool);
    admitted.share = CoalesceRequest::of(&admitted.job, pool.cache).filter(asks_this);
    admitted.join = pool.merge.then(|| join(engine, admitted)).flatten();
    refusal
}

/// How a job can travel with others. Its flow is read further where it can, as far as one request reaches.
fn join<Q, U>(engine: &WorkerState<Q, U>, admitted: &AdmittedJob) -> Option<MergeCandidate> {
    // One over which the process ended is worked on alone.
    if engine
        .journal
        .suspects
        .suspects(&admitted.delivery.unique_id)
    {
        return None;
    }
    let join = MergeCandidate::of(&admitted.job, &admitted.flow.pool)?;
    // One text that is too long by all that is known would be refused, and all others with it.
    let likely = admitted.cost.input_tokens * 3 / 4;
    if join.inputs == 1 && admitted.choices.are_too_small_for(likely) {
        return None;
    }
    let targets = admitted
        .choices
        .left()
        .iter()
        .map(|choice| engine.pools.target(choice.target));
    let saving = targets.filter(|target| target.account.counts_calls(&target.model));
    let joins = saving.map(|target| target.account.config().endpoint.provider.merges);
    // So many like it fit one request.
    let like_it = |joins: MergeLimits| {
        let by_tokens = joins.tokens / admitted.cost.input_tokens.max(1);
        (joins.inputs / join.inputs).min(usize::try_from(by_tokens).unwrap_or(usize::MAX))
    };
    let others = joins
        .map(like_it)
        .max()?
        .checked_sub(1)
        .filter(|others| *others > 0)?;
    admitted.claim.travels_with(others);
    Some(join)
}
