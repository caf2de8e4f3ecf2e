//! One permitted call and the jobs that share it, from the permit to the end of each job or its next try: the spine.

use std::sync::Arc;
use std::time::Duration;

use forebay_providers::ErrorScope;
use forebay_schemas::{Class, OnAmbiguous};
use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{Instrument, debug, warn};

use crate::accounts::{FailureCause, Permit};
use crate::complete::complete;
use crate::crash::{self, CrashPoint};
use crate::execute::attempt::attempt;
use crate::execute::merged_call::MergedCall;
use crate::job::admitted_job::AdmittedJob;
use crate::large::run_blocking_if_large;
use crate::outcome::end::JobResult;
use crate::outcome::outcome::CallOutcome;
use crate::outcome::policy::{AccountAction, JobHistory, JobVerdict, breaker_failure};
use crate::queue::Queue;
use crate::until_done::retry_until_done;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Makes the permitted call, then settles its account and each of its jobs.
pub(crate) async fn execute<Q: Queue, U: Upstream>(
    state: Arc<WorkerState<Q, U>>,
    mut call: MergedCall,
    target: usize,
    mut permit: Permit,
) {
    crash::at(CrashPoint::Permitted);
    call.log_merge();
    for admitted in call.jobs_mut() {
        admitted.reason = admitted.candidates.reason(target, &admitted.attempts);
    }
    let mut outcome = attempt(&state, &mut call, target, &permit).await;
    believe_wait(&permit, &mut outcome);
    judge_refusal(&permit, &call, &mut outcome);
    judge_failure(&permit, &call, &mut outcome, state.now());
    let (verdicts, actions): (Vec<_>, Vec<_>) = call
        .jobs()
        .iter()
        .map(|admitted| decide(&state, admitted, target, &outcome))
        .unzip();
    // The actions of merged jobs differ in the length of a cooldown alone. The account takes that of the head.
    let action = actions.first().copied().unwrap_or(AccountAction::None);
    settle_account(&mut permit, &outcome, action, call.input_tokens());
    drop(permit);
    crash::at(CrashPoint::Decided);

    if call.must_split(&outcome) {
        for admitted in call.split(&state.merge_sizes) {
            retry(&state, admitted, RetriedCall::Made { counted: false }).await;
        }
        return;
    }
    let divided = run_blocking_if_large(outcome.answer_size(), || call.divide_outcome(outcome));
    let settled = divided
        .into_iter()
        .zip(verdicts)
        .map(|((admitted, outcome), verdict)| {
            let span = admitted.span.clone();
            settle_job(&state, admitted, target, outcome, verdict).instrument(span)
        });
    join_all(settled).await;
}

/// Shortens the wait that a refusal requests to the time after which a call probes.
fn believe_wait(permit: &Permit, outcome: &mut CallOutcome) {
    let Some(class) = outcome.class else { return };
    if class.is_limit() || class == Class::Overloaded {
        let believed = |wait| permit.believed_wait(wait, outcome.scope, Instant::now());
        outcome.retry_after = outcome.retry_after.map(believed);
    }
}

/// Judges whether the account or the job is the reason of a refusal that does not say so. Of several jobs in one call each is
/// called alone first.
fn judge_refusal(permit: &Permit, call: &MergedCall, outcome: &mut CallOutcome) {
    if let Some(refusal) = outcome.unexplained_refusal()
        && !call.must_split(outcome)
    {
        outcome.refusal = Some(permit.judge_refusal(refusal, Instant::now()));
    }
}

/// Judges whether a failure belongs to an outage.
fn judge_failure(permit: &Permit, call: &MergedCall, outcome: &mut CallOutcome, now: Timestamp) {
    if let Some(class) = breaker_failure(outcome) {
        let before = call.jobs()[0].earlier_failures(now);
        let cause = permit.judge_failure(class, before, Instant::now());
        outcome.cause = Some(cause);
    }
}

fn decide<Q, U>(
    state: &WorkerState<Q, U>,
    admitted: &AdmittedJob,
    target: usize,
    outcome: &CallOutcome,
) -> (JobVerdict, AccountAction) {
    let history = history(state, admitted, target, outcome);
    let mut rng = state.rng();
    state.policy.decide(outcome, &history, &mut *rng)
}

/// Returns the job's calls until now, this one included.
fn history<Q, U>(
    state: &WorkerState<Q, U>,
    admitted: &AdmittedJob,
    target: usize,
    outcome: &CallOutcome,
) -> JobHistory {
    let candidates = &admitted.candidates;
    let in_outage = match outcome.cause {
        Some(FailureCause::Outage(since)) => {
            let waited = state.now().duration_since(admitted.delivery.published);
            let waited = Duration::try_from(waited).unwrap_or_default();
            Some(waited.min(since.elapsed()))
        }
        Some(FailureCause::Job) | None => None,
    };
    let patience = candidates.patience().unwrap_or(state.policy.patience);
    JobHistory {
        counted: admitted.counted,
        failures_here: candidates.failures_at(target),
        malformed_here: candidates.malformed_at(target) + 1,
        on_ambiguous: admitted.job.on_ambiguous,
        in_outage,
        patience: patience.of(admitted.flow.lane),
    }
}

/// Says in the error of a job's completion that an outage lasted longer than the job's patience.
fn name_outage(outcome: &mut CallOutcome) {
    if let Some(FailureCause::Outage(since)) = outcome.cause {
        let lasted = Duration::from_secs(since.elapsed().as_secs());
        outcome.message = format!(
            "the provider or the network has failed for {}, which is longer than the patience of this lane: {}",
            humantime::format_duration(lasted),
            outcome.message
        );
    }
}

/// Does what was decided about one job.
async fn settle_job<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    mut admitted: AdmittedJob,
    target: usize,
    mut outcome: CallOutcome,
    verdict: JobVerdict,
) {
    debug!(?verdict, "settled");
    debug_assert!(
        !(verdict.counts() && outcome.class.is_some_and(Class::is_limit)),
        "a limit uses up no attempt: {verdict:?}"
    );
    let candidates = &mut admitted.candidates;
    let failed_as = outcome.class.filter(|_| !outcome.was_not_made());
    let is_fault_of_job = outcome.cause == Some(FailureCause::Job);
    if is_fault_of_job && outcome.class == Some(Class::MalformedResponse) {
        candidates.record_malformed(target);
    }
    if let Some(class) = failed_as
        && !outcome.may_be_of_account()
    {
        candidates.record_failure(target, class);
    }
    match (verdict, failed_as) {
        (JobVerdict::Retry { counted, backoff }, failed_as) => {
            candidates.back_off(target, Instant::now() + backoff);
            let call = match failed_as {
                Some(_) => RetriedCall::Made { counted },
                None => RetriedCall::NotMade,
            };
            retry(state, admitted, call).await;
        }
        (JobVerdict::TryOtherTarget { counted }, Some(class))
            if candidates.has_other_than(target, class) =>
        {
            candidates.give_up(target, class);
            admitted.last_error = Some(outcome.error());
            retry(state, admitted, RetriedCall::Made { counted }).await;
        }
        (JobVerdict::Finish | JobVerdict::TryOtherTarget { .. }, _) => {
            if verdict == (JobVerdict::TryOtherTarget { counted: false }) {
                name_outage(&mut outcome);
            }
            complete::finish(state, admitted, JobResult::of(outcome)).await;
        }
    }
}

/// The call after which a job is tried again.
#[derive(Debug, Clone, Copy)]
enum RetriedCall {
    /// It was made. `counted` is true if it counts against the job's limit of attempts.
    Made { counted: bool },
    /// It was journalled and then not made.
    NotMade,
}

/// Journals the end of a job's last attempt, and hands the job to the dispatcher for its next call.
async fn retry<Q: Queue, U>(
    state: &WorkerState<Q, U>,
    mut admitted: AdmittedJob,
    call: RetriedCall,
) {
    admitted.unpublished = None;
    let identity = &admitted.identity;
    let journal = &state.journal.attempts;
    match (call, admitted.attempts.last()) {
        (RetriedCall::Made { counted }, Some(attempt)) => {
            journal.end(identity, attempt, counted);
            admitted.counted += u32::from(counted);
        }
        _ => journal.withdraw(identity),
    }
    if admitted.job.on_ambiguous == OnAmbiguous::Fail
        && let Some(record) = journal.record(identity)
    {
        retry_until_done("recording the end of a call", || {
            state.queue.record_attempts(identity, &record)
        })
        .await;
    }
    admitted.not_before = admitted.candidates.backs_off_until(Instant::now());
    // If the dispatcher is gone, the process ends, and the delivery comes again.
    let _ = state.dispatcher.take(admitted);
}

/// Reports the outcome to the account that was called, and does what was decided about it.
fn settle_account(
    permit: &mut Permit,
    outcome: &CallOutcome,
    action: AccountAction,
    estimated_tokens: u64,
) {
    let now = Instant::now();
    if let Some(usage) = outcome.usage {
        // Later estimates are corrected, and so is what this call took of the limits on tokens.
        permit.record_prompt_tokens(estimated_tokens, usage.input_tokens);
        let endpoint = permit.endpoint().clone();
        permit.settle(endpoint.spent(usage, permit.model()), endpoint.settles());
    }
    if let Some(rest) = outcome.runs_on {
        // It still counts among the calls at once.
        permit.abandoned(now, rest);
    }
    let is_answered = outcome.status_code.is_some();
    if is_answered {
        // A call that probed a cooled key or model has shown something.
        permit.mark_answered();
    }
    let is_served = match outcome.class {
        None | Some(Class::ContentFiltered | Class::ContextTooLong) => true,
        Some(class) => class == Class::BadRequest && !outcome.is_unexplained,
    };
    if is_served && is_answered {
        permit.served(now);
    }
    match breaker_failure(outcome) {
        Some(class) => permit.record_failure(class, now),
        None if is_answered => permit.record_success(now),
        None => {}
    }
    if action == AccountAction::None {
        if is_answered {
            // No limit refused it.
            permit.accepted(now);
        }
        return;
    }
    let class = outcome.class.unwrap_or(Class::ServerError);
    // Jobs wait for an account that refuses all of them. They do not wait for a model that it may not use.
    let reason = match outcome.may_be_of_account() {
        true => Class::BadRequest,
        false => class,
    };
    apply(permit, action, outcome.scope, reason, now);
    permit.account().note_problem(&outcome.message);
    warn!(
        account = permit.account().config().name,
        key = permit.key().name,
        model = permit.model(),
        outcome = %class,
        effect = %action,
        message = outcome.message,
        "a call was not accepted"
    );
}

fn apply(permit: &Permit, action: AccountAction, scope: ErrorScope, class: Class, now: Instant) {
    match action {
        AccountAction::None => {}
        AccountAction::Refused(wait) => permit.refused(scope, class, wait, now),
        AccountAction::CoolModel(wait) if class == Class::Overloaded => {
            permit.cool_overloaded_model(wait, now);
        }
        AccountAction::CoolModel(wait) => permit.cool_model(class, wait, now),
        AccountAction::DisableKey => permit.disable_key(class),
        AccountAction::DisableAccount => permit.account().disable(class),
    }
}
