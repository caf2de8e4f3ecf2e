//! From a delivery to a staged job: read, looked up, matched with the pool's targets.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::flow::is_name;
use forebay_schemas::job::is_id;
use forebay_schemas::{
    Attempt, Class, Completion, Flow, Identity, Job, OnAmbiguous, Reason, Status,
};
use serde::Deserialize;
use tokio::time::Instant;
use tracing::warn;

use crate::choices::Choices;
use crate::claim::{Claim, Stage};
use crate::content::{self, Content};
use crate::crash::{self, Point};
use crate::dispatch::LONGEST_REST;
use crate::engine::Engine;
use crate::finish;
use crate::join::Join;
use crate::journal::Work;
use crate::large::at_length;
use crate::matching::{Match, matching};
use crate::outcome::Outcome;
use crate::outcome::Refusal;
use crate::queue::{Delivery, Queue, Reading};
use crate::results::Record;
use crate::running::Arrival;
use crate::share::Share;
use crate::staged::{End, Staged};
use crate::until_done::retry_until_done;
use crate::upstream::Upstream;
use forebay_providers::cost::Cost;
use forebay_providers::file_of;
use forebay_providers::registry::Merges;

/// What the fingerprint of a message that cannot be read begins with.
const NO_JOB: &str = "not a job: ";
/// What a producer can ask for: nobody tries a job so often.
const MOST_REVISIONS: u32 = 1_000_000;

/// Takes a delivery in. What can be called goes to the dispatcher; everything else is answered here.
pub(crate) async fn admit<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    reading: &Reading,
    delivery: Delivery,
    stage: &Arc<Stage>,
) {
    crash::at(Point::Delivered);
    let claim = Claim::unread(&delivery, engine.held.hold(delivery.receipt.clone()), stage);
    match delivery.object.clone() {
        None => take_in(engine, reading, delivery, claim, Content::Message).await,
        Some(object) => {
            // Whoever fetches much does not hold up the others of the flow.
            let (engine, reading) = (Arc::clone(engine), reading.clone());
            tokio::spawn(async move {
                let mut claim = claim;
                let content = content::fetch(&engine, &reading.flow.team, object, &mut claim).await;
                crash::at(Point::Fetched);
                take_in(&engine, &reading, delivery, claim, content).await;
            });
        }
    }
}

async fn take_in<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    reading: &Reading,
    delivery: Delivery,
    claim: Claim,
    content: Content,
) {
    let flow = &reading.flow;
    let name = delivery.unique_id.clone();
    let guilty = engine.journal.suspects.guilty(&name);
    let message = engine.journal.suspects.around(Work::Reading, &name, || {
        if guilty != Some(Work::Reading) {
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
            Arrival::First(claim, entry) => (claim, entry, false),
            Arrival::Waits => return,
            Arrival::Conflict(claim, entry) => (claim, entry, true),
        };
    let wait = message
        .job
        .not_before
        .and_then(|at| Duration::try_from(at.duration_since(engine.clock.now())).ok());
    let mut staged = Staged {
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
        choices: Choices::default(),
        reason: Reason::default(),
        here_since: None,
        interrupted: false,
        cost: Cost::default(),
        attempts: message.attempts,
        counted: message.counted,
        place: None,
        share: None,
        join: None,
        last_error: None,
    };
    if conflicts {
        return go_on(engine, staged, Next::Conflict);
    }
    if file_of(&staged.job).is_some() {
        // Nor does whoever fetches a file.
        let engine = Arc::clone(engine);
        tokio::spawn(async move {
            let next = next(&engine, &mut staged, message.refusal).await;
            go_on(&engine, staged, next);
        });
        return;
    }
    let next = next(engine, &mut staged, message.refusal).await;
    go_on(engine, staged, next);
}

fn go_on<Q: Queue, U: Upstream>(engine: &Arc<Engine<Q, U>>, staged: Staged, next: Next) {
    staged.entry.is_for(staged.revision);
    if matches!(next, Next::Call) {
        staged.entry.admitted();
        crash::at(Point::Admitted);
        // If it is not taken, the process ends, and the delivery comes again.
        let _ = engine.dispatcher.take(staged);
        return;
    }
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        match next {
            Next::Call => {}
            Next::Conflict => finish::conflict(&engine, staged).await,
            Next::SetAside(refusal) => finish::set_aside(&engine, staged, refusal).await,
            Next::AnswerAgain(record) => finish::answer_again(&engine, staged, *record).await,
            Next::End(end) => finish::finish(&engine, staged, *end).await,
        }
    });
}

/// What is done with a message.
enum Next {
    Call,
    /// Another request has the identity.
    Conflict,
    /// There is no subject for a completion.
    SetAside(Refusal),
    AnswerAgain(Box<Record>),
    End(Box<End>),
}

async fn next<Q: Queue, U>(
    engine: &Engine<Q, U>,
    staged: &mut Staged,
    refusal: Option<Refusal>,
) -> Next {
    let odd = engine
        .addressing
        .refusal(&staged.flow, &engine.teams, staged.delivery.format);
    if let Some(refusal) = odd.clone().filter(|_| !is_name(&staged.flow.team)) {
        return Next::SetAside(refusal);
    }
    if let Some(next) = next_of_answered(engine, staged, refusal.as_ref()).await {
        return next;
    }
    let interrupted = recall(engine, staged);
    let mut refusal = odd.or(refusal);
    // One that waits for its time is delivered again then.
    let waits = staged
        .not_before
        .is_some_and(|at| at > Instant::now() + LONGEST_REST);
    if refusal.is_none() && interrupted.is_none() && !waits {
        refusal = content::attach(
            engine,
            &mut staged.job,
            &staged.flow.team,
            &mut staged.claim,
        )
        .await
        .err();
    }
    let end = match refusal.or_else(|| choose(engine, staged)) {
        Some((code, message)) => Some(End::failed(code, message, Class::Rejected)),
        None => interrupted,
    };
    end.map_or(Next::Call, |end| Next::End(Box::new(end)))
}

/// What becomes of a job by the result that its identity already has; `None` if it is called all the same.
async fn next_of_answered<Q: Queue, U>(
    engine: &Engine<Q, U>,
    staged: &mut Staged,
    refusal: Option<&Refusal>,
) -> Option<Next> {
    // What failed before this revision began does not count for it.
    let answered = answered(engine, staged).await;
    let is_unknown =
        refusal.is_some_and(content::is_gone) && staged.fingerprint.starts_with(NO_JOB);
    if let (Some(record), true) = (&answered, is_unknown) {
        // Which request it was can no longer be told; its publisher put it there for this identity.
        staged.fingerprint.clone_from(&record.fingerprint);
    }
    if let Some(record) = &answered
        && record.completion.is_final()
        && record.fingerprint != staged.fingerprint
    {
        return Some(Next::Conflict);
    }
    let counts = |record: &Record| {
        record.completion.revision >= staged.revision
            || record.completion.status == Status::Succeeded
    };
    if let Some(record) = answered.filter(counts) {
        let same = record.fingerprint == staged.fingerprint;
        let same_message = record.message.as_ref() == Some(&staged.delivery.unique_id);
        if record.completion.is_final() || (same && same_message) {
            return Some(Next::AnswerAgain(Box::new(record)));
        }
        staged.revision = record.completion.revision.saturating_add(1);
    }
    None
}

/// Adds the calls that were made for the job before it was delivered now. Returns its end, if it must not be called
/// again because nobody knows what became of the last of them.
fn recall<Q, U>(engine: &Engine<Q, U>, staged: &mut Staged) -> Option<End> {
    let past =
        engine
            .journal
            .attempts
            .recall(&staged.identity, &staged.fingerprint, staged.revision)?;
    for attempt in past.attempts {
        let same = |known: &Attempt| {
            (known.started_at, &known.account) == (attempt.started_at, &attempt.account)
        };
        if !staged.attempts.iter().any(same) {
            staged.note(attempt);
        }
    }
    staged.counted = staged.counted.max(past.counted);
    staged.interrupted = past.unknown;
    // An end of this process is no failure of the provider's: it uses up no attempt.
    let gives_up = past.unknown && staged.job.on_ambiguous == OnAmbiguous::Fail;
    gives_up.then(|| End::of(Outcome::of_interrupted()))
}

/// A delivery as it was read.
struct Message {
    job: Job,
    identity: Identity,
    fingerprint: String,
    delivery: Delivery,
    claim: Claim,
    attempts: Vec<Attempt>,
    counted: u32,
    revision: u32,
    refusal: Option<Refusal>,
}

fn read<Q, U>(
    engine: &Engine<Q, U>,
    flow: &Flow,
    mut delivery: Delivery,
    mut claim: Claim,
    content: Content,
    guilty: Option<Work>,
) -> Message {
    let known = delivery.state.take();
    let (mut identity, job, mut refusal) = match guilty {
        // It must not even be looked at again.
        Some(Work::Reading) => (identity_of(flow, None, None, &delivery), None, None),
        _ if let Content::Missing(refusal) = content => {
            (lenient_identity(flow, &delivery), None, Some(refusal))
        }
        _ => match Job::parse_as(content.of(&delivery), delivery.format) {
            Ok(job) => (
                identity_of(flow, job.own_id(), job.batch.clone(), &delivery),
                Some(job),
                None,
            ),
            Err(error) => (
                lenient_identity(flow, &delivery),
                None,
                Some(("invalid_job", error.to_string())),
            ),
        },
    };
    let kept = known
        .as_ref()
        .map(|known| known.fingerprint.clone())
        .filter(|kept| !kept.is_empty());
    // One that was sent to another pool is the same request still, and so is one whose object is gone.
    let fingerprint = kept.or_else(|| Some(job.as_ref()?.fingerprint(&flow.pool)));
    let fingerprint = fingerprint.unwrap_or_else(|| format!("{NO_JOB}{}", delivery.unique_id));
    // What stands in for the job of a message that is none.
    let job = job.unwrap_or_default();
    if guilty.is_some() {
        let message =
            "the worker ended twice while it worked on this job, which is therefore set aside";
        refusal = Some(("killed_worker", message.to_owned()));
    }
    let asked = [job.reply_to.clone(), delivery.reply_to.clone()]
        .into_iter()
        .flatten();
    let prefixes = engine.team(&flow.team).reply_prefixes;
    let (mut replies, not_allowed): (Vec<_>, Vec<_>) =
        asked.partition(|subject| may_reply(subject, &flow.team, &prefixes));
    let (mut attempts, mut counted, mut revision) = (
        Vec::new(),
        0,
        delivery.revision.unwrap_or(1).clamp(1, MOST_REVISIONS),
    );
    if let Some(known) = known {
        identity.id = known.id;
        replies.extend(known.replies);
        delivery.published = known.published;
        (attempts, counted, revision) = (known.attempts, known.counted, known.revision);
    }
    claim.published = delivery.published;
    claim.revision = revision;
    claim.deadline = job.deadline;
    claim.tried = !attempts.is_empty();
    claim.replies = replies;
    let refusal = refusal.or_else(|| Some(("invalid_job", delivery.problem.take()?)));
    let refusal = refusal.or_else(|| Some(refused_reply(not_allowed.first()?, flow)));
    Message {
        job,
        identity,
        fingerprint,
        delivery,
        claim,
        attempts,
        counted,
        revision,
        refusal,
    }
}

/// What the store says of an identity whose record it cannot read.
struct Damaged;

/// The record of an answer that this identity has: from the store, and for what may have been worked on
/// elsewhere, or where the store lacks some, also from the stream of completions.
async fn answered<Q: Queue, U>(engine: &Engine<Q, U>, staged: &Staged) -> Option<Record> {
    let now = engine.clock.now();
    // What cannot be looked up for now may be there; what is damaged is not.
    let stored = retry_until_done("looking up a result", async || {
        match engine.results.answered(&staged.identity, now) {
            Err(error) if !error.is_passing() => {
                warn!(%error, "a result cannot be looked up");
                Ok(Err(Damaged))
            }
            looked_up => looked_up.map(Ok),
        }
    });
    match stored.await {
        Ok(Some(record)) => return Some(record),
        Ok(None) if engine.results_are_complete && !staged.delivery.redelivered => return None,
        Ok(None) | Err(Damaged) => {}
    }
    let published = retry_until_done("looking up a completion", || {
        engine.queue.completion(&staged.identity)
    })
    .await?;
    let counts = |completion: &Completion| {
        published.published >= engine.results.horizon(now)
            && completion.identity() == staged.identity
    };
    let completion = published.completion.filter(counts)?;
    // One that does not say which request it was is taken to be that of this delivery.
    let fingerprint = published
        .fingerprint
        .unwrap_or_else(|| staged.fingerprint.clone());
    Some(Record {
        fingerprint,
        message: published.message,
        completion,
    })
}

/// As [`choose_targets`], marked: what a job costs is told by its own bytes.
fn choose<Q, U>(engine: &Engine<Q, U>, staged: &mut Staged) -> Option<Refusal> {
    let name = staged.delivery.unique_id.clone();
    let size = staged.job.size();
    engine.journal.suspects.around(Work::Calling, &name, || {
        at_length(size, || choose_targets(engine, staged))
    })
}

/// Sets the targets that may serve a job and its cost; or says why there is none.
fn choose_targets<Q, U>(engine: &Engine<Q, U>, staged: &mut Staged) -> Option<Refusal> {
    let counts_tokens = engine.caps.contains_key(&staged.flow.team);
    let Match {
        pool,
        choices,
        cost,
        refusal,
    } = match matching(&engine.pools, &staged.flow.pool, &staged.job, counts_tokens) {
        Ok(found) => found,
        Err(refusal) => return Some(refusal),
    };
    (staged.choices, staged.cost) = (choices, cost);
    // An end of this process is no failure of the provider's.
    let told =
        staged.attempts.len() - usize::from(staged.interrupted && !staged.attempts.is_empty());
    staged
        .choices
        .recall(&staged.attempts[..told], &engine.pools);
    // One that was sent to another pool is asked something else there than it was first.
    let asks_this = |_: &Share| staged.fingerprint == staged.job.fingerprint(&staged.flow.pool);
    staged.share = Share::of(&staged.job, pool.cache).filter(asks_this);
    staged.join = pool.merge.then(|| join(engine, staged)).flatten();
    refusal
}

/// How a job can travel with others. Its flow is read further where it can, as far as one request reaches.
fn join<Q, U>(engine: &Engine<Q, U>, staged: &Staged) -> Option<Join> {
    // One over which the process ended is worked on alone.
    if engine.journal.suspects.suspects(&staged.delivery.unique_id) {
        return None;
    }
    let join = Join::of(&staged.job, &staged.flow.pool)?;
    // One text that is too long by all that is known would be refused, and all others with it.
    let likely = staged.cost.input_tokens * 3 / 4;
    if join.inputs == 1 && staged.choices.are_too_small_for(likely) {
        return None;
    }
    let targets = staged
        .choices
        .left()
        .iter()
        .map(|choice| &engine.pools.targets()[choice.target]);
    let saving = targets.filter(|target| target.account.counts_calls(&target.model));
    let joins = saving.map(|target| target.account.config().endpoint.provider.merges);
    // So many like it fit one request.
    let like_it = |joins: Merges| {
        let by_tokens = joins.tokens / staged.cost.input_tokens.max(1);
        (joins.inputs / join.inputs).min(usize::try_from(by_tokens).unwrap_or(usize::MAX))
    };
    let others = joins
        .map(like_it)
        .max()?
        .checked_sub(1)
        .filter(|others| *others > 0)?;
    staged.claim.travels_with(others);
    Some(join)
}

fn identity_of(
    flow: &Flow,
    own: Option<&str>,
    batch: Option<String>,
    delivery: &Delivery,
) -> Identity {
    let id = own
        .map(str::to_owned)
        .or_else(|| delivery.message_id.clone().filter(|id| is_id(id)))
        .unwrap_or_else(|| delivery.unique_id.clone());
    Identity {
        team: flow.team.clone(),
        batch,
        id,
    }
}

/// The identity of a message that is no job, as far as it can be read.
fn lenient_identity(flow: &Flow, delivery: &Delivery) -> Identity {
    #[derive(Deserialize, Default)]
    struct Named {
        id: Option<String>,
        custom_id: Option<String>,
        batch: Option<String>,
    }
    let named: Named = serde_json::from_slice(&delivery.payload).unwrap_or_default();
    let own = named.id.or(named.custom_id).filter(|id| is_id(id));
    identity_of(
        flow,
        own.as_deref(),
        named.batch.filter(|batch| is_name(batch)),
        delivery,
    )
}

fn refused_reply(subject: &str, flow: &Flow) -> Refusal {
    let message = format!(
        "reply_to `{subject}` is not allowed: use a subject without wildcards that begins with _INBOX., \
         _INBOX_{}. or a prefix configured for the team",
        flow.team
    );
    ("invalid_reply_to", message)
}

/// Forebay publishes on a producer's word to inboxes and to the team's configured prefixes alone.
pub(crate) fn may_reply(subject: &str, team: &str, prefixes: &[String]) -> bool {
    let literal = !subject.is_empty()
        && subject.len() <= 512
        && subject
            .split('.')
            .all(|token| !token.is_empty() && !token.contains(['*', '>']))
        && !subject.contains(|c: char| c.is_whitespace() || c.is_control());
    let own_inbox = format!("_INBOX_{team}.");
    let allowed = ["_INBOX.", &own_inbox]
        .into_iter()
        .chain(prefixes.iter().map(String::as_str));
    literal
        && allowed
            .into_iter()
            .any(|prefix| subject.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_to_inboxes_and_configured_prefixes_alone() {
        let prefixes = ["acme.answers.".to_owned()];
        for subject in ["_INBOX.abc.1", "_INBOX_acme.abc", "acme.answers.7"] {
            assert!(may_reply(subject, "acme", &prefixes), "{subject}");
        }
        for subject in [
            "$JS.API.STREAM.DELETE.AI_JOBS",
            "ai.jobs.chat",
            "_INBOX_other.abc",
            "_INBOX",
            "_INBOX.",
            "_INBOX.*",
            "_INBOX.>",
            "_INBOX..a",
            "_INBOX.a b",
            "_INBOX.a\r\nPUB x",
            "",
        ] {
            assert!(!may_reply(subject, "acme", &prefixes), "{subject}");
        }
    }
}
