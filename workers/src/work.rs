//! One job from its permit to its end: the spine.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::completion::CompletionError;
use forebay_schemas::{Attempt, Class, Status};
use tokio::time::Instant;

use crate::clock::millis_between;
use crate::engine::Engine;
use crate::finish;
use crate::outcome::Outcome;
use crate::queue::Queue;
use crate::quota::{Cost, Permit};
use crate::retry::{Effect, Verdict};
use crate::staged::{End, Staged};
use crate::upstream::{self, Reply, Upstream};

/// How long a provider may go on with a call that was given up on.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(600);

/// Makes the permitted call and does what its outcome asks for.
pub(crate) async fn work<Q: Queue, U: Upstream>(
    engine: Arc<Engine<Q, U>>,
    mut staged: Staged,
    target: usize,
    mut permit: Permit,
) {
    let started = engine.clock.now();
    let reply = send(&engine, &staged, &permit).await;
    let outcome = classify(&engine, &permit, reply);
    note_attempt(&engine, &mut staged, &permit, &outcome, started);

    let (verdict, effect) =
        engine.policy.decide(&outcome, staged.counted, staged.job.on_ambiguous, &mut *engine.rng());
    apply(&mut permit, &outcome, effect);
    drop(permit);

    match verdict {
        Verdict::Finish => finish::finish(&engine, staged, end_of(outcome)).await,
        Verdict::Again { counted, backoff } => {
            staged.counted += u32::from(counted);
            staged.not_before = Some(Instant::now() + backoff);
            again(&engine, staged);
        }
        Verdict::Elsewhere => {
            staged.targets.retain(|(other, _)| *other != target);
            staged.last_error = Some(error_of(&outcome));
            if staged.targets.is_empty() {
                finish::finish(&engine, staged, end_of(outcome)).await;
            } else {
                again(&engine, staged);
            }
        }
    }
}

async fn send<Q: Queue, U: Upstream>(
    engine: &Engine<Q, U>,
    staged: &Staged,
    permit: &Permit,
) -> Result<Reply, Unsent> {
    let config = permit.quota().config();
    let mut request = config
        .adapter
        .encode(&staged.job, permit.model(), &config.base_url)
        .map_err(Unsent::Inexpressible)?;
    config.adapter.authorise(&mut request.headers, &permit.key().secret).map_err(Unsent::UnusableKey)?;
    let stamp = permit.stamp();
    engine.upstream.send(request, move |at| stamp.sent(at)).await.map_err(Unsent::Upstream)
}

/// Why there is no reply.
enum Unsent {
    /// The provider has no way to say what the job asks.
    Inexpressible(String),
    /// The key cannot be sent.
    UnusableKey(String),
    /// The network, or the provider.
    Upstream(upstream::Error),
}

fn classify<Q, U>(engine: &Engine<Q, U>, permit: &Permit, reply: Result<Reply, Unsent>) -> Outcome {
    match reply {
        Ok(reply) => {
            let decoded = permit.quota().config().adapter.decode(&reply, engine.clock.now());
            Outcome::of_reply(decoded, reply.status, &permit.key().secret)
        }
        Err(Unsent::Upstream(error)) => Outcome::of_error(&error),
        Err(Unsent::Inexpressible(problem)) => Outcome::local(Class::BadRequest, "unsupported", problem),
        Err(Unsent::UnusableKey(problem)) => Outcome::local(Class::BadKey, "unusable_key", problem),
    }
}

fn note_attempt<Q, U>(
    engine: &Engine<Q, U>,
    staged: &mut Staged,
    permit: &Permit,
    outcome: &Outcome,
    started: jiff::Timestamp,
) {
    let now = engine.clock.now();
    let config = permit.quota().config();
    staged.attempts.push(Attempt {
        quota: config.name.clone(),
        key: permit.key().name.clone(),
        provider: config.provider.clone(),
        model: permit.model().to_owned(),
        started_at: started,
        waited_ms: millis_between(staged.waiting_since, started),
        took_ms: millis_between(started, now),
        outcome: outcome.name().to_owned(),
        status_code: outcome.status_code,
    });
    staged.waiting_since = now;
}

fn apply(permit: &mut Permit, outcome: &Outcome, effect: Effect) {
    let now = Instant::now();
    if let Some(usage) = outcome.usage {
        let actual =
            Cost { requests: 1, input_tokens: usage.input_tokens, output_tokens: usage.output_tokens };
        let settles = permit.quota().config().adapter.settles();
        permit.settle(actual, settles);
    }
    if outcome.class == Some(Class::NetAfterSend) {
        permit.abandoned(now, PROVIDER_TIMEOUT);
    }
    let class = outcome.class.unwrap_or(Class::ServerError);
    match effect {
        Effect::None => {}
        Effect::Refused(wait) => permit.refused(outcome.speaks_of_key, class, wait, now),
        Effect::CoolModel(wait) => permit.cool(false, class, wait, now),
        Effect::DisableKey => permit.disable_key(class),
        Effect::DisableQuota => permit.quota().disable(class),
        Effect::DisableModel => permit.quota().disable_model(permit.model(), class),
    }
}

fn again<Q, U>(engine: &Engine<Q, U>, staged: Staged) {
    // Nobody receives any more only when the process ends; the delivery then comes again.
    let _ = engine.stage.send(staged);
}

fn error_of(outcome: &Outcome) -> CompletionError {
    CompletionError {
        code: outcome.code.clone(),
        message: outcome.message.clone(),
        class: outcome.class.unwrap_or(Class::ServerError),
    }
}

fn end_of(outcome: Outcome) -> End {
    match outcome.class {
        None => {
            End { status: Status::Succeeded, response: outcome.response, error: None, usage: outcome.usage }
        }
        Some(_) => End {
            status: Status::Failed,
            error: Some(error_of(&outcome)),
            response: outcome.response,
            usage: None,
        },
    }
}
