//! One permitted call and the jobs that share it, from the permit to the end of each job or its next try: the spine.

use std::sync::Arc;

use forebay_schemas::Class;
use futures::future::join_all;
use tokio::time::Instant;
use tracing::warn;

use crate::accounts::Permit;
use crate::complete::complete;
use crate::crash::{self, CrashPoint};
use crate::execute::attempt::attempt;
use crate::execute::merged_call::MergedCall;
use crate::job::admitted_job::AdmittedJob;
use crate::large::at_length;
use crate::outcome::end::JobResult;
use crate::outcome::outcome::CallOutcome;
use crate::outcome::policy::{AccountAction, JobVerdict, failure};
use crate::queue::Queue;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;
use forebay_providers::ErrorScope;

/// Makes the permitted call and does what its outcome asks for, for each of its jobs.
pub(crate) async fn work<Q: Queue, U: Upstream>(
    engine: Arc<WorkerState<Q, U>>,
    mut party: MergedCall,
    target: usize,
    mut permit: Permit,
) {
    crash::at(CrashPoint::Permitted);
    for admitted in party.members_mut() {
        admitted.reason = admitted.choices.reason(target, &admitted.attempts);
    }
    let outcome = attempt(&engine, &mut party, target, &permit).await;
    let decide = |admitted: &AdmittedJob| {
        let malformed = admitted.malformed_at(permit.account().name(), permit.model());
        let (counted, ambiguous) = (admitted.counted, admitted.job.on_ambiguous);
        engine
            .policy
            .decide(&outcome, counted, malformed, ambiguous, &mut *engine.rng())
    };
    let (verdicts, effects): (Vec<_>, Vec<_>) = party.members().iter().map(decide).unzip();
    let effect = effects.into_iter().next().unwrap_or(AccountAction::None);
    apply(&mut permit, &outcome, effect, party.input_tokens());
    drop(permit);
    crash::at(CrashPoint::Decided);

    if party.must_part(&outcome) {
        let now = Instant::now();
        return party
            .parts(&engine.sizes)
            .into_iter()
            .for_each(|admitted| again(&engine, admitted, false, now));
    }
    let bytes = outcome
        .response
        .as_ref()
        .map_or(0, |response| response.body.get().len());
    let divided = at_length(bytes, || party.divided(outcome));
    let ends = divided.into_iter().zip(verdicts);
    join_all(
        ends.map(|((admitted, outcome), verdict)| end(&engine, admitted, target, outcome, verdict)),
    )
    .await;
}

/// Does what is decided about one job.
async fn end<Q: Queue, U: Upstream>(
    engine: &Arc<WorkerState<Q, U>>,
    mut admitted: AdmittedJob,
    target: usize,
    outcome: CallOutcome,
    verdict: JobVerdict,
) {
    let class = outcome.class.filter(|_| !outcome.was_not_made());
    let others = class.is_some_and(|class| admitted.choices.note(target, class));
    let now = Instant::now();
    match verdict {
        JobVerdict::Again { counted, backoff } => {
            admitted.choices.back_off(target, now + backoff);
            again(engine, admitted, counted, now);
        }
        JobVerdict::Elsewhere { counted } if others && admitted.choices.leave(target, class) => {
            admitted.last_error = Some(outcome.error());
            again(engine, admitted, counted, now);
        }
        JobVerdict::Finish | JobVerdict::Elsewhere { .. } => {
            complete::finish(engine, admitted, JobResult::of(outcome)).await;
        }
    }
}

fn apply(permit: &mut Permit, outcome: &CallOutcome, effect: AccountAction, estimated: u64) {
    let now = Instant::now();
    if let Some(usage) = outcome.usage {
        permit.learn(estimated, usage.input_tokens);
        let endpoint = permit.account().config().endpoint.clone();
        permit.settle(endpoint.spent(usage, permit.model()), endpoint.settles());
    }
    if let Some(rest) = outcome.runs_on {
        permit.abandoned(now, rest);
    }
    if outcome.status_code.is_some() {
        permit.answered();
    }
    match failure(outcome) {
        Some(class) => permit.went(Some(class), now),
        None if outcome.status_code.is_some() => permit.went(None, now),
        None => {}
    }
    let class = outcome.class.unwrap_or(Class::ServerError);
    match effect {
        AccountAction::None => {
            if outcome.status_code.is_some() {
                permit.accepted(now);
            }
            return;
        }
        AccountAction::Refused(wait) => {
            permit.refused(outcome.scope == ErrorScope::Key, class, wait, now)
        }
        AccountAction::CoolModel(wait) => permit.cool(false, class, wait, now),
        AccountAction::DisableKey => permit.disable_key(class),
        AccountAction::DisableAccount => permit.account().disable(class),
    }
    permit.account().note_problem(&outcome.message);
    warn!(
        account = permit.account().config().name,
        key = permit.key().name,
        model = permit.model(),
        outcome = %class,
        effect = %effect,
        message = outcome.message,
        "a call was not accepted"
    );
}

fn again<Q, U>(engine: &WorkerState<Q, U>, mut admitted: AdmittedJob, counted: bool, now: Instant) {
    admitted.counted += u32::from(counted);
    admitted.not_before = admitted.choices.rests_until(now);
    if let Some(attempt) = admitted.attempts.last() {
        engine
            .journal
            .attempts
            .end(&admitted.identity, attempt, counted);
    }
    // If it is not taken, the process ends, and the delivery comes again.
    let _ = engine.dispatcher.take(admitted);
}
