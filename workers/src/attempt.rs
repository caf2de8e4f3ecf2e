//! One attempt: encoded, authorised, sent, classified, noted.

use forebay_schemas::{Attempt, Class};
use tokio::time::Instant;

use crate::clock::millis_between;
use crate::crash::{self, Point};
use crate::engine::Engine;
use crate::outcome::Outcome;
use crate::quota::Permit;
use crate::staged::Staged;
use crate::upstream::{self, Reply, Upstream};

/// Makes the permitted call; what it turned out to be is noted in the job and returned.
pub(crate) async fn attempt<Q, U: Upstream>(
    engine: &Engine<Q, U>,
    staged: &mut Staged,
    permit: &Permit,
) -> Outcome {
    let started = engine.clock.now();
    let reply = send(engine, staged, permit).await;
    crash::at(Point::Answered);
    let outcome = classify(engine, permit, reply);
    crash::at(Point::Classified);
    note(engine, staged, permit, &outcome, started);
    outcome
}

async fn send<Q, U: Upstream>(
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
    let sent = move |at| {
        stamp.sent(at);
        crash::at(Point::Sending);
    };
    engine.upstream.send(request, sent).await.map_err(Unsent::Upstream)
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
            let adapter = permit.quota().config().adapter;
            permit.observe(&adapter.observe(&reply.headers), Instant::now());
            let decoded = adapter.decode(&reply, engine.clock.now());
            Outcome::of_reply(decoded, reply.status, &permit.key().secret)
        }
        Err(Unsent::Upstream(error)) => Outcome::of_error(&error),
        Err(Unsent::Inexpressible(problem)) => Outcome::local(Class::BadRequest, "unsupported", problem),
        Err(Unsent::UnusableKey(problem)) => Outcome::local(Class::BadKey, "unusable_key", problem),
    }
}

fn note<Q, U>(
    engine: &Engine<Q, U>,
    staged: &mut Staged,
    permit: &Permit,
    outcome: &Outcome,
    started: jiff::Timestamp,
) {
    let now = engine.clock.now();
    let config = permit.quota().config();
    staged.note(Attempt {
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
