//! From an end to an acked job: persisted, completed, copied, acked; in that order and no other. A job
//! that has to wait for itself is postponed instead, and acked.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::{Class, Completion, Status};
use jiff::Timestamp;
use tracing::warn;

use crate::claim::Claim;
use crate::crash::{self, Point};
use crate::engine::Engine;
use crate::outcome::Refusal;
use crate::queue::{DeadLetter, Letter, Postponed, Publication, Published, Queue, Standing, State};
use crate::results::Record;
use crate::running::Followers;
use crate::staged::{End, Staged};
use crate::until_done::{FIRST_PAUSE, LONGEST_PAUSE, retry_until_done};
use crate::upstream::Upstream;

/// Ends a job.
pub(crate) async fn finish<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    mut staged: Staged,
    end: End,
) {
    let completion = staged.completion(end);
    let record = Record {
        fingerprint: staged.fingerprint.clone(),
        message: Some(staged.delivery.unique_id.clone()),
        completion,
    };
    persist(engine, &staged, &record).await;
    crash::at(Point::Stored);
    keep(engine, &staged, &record.completion).await;
    over(engine, &staged);
    make_way_if_refused(engine, &mut staged, &record).await;
    let Some(record) = complete(engine, &staged, record).await else {
        return conflict(engine, staged).await;
    };
    crash::at(Point::Completed);
    if let Some(lead) = staged.share.as_mut().and_then(|share| share.lead.as_mut()) {
        lead.ended(&record.completion);
    }
    engine.counters.count(&record.completion);
    if record.completion.status == Status::Failed {
        bury(engine, &staged, &record.completion).await;
        crash::at(Point::Buried);
    }
    release(engine, staged, &record.completion).await;
}

/// A refusal answers one message alone. Whoever reads it may publish the job again, mended, before this
/// delivery is acked; and who came meanwhile is looked at anew.
async fn make_way_if_refused<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    staged: &mut Staged,
    record: &Record,
) {
    if record.completion.is_final() {
        return;
    }
    let admitted = staged.entry.is_admitted();
    let Followers { same, others } = staged.entry.end();
    // Of what had been admitted, a repetition would come to the same end, one by one: it ends with this.
    // One that was called before has attempts of its own to tell of.
    let now = engine.clock.now();
    let expired = record.completion.status == Status::Expired;
    let is_late = |claim: &Claim| claim.deadline.is_some_and(|deadline| deadline <= now);
    let cancelled = record.completion.status == Status::Cancelled;
    let is_cancelled = |claim: &Claim| engine.orders.cancels(&staged.identity, claim.published);
    let (joined, anew): (Vec<_>, Vec<_>) = same.into_iter().partition(|claim| {
        let ends_alike = (!expired || is_late(claim)) && (!cancelled || is_cancelled(claim));
        admitted && !claim.tried && ends_alike
    });
    staged.joined = joined;
    give_back(engine, anew.into_iter().chain(others)).await;
}

/// Ends a job with the answer that is kept of another one, if one is that is no older than `within`; else it is called.
pub(crate) async fn answer_from_cache<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    staged: Staged,
    within: Duration,
) {
    let now = engine.clock.now();
    let since = now.checked_sub(within).unwrap_or(Timestamp::MIN);
    let kept = || -> Result<Option<Record>, crate::results::Error> {
        let Some(of) = engine.results.kept(&staged.request(), since)? else {
            return Ok(None);
        };
        engine.results.answered(&of, now)
    };
    let found = kept()
        .inspect_err(|error| warn!(%error, "a kept answer cannot be read"))
        .ok()
        .flatten();
    let same = found.filter(|record| record.fingerprint == staged.fingerprint);
    if let Some(end) = same.and_then(|record| End::cached(&record.completion)) {
        return finish(engine, staged, end).await;
    }
    if let Err(mut staged) = engine.dispatcher.take(staged) {
        // The process ends.
        let Followers { same, others } = staged.entry.end();
        give_back(engine, same.into_iter().chain(others).chain([staged.claim])).await;
    }
}

/// Gives deliveries back, to be delivered again at once.
pub(crate) async fn give_back<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    claims: impl IntoIterator<Item = Claim>,
) {
    for claim in claims {
        engine.queue.give_back(claim.hold.receipt()).await;
    }
}

/// Moves a job that waits for itself out of this process. If the process ends between the two steps, the
/// job's delivery comes again and is moved again, which replaces the first move.
pub(crate) async fn postpone<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    mut staged: Staged,
    wait: Duration,
) {
    crash::at(Point::Postponing);
    let at = engine
        .clock
        .now()
        .checked_add(wait)
        .unwrap_or(Timestamp::MAX);
    let Followers { same, others } = staged.entry.end();
    let job = Postponed {
        flow: staged.flow.clone(),
        identity: staged.identity.clone(),
        // It must be here when its deadline passes.
        at: staged.job.deadline.map_or(at, |deadline| deadline.min(at)),
        state: State {
            id: staged.identity.id.clone(),
            fingerprint: staged.fingerprint.clone(),
            revision: staged.revision,
            published: staged.delivery.published,
            attempts: staged.attempts.clone(),
            counted: staged.counted,
            replies: std::iter::once(&staged.claim)
                .chain(&same)
                .flat_map(|c| c.replies.clone())
                .collect(),
            format: staged.delivery.format,
        },
        payload: staged.delivery.payload.clone(),
        object: staged.delivery.object.clone(),
        traceparent: staged.delivery.traceparent.clone(),
    };
    let mut job = job;
    let mut postponed =
        retry_until_done("scheduling a job", || engine.queue.postpone(job.clone())).await;
    if postponed && staged.is_cancelled(&engine.orders) {
        // Whoever cancelled it may have looked before it was there.
        job.at = engine.clock.now();
        postponed =
            retry_until_done("scheduling a job", || engine.queue.postpone(job.clone())).await;
    }
    crash::at(Point::Scheduled);
    give_back(engine, others).await;
    if !postponed {
        give_back(engine, same).await;
        return conflict(engine, staged).await;
    }
    over(engine, &staged);
    let objects = ack_all(engine, same.into_iter().chain([staged.claim])).await;
    crash::at(Point::Postponed);
    let of_repetitions = objects
        .into_iter()
        .filter(|object| Some(object) != job.object.as_ref());
    drop_objects(engine, of_repetitions).await;
}

/// Gives an identity that is answered its stored answer.
pub(crate) async fn answer_again<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    mut staged: Staged,
    record: Record,
) {
    over(engine, &staged);
    make_way_if_refused(engine, &mut staged, &record).await;
    // The process may have ended between the store and the publish.
    let Some(record) = complete(engine, &staged, record).await else {
        return conflict(engine, staged).await;
    };
    // It may also have ended between the publish and the dead letter.
    let is_ours = record.message.as_ref() == Some(&staged.delivery.unique_id);
    if is_ours && record.completion.status == Status::Failed {
        bury(engine, &staged, &record.completion).await;
    }
    release(engine, staged, &record.completion).await;
}

/// Sets aside a message whose identity is another request's, which has or will have its completion.
pub(crate) async fn conflict<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    mut staged: Staged,
) {
    // Each of them is told of the conflict by itself.
    give_back(engine, std::mem::take(&mut staged.joined)).await;
    let message = format!(
        "the identity {} is that of another request (other pool, url or body); use another id",
        staged.identity
    );
    set_aside(engine, staged, ("id_conflict", message)).await;
}

/// Sets aside a message that has no completion of its own: its publisher learns of it only where it
/// asked for a copy.
pub(crate) async fn set_aside<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    mut staged: Staged,
    (code, message): Refusal,
) {
    warn!(identity = %staged.identity, code, "a message is set aside: {message}");
    let completion = staged.completion(End::failed(code, message, Class::Rejected));
    bury(engine, &staged, &completion).await;
    release(engine, staged, &completion).await;
}

/// What is known of the job is kept, so the journal needs it no more.
fn over<Q, U>(engine: &Engine<Q, U>, staged: &Staged) {
    engine.journal.attempts.over(&staged.identity);
    engine.journal.suspects.forget(&staged.delivery.unique_id);
}

/// Stores a record, however long that takes; no calls are made meanwhile.
async fn persist<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    staged: &Staged,
    record: &Record,
) {
    let store = || {
        engine
            .results
            .store(&staged.identity, record, engine.clock.now())
    };
    let Err(error) = store().await else { return };
    warn!(%error, "a result cannot be stored; no call is made until that is mended");
    let _no_calls = engine.brake.cannot_store();
    retry_until_done("storing a result", store).await;
}

/// Keeps an answer for others that ask the same, if its job asks for that. They are called by themselves where that
/// fails.
async fn keep<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    staged: &Staged,
    completion: &Completion,
) {
    let asks = staged
        .share
        .as_ref()
        .is_some_and(|share| !share.within.is_zero());
    if !asks || completion.status != Status::Succeeded || completion.cached_from.is_some() {
        return;
    }
    if let Err(error) = engine
        .results
        .keep(&staged.request(), completion, engine.clock.now())
        .await
    {
        warn!(%error, "an answer cannot be kept for others that ask the same");
    }
}

/// Publishes the completion; if another was first, that one is the answer and is stored. `None` if that
/// one answers another request: the identity is not this job's.
async fn complete<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    staged: &Staged,
    record: Record,
) -> Option<Record> {
    let mut record = record;
    let mut replaces = 0;
    let mut pause = FIRST_PAUSE;
    let mut _few_calls = None;
    loop {
        let publication = Publication {
            completion: &record.completion,
            fingerprint: &record.fingerprint,
            message: record.message.as_deref(),
            traceparent: staged.delivery.traceparent.as_deref(),
            replaces,
        };
        let problem = match engine.queue.complete(publication).await {
            Ok(Published::First) => return Some(record),
            Ok(Published::Gone) => {
                replaces = 0;
                continue;
            }
            Ok(Published::Already(standing)) => {
                match judge(
                    *standing,
                    &record,
                    engine.results.horizon(engine.clock.now()),
                ) {
                    Judgement::Replace { sequence, revision } => {
                        replaces = sequence;
                        if record.completion.revision != revision {
                            record.completion.revision = revision;
                            persist(engine, staged, &record).await;
                        }
                        continue;
                    }
                    Judgement::Stands(standing) => {
                        // A newer answer may be stored by now where this one is not final.
                        if standing.completion.is_final() {
                            persist(engine, staged, &standing).await;
                        }
                        return (standing.fingerprint == record.fingerprint).then_some(*standing);
                    }
                }
            }
            Err(problem) => problem,
        };
        if _few_calls.is_none() {
            warn!(identity = %staged.identity, %problem, "a completion cannot be published yet");
            _few_calls = Some(engine.brake.cannot_publish());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What to do about the message that stands on a completion's subject.
enum Judgement {
    /// It is no answer that counts: replace it, as this revision.
    Replace { sequence: u64, revision: u32 },
    /// It is the identity's answer.
    Stands(Box<Record>),
}

/// Beyond the dedupe horizon an identity may be called again, so what stands there is replaced by the next
/// revision; so is what is not final, unless it is the answer to the same message, and what cannot be
/// read as a completion.
fn judge(standing: Standing, ours: &Record, horizon: Timestamp) -> Judgement {
    let (sequence, revision) = (standing.sequence, ours.completion.revision);
    let Some(completion) = standing.completion else {
        return Judgement::Replace { sequence, revision };
    };
    let same_message = ours.message.is_some() && standing.message == ours.message;
    let repeats_ours = same_message && !ours.completion.is_final();
    // Somebody else's, that was put there, is no answer to this.
    let ours_by_name = completion.identity() == ours.completion.identity();
    let counts = ours_by_name && standing.published >= horizon && completion.revision >= revision;
    if counts && (completion.is_final() || repeats_ours) {
        // One that does not say which request it answers is taken to answer ours.
        let fingerprint = standing
            .fingerprint
            .unwrap_or_else(|| ours.fingerprint.clone());
        return Judgement::Stands(Box::new(Record {
            fingerprint,
            message: standing.message,
            completion,
        }));
    }
    Judgement::Replace {
        sequence,
        revision: revision.max(completion.revision.saturating_add(1)),
    }
}

async fn bury<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    staged: &Staged,
    completion: &Completion,
) {
    let (code, message) = completion
        .error
        .as_ref()
        .map_or_else(Default::default, |error| {
            (error.code.clone(), error.message.clone())
        });
    let letter = Letter {
        pool: staged.flow.pool.clone(),
        team: staged.flow.team.clone(),
        batch: completion.batch.clone(),
        id: completion.id.clone(),
        revision: completion.revision,
        code,
        message,
        attempts: completion.attempts.clone(),
        format: staged.delivery.format,
    };
    let dead = DeadLetter {
        letter,
        delivery: staged.delivery.clone(),
    };
    retry_until_done("keeping a dead letter", || engine.queue.bury(dead.clone())).await;
}

async fn release<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    mut staged: Staged,
    completion: &Completion,
) {
    let Followers { same, others } = staged.entry.end();
    give_back(engine, others).await;
    let claims = same
        .into_iter()
        .chain(staged.joined)
        .chain([staged.claim])
        .collect();
    copy_and_ack(
        engine,
        claims,
        completion,
        staged.delivery.traceparent.as_deref(),
    )
    .await;
}

/// Sends a copy to everyone who asked for one, then acks every delivery.
async fn copy_and_ack<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    claims: Vec<Claim>,
    completion: &Completion,
    traceparent: Option<&str>,
) {
    let subjects: BTreeSet<_> = claims
        .iter()
        .flat_map(|claim| claim.replies.clone())
        .collect();
    if !subjects.is_empty()
        && let Err(error) = engine.queue.copy(subjects, completion, traceparent).await
    {
        warn!(%error, "copies of a completion cannot be sent");
    }
    crash::at(Point::Copied);
    let objects = ack_all(engine, claims).await;
    crash::at(Point::Acked);
    // A dead letter names the object that holds its job.
    if completion.status != Status::Failed {
        drop_objects(engine, objects).await;
    }
}

async fn drop_objects<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    objects: impl IntoIterator<Item = String>,
) {
    for object in objects {
        if let Err(error) = engine.queue.drop_object(&object).await {
            warn!(%error, object, "an object that is not needed any more cannot be deleted; it goes with time");
        }
        crash::at(Point::Dropped);
    }
}

/// Acks deliveries; returns the objects of those that will not come again.
async fn ack_all<Q: Queue, U: Upstream>(
    engine: &Arc<Engine<Q, U>>,
    claims: impl IntoIterator<Item = Claim>,
) -> BTreeSet<String> {
    let mut objects = BTreeSet::new();
    for claim in claims {
        match engine.queue.ack(claim.hold.receipt()).await {
            Ok(()) => objects.extend(claim.object),
            // The delivery comes again and is answered from the store.
            Err(error) => warn!(%error, "a job cannot be acknowledged; it will be delivered again"),
        }
    }
    objects
}
