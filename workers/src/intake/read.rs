//! A delivery as it is read: the job, its identity, and what is wrong with either.

use forebay_schemas::flow::is_name;
use forebay_schemas::job::is_id;
use forebay_schemas::{Attempt, Flow, Identity, Job};
use serde::Deserialize;

use crate::intake::payload::JobPayload;
use crate::job::delivery::HeldDelivery;
use crate::outcome::outcome::Rejection;
use crate::queue::Delivery;
use crate::store::journal::WorkStep;
use crate::worker_state::WorkerState;

/// What the fingerprint of a message that cannot be read begins with.
pub(crate) const NO_JOB: &str = "not a job: ";
/// What a producer can ask for: nobody tries a job so often.
const MOST_REVISIONS: u32 = 1_000_000;

/// A delivery as it was read.
pub(crate) struct ReadMessage {
    pub(crate) job: Job,
    pub(crate) identity: Identity,
    pub(crate) fingerprint: String,
    pub(crate) delivery: Delivery,
    pub(crate) held: HeldDelivery,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) counted: u32,
    pub(crate) revision: u32,
    pub(crate) rejection: Option<Rejection>,
}

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
        // It must not even be looked at again.
        Some(WorkStep::Reading) => (identity_of(flow, None, None, &delivery), None, None),
        _ if let JobPayload::Missing(rejection) = payload => {
            (lenient_identity(flow, &delivery), None, Some(rejection))
        }
        _ => match Job::parse_as(payload.of(&delivery), delivery.format) {
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
    let kept = postponed
        .as_ref()
        .map(|postponed| postponed.fingerprint.clone())
        .filter(|kept| !kept.is_empty());
    // One that was sent to another pool is the same request still, and so is one whose object is gone.
    let fingerprint = kept.or_else(|| Some(job.as_ref()?.fingerprint(&flow.pool)));
    let fingerprint = fingerprint.unwrap_or_else(|| format!("{NO_JOB}{}", delivery.unique_id));
    // What stands in for the job of a message that is none.
    let job = job.unwrap_or_default();
    if poisoned_at.is_some() {
        let message =
            "the worker ended twice while it worked on this job, which is therefore set aside";
        rejection = Some(("killed_worker", message.to_owned()));
    }
    let asked = [job.reply_to.clone(), delivery.reply_to.clone()]
        .into_iter()
        .flatten();
    let prefixes = state.team(&flow.team).reply_prefixes;
    let (mut replies, not_allowed): (Vec<_>, Vec<_>) =
        asked.partition(|subject| may_reply(subject, &flow.team, &prefixes));
    let (mut attempts, mut counted, mut revision) = (
        Vec::new(),
        0,
        delivery.revision.unwrap_or(1).clamp(1, MOST_REVISIONS),
    );
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
    let rejection = rejection.or_else(|| Some(("invalid_job", delivery.problem.take()?)));
    let rejection = rejection.or_else(|| Some(refused_reply(not_allowed.first()?, flow)));
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
    struct NamedMessage {
        id: Option<String>,
        custom_id: Option<String>,
        batch: Option<String>,
    }
    let named: NamedMessage = serde_json::from_slice(&delivery.payload).unwrap_or_default();
    let own = named.id.or(named.custom_id).filter(|id| is_id(id));
    identity_of(
        flow,
        own.as_deref(),
        named.batch.filter(|batch| is_name(batch)),
        delivery,
    )
}

fn refused_reply(subject: &str, flow: &Flow) -> Rejection {
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
