//! Reads a delivery: the job, its identity, and what is wrong with either.

use forebay_schemas::flow::is_name;
use forebay_schemas::job::is_id;
use forebay_schemas::{Attempt, Flow, Identity, Job};
use serde::Deserialize;

use crate::intake::payload::JobPayload;
use crate::job::delivery::HeldDelivery;
use crate::outcome::outcome::Rejection;
use crate::queue::{Delivery, DeliveryProblem, PostponedState};
use crate::store::journal::WorkStep;
use crate::worker_state::WorkerState;

/// How the fingerprint of a message begins that cannot be read.
pub(crate) const NO_JOB: &str = "not a job: ";
/// The code of a message that Forebay did not write, in a place where only Forebay writes.
const FOREIGN: &str = "foreign_message";
/// The highest revision that a producer can ask for.
const MAX_REVISION: u32 = 1_000_000;

/// A delivery that was read.
pub(crate) struct ReadMessage {
    /// The job; an empty one if the message cannot be read.
    pub(crate) job: Job,
    pub(crate) identity: Identity,
    pub(crate) fingerprint: String,
    pub(crate) delivery: Delivery,
    pub(crate) held: HeldDelivery,
    /// The attempts before it was postponed.
    pub(crate) attempts: Vec<Attempt>,
    /// How many of them count.
    pub(crate) counted: u32,
    pub(crate) revision: u32,
    /// Why the job cannot be called, if it cannot.
    pub(crate) rejection: Option<Rejection>,
}

/// Reads a delivery. `poisoned_at` is the step at which it ended the process twice, if it did.
pub(crate) fn read<Q, U>(
    state: &WorkerState<Q, U>,
    flow: &Flow,
    mut delivery: Delivery,
    mut held: HeldDelivery,
    payload: JobPayload,
    poisoned_at: Option<WorkStep>,
) -> ReadMessage {
    let postponed = delivery.state.take();
    let (mut identity, job, mut rejection) = match poisoned_at {
        // It must not even be parsed again.
        Some(WorkStep::Reading) => (identity_of(flow, None, None, &delivery), None, None),
        _ if delivery.problem == Some(DeliveryProblem::Foreign) => {
            (identity_of(flow, None, None, &delivery), None, None)
        }
        _ => parse(flow, &delivery, payload),
    };
    let fingerprint = fingerprint_of(flow, &delivery, job.as_ref(), postponed.as_ref());
    let job = job.unwrap_or_default();
    if poisoned_at.is_some() {
        let message =
            "the worker ended twice while it worked on this job, which is therefore set aside";
        rejection = Some(("killed_worker", message.to_owned()));
    }
    let prefixes = state.team(&flow.team).reply_prefixes;
    let reply_to = [job.reply_to.clone(), delivery.reply_to.clone()];
    let (mut replies, not_allowed): (Vec<_>, Vec<_>) = reply_to
        .into_iter()
        .flatten()
        .partition(|subject| may_reply(subject, &flow.team, &prefixes));
    let revision = delivery.revision.unwrap_or(1).clamp(1, MAX_REVISION);
    let (mut attempts, mut counted, mut revision) = (Vec::new(), 0, revision);
    if let Some(postponed) = postponed {
        identity.id = postponed.id;
        replies.extend(postponed.replies);
        delivery.published = postponed.published;
        (attempts, counted, revision) = (postponed.attempts, postponed.counted, postponed.revision);
    }
    held.published = delivery.published;
    held.revision = revision;
    held.deadline = job.deadline;
    held.tried = !attempts.is_empty();
    held.replies = replies;
    let rejection = rejection.or_else(|| delivery.problem.take().map(rejection_of));
    let rejection = rejection.or_else(|| not_allowed.first().map(|_| refused_reply(flow)));
    ReadMessage {
        job,
        identity,
        fingerprint,
        delivery,
        held,
        attempts,
        counted,
        revision,
        rejection,
    }
}

fn rejection_of(problem: DeliveryProblem) -> Rejection {
    match problem {
        DeliveryProblem::Foreign => {
            let message = "Forebay did not schedule the job that came back on this subject";
            (FOREIGN, message.to_owned())
        }
        DeliveryProblem::FormerWords(message) => ("invalid_job", message),
    }
}

/// Returns true if Forebay did not write the message, so that no completion belongs to it.
pub(crate) fn is_foreign((code, _): &Rejection) -> bool {
    *code == FOREIGN
}

/// The identity, the job if there is one, and why it cannot be called if it cannot.
fn parse(
    flow: &Flow,
    delivery: &Delivery,
    payload: JobPayload,
) -> (Identity, Option<Job>, Option<Rejection>) {
    if let JobPayload::Missing(rejection) = payload {
        return (lenient_identity(flow, delivery), None, Some(rejection));
    }
    match Job::parse_as(payload.of(delivery), delivery.format) {
        Ok(job) => {
            let identity = identity_of(flow, job.own_id(), job.batch.clone(), delivery);
            (identity, Some(job), None)
        }
        Err(error) => {
            let rejection = ("invalid_job", error.to_string());
            (lenient_identity(flow, delivery), None, Some(rejection))
        }
    }
}

/// The fingerprint that was computed before the job was postponed or moved to another pool: it is the same request still,
/// also if its object is gone. Otherwise that of the job.
fn fingerprint_of(
    flow: &Flow,
    delivery: &Delivery,
    job: Option<&Job>,
    postponed: Option<&PostponedState>,
) -> String {
    let before = postponed.map(|postponed| postponed.fingerprint.clone());
    let before = before.filter(|fingerprint| !fingerprint.is_empty());
    before
        .or_else(|| Some(job?.fingerprint(&flow.pool)))
        .unwrap_or_else(|| format!("{NO_JOB}{}", delivery.unique_id))
}

/// The identity: its id is the job's own, else the `Nats-Msg-Id`, else the message's unique id.
fn identity_of(
    flow: &Flow,
    own_id: Option<&str>,
    batch: Option<String>,
    delivery: &Delivery,
) -> Identity {
    let message_id = delivery.message_id.as_deref().filter(|id| is_id(id));
    let id = own_id.or(message_id).unwrap_or(&delivery.unique_id);
    Identity {
        team: flow.team.clone(),
        batch,
        id: id.to_owned(),
    }
}

/// The identity of a message that is no job, as far as it can be read.
fn lenient_identity(flow: &Flow, delivery: &Delivery) -> Identity {
    #[derive(Deserialize, Default)]
    struct NamedMessage {
        id: Option<String>,
        custom_id: Option<String>,
        batch: Option<String>,
    }
    let named: NamedMessage = serde_json::from_slice(&delivery.payload).unwrap_or_default();
    let own_id = named.id.or(named.custom_id);
    let own_id = own_id.filter(|id| is_id(id));
    let batch = named.batch.filter(|batch| is_name(batch));
    identity_of(flow, own_id.as_deref(), batch, delivery)
}

fn refused_reply(flow: &Flow) -> Rejection {
    let message = format!(
        "reply_to is not allowed: use a subject without wildcards that begins with _INBOX., \
         _INBOX_{}. or a prefix configured for the team",
        flow.team
    );
    ("invalid_reply_to", message)
}

/// Returns true if a producer of `team` may have copies published on `subject`: only inboxes and the team's configured
/// prefixes.
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
