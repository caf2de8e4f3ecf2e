//! One attempt: encoded, authorised, journalled, sent, classified, and added to each of its jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use forebay_providers::price::Prices;
use forebay_providers::{Endpoint, Reply, Unsupported};
use forebay_schemas::{Attempt, Class, OnAmbiguous};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span, warn};

use crate::accounts::Permit;
use crate::clock::millis_between;
use crate::crash::{self, CrashPoint};
use crate::execute::merged_call::MergedCall;
use crate::job::admitted_job::AdmittedJob;
use crate::large::run_blocking_if_large;
use crate::outcome::outcome::CallOutcome;
use crate::queue::Queue;
use crate::store::journal::WorkStep;
use crate::until_done::retry_until_done;
use crate::upstream::{self, ReceivedReply, Upstream};
use crate::worker_state::WorkerState;

/// Makes the permitted call and returns its outcome. Adds the attempt to each of the call's jobs, unless it was journalled too
/// late to be made.
pub(crate) async fn attempt<Q: Queue, U: Upstream>(
    state: &WorkerState<Q, U>,
    call: &mut MergedCall,
    target: usize,
    permit: &Permit,
) -> CallOutcome {
    let span = debug_span!(
        "attempt",
        account = permit.account().name(),
        key = permit.key().name,
        model = permit.model(),
        outcome = Empty
    );
    let started = state.now();
    async {
        let received = send(state, call, permit, started).await;
        crash::at(CrashPoint::Answered);
        let (outcome, answer_permit) = classify(state, call, target, permit, received);
        Span::current().record("outcome", outcome.name());
        crash::at(CrashPoint::Classified);
        add_attempt(state, call, permit, started, &outcome, answer_permit);
        outcome
    }
    .instrument(span)
    .await
}

/// Sends the request, once the attempt is journalled for each job.
async fn send<Q: Queue, U: Upstream>(
    state: &WorkerState<Q, U>,
    call: &MergedCall,
    permit: &Permit,
    started: Timestamp,
) -> Result<ReceivedReply, SendFailure> {
    let (endpoint, job) = (permit.endpoint(), call.job());
    let encode = || endpoint.encode(job, permit.model());
    let encoded = run_blocking_if_large(job.size(), || guarded(state, call, encode));
    let mut request = encoded.map_err(SendFailure::Unsupported)?;
    permit.account().name().clone_into(&mut request.account);
    endpoint
        .authorise(&mut request, &permit.key().secret(), started)
        .map_err(SendFailure::UnusableKey)?;
    for admitted in call.jobs() {
        let attempt = unanswered(call, admitted, permit, started);
        if begin(state, admitted, &attempt).await == JournalTiming::Late {
            return Err(SendFailure::Late);
        }
    }
    crash::at(CrashPoint::Journalled);
    let (marker, span) = (permit.send_marker(), Span::current());
    let on_send = move |at| {
        marker.sent(at);
        span.in_scope(|| crash::at(CrashPoint::Sending));
    };
    let fence = Arc::clone(&state.fence);
    let sending = state.upstream.send(request, fence, on_send);
    sending.await.map_err(SendFailure::Upstream)
}

/// When a call was journalled.
#[derive(PartialEq, Eq)]
enum JournalTiming {
    InTime,
    /// The first try failed. By now its deadline may have passed, or the job may be cancelled.
    Late,
}

/// Journals a call before it is made. If it must not be made twice, this waits until the line survives a power loss, and
/// until other workers can read it. Otherwise a full disk does not hold up the call.
async fn begin<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    admitted: &AdmittedJob,
    attempt: &Attempt,
) -> JournalTiming {
    let attempts = &state.journal.attempts;
    let answered = (admitted.fingerprint.as_str(), admitted.revision);
    let write = || attempts.begin(&admitted.identity, answered, attempt);
    if admitted.job.on_ambiguous == OnAmbiguous::Retry {
        if let Err(error) = write() {
            warn!(%error, "a call cannot be journalled");
        }
        return JournalTiming::InTime;
    }
    let tries = AtomicU32::new(0);
    retry_until_done("journalling a call", async || {
        tries.fetch_add(1, Ordering::Relaxed);
        write()?;
        attempts.sync().await
    })
    .await;
    let record = attempts.record(&admitted.identity);
    retry_until_done("recording a call", async || {
        tries.fetch_add(1, Ordering::Relaxed);
        match &record {
            Some(record) => {
                state
                    .queue
                    .record_attempts(&admitted.identity, record)
                    .await
            }
            None => Ok(()),
        }
    })
    .await;
    match tries.into_inner() {
        2 => JournalTiming::InTime,
        _ => JournalTiming::Late,
    }
}

/// Why there is no reply.
enum SendFailure {
    /// The provider's dialect cannot express the job.
    Unsupported(Unsupported),
    /// The key cannot be sent.
    UnusableKey(String),
    /// The call was journalled too late to be made. The job waits for its next turn.
    Late,
    /// The network or the provider failed.
    Upstream(upstream::Error),
}

/// The permit for a large answer's memory, shared by the jobs of the call.
type AnswerPermit = Option<Arc<tokio::sync::OwnedSemaphorePermit>>;

/// Reads the reply. Returns the outcome, and the permit for the answer's memory if the answer is kept.
///
/// The reply also teaches: its headers the account's limits, its size the number of texts of later calls.
fn classify<Q, U>(
    state: &WorkerState<Q, U>,
    call: &MergedCall,
    target: usize,
    permit: &Permit,
    received: Result<ReceivedReply, SendFailure>,
) -> (CallOutcome, AnswerPermit) {
    let (reply, answer_permit) = match received {
        Ok(ReceivedReply { reply, permit }) => (Ok(reply), permit),
        Err(failure) => (Err(failure), None),
    };
    let answer_bytes = reply.as_ref().map_or(0, |reply| reply.body.len());
    let prices = state.target(target).prices.as_deref();
    let read = || match reply {
        Ok(reply) => read_reply(state, call, prices, permit, &reply),
        Err(failure) => outcome_of_failure(failure),
    };
    let outcome = run_blocking_if_large(answer_bytes + call.job().size(), || {
        guarded(state, call, read)
    });
    let sample = call.size_sample(&outcome, answer_bytes);
    state.merge_sizes.learn(target, &sample);
    // A job that is tried again waits without its answer.
    let answer_permit = answer_permit.filter(|_| outcome.class.is_none());
    (outcome, answer_permit.map(Arc::new))
}

fn read_reply<Q, U>(
    state: &WorkerState<Q, U>,
    call: &MergedCall,
    prices: Option<&Prices>,
    permit: &Permit,
    reply: &Reply,
) -> CallOutcome {
    let (job, now) = (call.job(), state.now());
    let endpoint = permit.endpoint();
    let instant = Instant::now();
    permit.observe(&endpoint.observe(&reply.headers, now), instant);
    let secret = permit.key().secret();
    if let Some(stated) = endpoint.stated_use(job, &secret, reply) {
        permit.observe_refusal(&stated, Endpoint::states_maximum(job), instant);
    }
    let decoded = endpoint.decode(job, permit.model(), reply, now);
    call.verified(CallOutcome::of_reply(
        decoded,
        reply.status,
        (&secret, prices),
        job,
    ))
}

fn outcome_of_failure(failure: SendFailure) -> CallOutcome {
    match failure {
        SendFailure::Upstream(error) => CallOutcome::of_error(&error),
        SendFailure::Unsupported(unsupported) => CallOutcome::local(
            Class::BadRequest,
            unsupported.obstacle.code(),
            unsupported.to_string(),
        ),
        SendFailure::Late => CallOutcome::of_unjournalled(),
        SendFailure::UnusableKey(problem) => {
            CallOutcome::local(Class::BadKey, "unusable_key", problem)
        }
    }
}

/// Works on the bytes of the call's jobs under the poison-pill guard: if this ends the process, the next one knows which
/// jobs it may have been.
fn guarded<Q, U, T>(state: &WorkerState<Q, U>, call: &MergedCall, act: impl FnOnce() -> T) -> T {
    let messages = call.jobs().iter().map(AdmittedJob::message_id);
    let poison_pills = &state.journal.poison_pills;
    let act = || {
        for admitted in call.jobs() {
            crash::over("calling", &admitted.delivery.payload);
        }
        act()
    };
    poison_pills.guarded_all(WorkStep::Calling, messages, act)
}

/// Adds the attempt to each job of the call, unless it was journalled too late to be made.
fn add_attempt<Q, U>(
    state: &WorkerState<Q, U>,
    call: &mut MergedCall,
    permit: &Permit,
    started: Timestamp,
    outcome: &CallOutcome,
    answer_permit: AnswerPermit,
) {
    let now = state.now();
    let attempts: Vec<_> = call
        .jobs()
        .iter()
        .map(|admitted| unanswered(call, admitted, permit, started))
        .collect();
    for (admitted, begun) in call.jobs_mut().iter_mut().zip(attempts) {
        admitted.answer_permit.clone_from(&answer_permit);
        if outcome.was_not_made() {
            continue;
        }
        admitted.add_attempt(Attempt {
            duration_ms: millis_between(started, now),
            outcome: outcome.name().to_owned(),
            status_code: outcome.status_code,
            ..begun
        });
        admitted.waiting_since = now;
    }
}

/// The attempt as it is journalled: if nothing more is ever known of it, its outcome is unknown.
fn unanswered(
    call: &MergedCall,
    admitted: &AdmittedJob,
    permit: &Permit,
    started: Timestamp,
) -> Attempt {
    let jobs = u32::try_from(call.jobs().len());
    Attempt {
        account: permit.account().name().to_owned(),
        key: permit.key().name.clone(),
        provider: permit.endpoint().provider.name.clone(),
        model: permit.model().to_owned(),
        started_at: started,
        waited_ms: millis_between(admitted.waiting_since, started),
        duration_ms: 0,
        outcome: Class::NetAfterSend.as_str().to_owned(),
        status_code: None,
        jobs: jobs.ok().filter(|jobs| *jobs > 1),
    }
}
