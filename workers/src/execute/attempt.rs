//! One attempt: encoded, authorised, journalled, sent, classified, noted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use forebay_schemas::{Attempt, Class, OnAmbiguous};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use crate::accounts::Permit;
use crate::clock::millis_between;
use crate::crash::{self, CrashPoint};
use crate::execute::merged_call::MergedCall;
use crate::job::admitted_job::AdmittedJob;
use crate::large::at_length;
use crate::outcome::outcome::CallOutcome;
use crate::store::journal::WorkStep;
use crate::until_done::retry_until_done;
use crate::upstream::{self, ReceivedReply, Upstream};
use crate::worker_state::WorkerState;
use forebay_providers::Reply;
use forebay_providers::Unsupported;
use forebay_providers::price::Prices;

/// Makes the permitted call; what it turned out to be is noted in each of its jobs and returned.
pub(crate) async fn attempt<Q, U: Upstream>(
    engine: &WorkerState<Q, U>,
    party: &mut MergedCall,
    target: usize,
    permit: &Permit,
) -> CallOutcome {
    let started = engine.clock.now();
    let received = send(engine, party, permit, started).await;
    crash::at(CrashPoint::Answered);
    let (reply, place) = match received {
        Ok(ReceivedReply { reply, place }) => (Ok(reply), place),
        Err(unsent) => (Err(unsent), None),
    };
    let bytes = reply.as_ref().map_or(0, |reply| reply.body.len());
    let prices = engine.pools.target(target).prices.as_deref();
    let classify = || classify(engine, party, prices, permit, reply);
    let outcome = at_length(bytes + party.job().size(), || {
        working(engine, party, classify)
    });
    engine.sizes.learn(target, &party.sized(&outcome, bytes));
    // What is tried again waits without its answer.
    let place = place.filter(|_| outcome.class.is_none()).map(Arc::new);
    crash::at(CrashPoint::Classified);
    let (now, jobs) = (engine.clock.now(), party.members().len());
    for admitted in party.members_mut() {
        admitted.place.clone_from(&place);
        if outcome.was_not_made() {
            continue;
        }
        let attempt = Attempt {
            duration_ms: millis_between(started, now),
            outcome: outcome.name().to_owned(),
            status_code: outcome.status_code,
            ..unanswered(admitted, jobs, permit, started)
        };
        admitted.note(attempt);
        admitted.waiting_since = now;
    }
    outcome
}

/// Works on what the jobs asked or were answered, so that the next process knows it if this one ends over it.
fn working<Q, U, T>(engine: &WorkerState<Q, U>, party: &MergedCall, act: impl FnOnce() -> T) -> T {
    let names = party
        .members()
        .iter()
        .map(|admitted| admitted.delivery.unique_id.as_str());
    engine
        .journal
        .suspects
        .around_all(WorkStep::Calling, names, || {
            party
                .members()
                .iter()
                .for_each(|admitted| crash::over("calling", &admitted.delivery.payload));
            act()
        })
}

async fn send<Q, U: Upstream>(
    engine: &WorkerState<Q, U>,
    party: &MergedCall,
    permit: &Permit,
    started: Timestamp,
) -> Result<ReceivedReply, SendFailure> {
    let config = permit.account().config();
    let encode = || config.endpoint.encode(party.job(), permit.model());
    let encoded = at_length(party.job().size(), || working(engine, party, encode));
    let mut request = encoded.map_err(SendFailure::Inexpressible)?;
    request.account.clone_from(&config.name);
    let secret = &permit.key().secret;
    config
        .endpoint
        .authorise(&mut request, secret, started)
        .map_err(SendFailure::UnusableKey)?;
    let jobs = party.members().len();
    for admitted in party.members() {
        if begin(
            engine,
            admitted,
            &unanswered(admitted, jobs, permit, started),
        )
        .await
            == JournalTiming::Late
        {
            return Err(SendFailure::Late);
        }
    }
    crash::at(CrashPoint::Journalled);
    let stamp = permit.stamp();
    let sent = move |at| {
        stamp.sent(at);
        crash::at(CrashPoint::Sending);
    };
    engine
        .upstream
        .send(request, sent)
        .await
        .map_err(SendFailure::Upstream)
}

/// Whether a call was journalled when it was to be made.
#[derive(PartialEq, Eq)]
enum JournalTiming {
    InTime,
    /// Only after a while, in which its deadline may have passed or an order been given.
    Late,
}

/// Journals a call before it is made. Where it must not be made twice, this survives a power loss too; else a
/// call is not held up by a disk that is full.
async fn begin<Q, U>(
    engine: &WorkerState<Q, U>,
    admitted: &AdmittedJob,
    attempt: &Attempt,
) -> JournalTiming {
    let attempts = &engine.journal.attempts;
    let write = || {
        attempts.begin(
            &admitted.identity,
            (&admitted.fingerprint, admitted.revision),
            attempt,
        )
    };
    match admitted.job.on_ambiguous {
        OnAmbiguous::Retry => {
            if let Err(error) = write() {
                warn!(%error, "a call cannot be journalled");
            }
            JournalTiming::InTime
        }
        OnAmbiguous::Fail => {
            let tries = AtomicU32::new(0);
            retry_until_done("journalling a call", async || {
                tries.fetch_add(1, Ordering::Relaxed);
                write()?;
                attempts.sync().await
            })
            .await;
            if tries.into_inner() == 1 {
                JournalTiming::InTime
            } else {
                JournalTiming::Late
            }
        }
    }
}

/// Why there is no reply.
enum SendFailure {
    /// The provider has no way to say what the job asks.
    Inexpressible(Unsupported),
    /// The key cannot be sent.
    UnusableKey(String),
    /// It could not be journalled when it was to be made; it waits for its next turn.
    Late,
    /// The network, or the provider.
    Upstream(upstream::Error),
}

fn classify<Q, U>(
    engine: &WorkerState<Q, U>,
    party: &MergedCall,
    prices: Option<&Prices>,
    permit: &Permit,
    reply: Result<Reply, SendFailure>,
) -> CallOutcome {
    let job = party.job();
    match reply {
        Ok(reply) => {
            let endpoint = &permit.account().config().endpoint;
            let now = engine.clock.now();
            permit.observe(&endpoint.observe(&reply.headers, now), Instant::now());
            let decoded = endpoint.decode(job, permit.model(), &reply, now);
            let outcome =
                CallOutcome::of_reply(decoded, reply.status, (&permit.key().secret, prices), job);
            party.checked(outcome)
        }
        Err(SendFailure::Upstream(error)) => CallOutcome::of_error(&error),
        Err(SendFailure::Inexpressible(unsupported)) => CallOutcome::local(
            Class::BadRequest,
            unsupported.obstacle.code(),
            unsupported.to_string(),
        ),
        Err(SendFailure::Late) => CallOutcome::of_unjournalled(),
        Err(SendFailure::UnusableKey(problem)) => {
            CallOutcome::local(Class::BadKey, "unusable_key", problem)
        }
    }
}

/// A call as it is if nothing is ever known of it but that it began.
fn unanswered(admitted: &AdmittedJob, jobs: usize, permit: &Permit, started: Timestamp) -> Attempt {
    let config = permit.account().config();
    Attempt {
        account: config.name.clone(),
        key: permit.key().name.clone(),
        provider: config.endpoint.provider.name.clone(),
        model: permit.model().to_owned(),
        started_at: started,
        waited_ms: millis_between(admitted.waiting_since, started),
        duration_ms: 0,
        outcome: Class::NetAfterSend.as_str().to_owned(),
        status_code: None,
        jobs: u32::try_from(jobs).ok().filter(|jobs| *jobs > 1),
    }
}
