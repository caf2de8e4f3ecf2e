//! A job on its way: what is known of it between delivery and completion.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::completion::{self, CompletionError, MOST_ATTEMPTS};
use forebay_schemas::{
    AnsweredBy, Attempt, Class, Completion, Flow, Identity, Job, Reason, Status,
};
use jiff::Timestamp;
use rust_decimal::Decimal;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::Span;

use crate::clock::millis_between;
use crate::controls::WorkerControls;
use crate::job::candidates::CandidateSet;
use crate::job::delivery::HeldDelivery;
use crate::job::in_flight::Registration;
use crate::job::merge_key::{MergeCandidate, says_nothing};
use crate::job::share::CoalesceRequest;
use crate::outcome::end::JobResult;
use crate::queue::Delivery;
use crate::store::results::RequestKey;
use forebay_providers::cost::CallCost;

/// A job on its way.
#[derive(Debug)]
pub(crate) struct AdmittedJob {
    /// The span of its events; its fields are id, team, pool and lane.
    pub(crate) span: Span,
    pub(crate) job: Job,
    pub(crate) identity: Identity,
    pub(crate) flow: Flow,
    /// Whether it was delivered because its time had come.
    pub(crate) due: bool,
    pub(crate) fingerprint: String,
    pub(crate) delivery: Delivery,
    pub(crate) held: HeldDelivery,
    pub(crate) registration: Registration,
    /// Deliveries that end with this one although its identity is free again.
    pub(crate) duplicates: Vec<HeldDelivery>,
    /// Which answer of its identity it will have.
    pub(crate) revision: u32,
    /// Targets that may serve it.
    pub(crate) candidates: CandidateSet,
    /// Why its last call went where it went.
    pub(crate) reason: Reason,
    /// Since when it waits here, from its first turn on.
    pub(crate) first_queued_at: Option<Instant>,
    /// Whether nobody knows what became of its last call, since the process ended over it.
    pub(crate) interrupted: bool,
    pub(crate) cost: CallCost,
    pub(crate) attempts: Vec<Attempt>,
    /// Attempts that counted.
    pub(crate) counted: u32,
    /// When it was published, or last tried.
    pub(crate) waiting_since: Timestamp,
    /// The right of its large answer to be here; held for its drop.
    pub(crate) answer_permit: Option<Arc<OwnedSemaphorePermit>>,
    /// Whether another one's answer may serve it.
    pub(crate) coalesce: Option<CoalesceRequest>,
    /// How it can travel with others.
    pub(crate) merge: Option<MergeCandidate>,
    /// It waits for itself until then.
    pub(crate) not_before: Option<Instant>,
    /// What the last target said that can never serve it.
    pub(crate) last_error: Option<CompletionError>,
}

fn in_dollars(amount: Decimal) -> completion::Cost {
    completion::Cost {
        amount: amount.to_string(),
        currency: "USD".to_owned(),
    }
}

impl AdmittedJob {
    /// The completion that `end` makes of this job.
    pub(crate) fn completion(&mut self, end: JobResult) -> Completion {
        let (cached_from, answered_by) = match end.cached_from {
            Some((cached_from, answered_by)) => (Some(cached_from), answered_by),
            None => (None, self.answered_by(end.status)),
        };
        let first = self
            .attempts
            .first()
            .map_or(self.waiting_since, |attempt| attempt.started_at);
        Completion {
            id: self.identity.id.clone(),
            custom_id: self
                .job
                .custom_id
                .clone()
                .unwrap_or_else(|| self.identity.id.clone()),
            team: self.identity.team.clone(),
            batch: self.identity.batch.clone(),
            pool: self.flow.pool.clone(),
            lane: self.flow.lane,
            revision: self.revision,
            status: end.status,
            response: end.response,
            error: end.error,
            usage: end.usage,
            cost: end.cost.map(in_dollars),
            answered_by,
            cached_from,
            attempts: std::mem::take(&mut self.attempts),
            queued_ms: millis_between(self.delivery.published, first),
            metadata: self.job.metadata.take(),
        }
    }

    /// What it asks, and for whom.
    pub(crate) fn request(&self) -> RequestKey {
        RequestKey {
            team: self.identity.team.clone(),
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// Who answered, and why it was asked.
    fn answered_by(&self, status: Status) -> Option<AnsweredBy> {
        let last = self
            .attempts
            .last()
            .filter(|_| status == Status::Succeeded)?;
        Some(AnsweredBy {
            account: last.account.clone(),
            provider: last.provider.clone(),
            model: last.model.clone(),
            reason: self.reason,
        })
    }

    /// How many answers of a target to this job could not be read.
    pub(crate) fn malformed_at(&self, account: &str, model: &str) -> u32 {
        let malformed = |attempt: &&Attempt| {
            !says_nothing(attempt)
                && attempt.class() == Some(Class::MalformedResponse)
                && attempt.account == account
                && attempt.model == model
        };
        self.attempts
            .iter()
            .filter(malformed)
            .count()
            .try_into()
            .unwrap_or(u32::MAX)
    }

    /// How long it is until its deadline.
    pub(crate) fn ends_in(&self, now: Timestamp) -> Option<Duration> {
        let left = self.job.deadline?.duration_since(now);
        Some(Duration::try_from(left).unwrap_or_default())
    }

    /// Notes a call; of very many the middle ones are forgotten, so that they fit a message.
    pub(crate) fn add_attempt(&mut self, attempt: Attempt) {
        if self.attempts.len() == MOST_ATTEMPTS {
            self.attempts.remove(MOST_ATTEMPTS / 2);
        }
        self.attempts.push(attempt);
    }

    /// Whether it is cancelled.
    pub(crate) fn is_cancelled(&self, controls: &WorkerControls) -> bool {
        controls.cancels(&self.identity, self.delivery.published)
    }

    /// Whether its deadline has passed.
    pub(crate) fn is_late(&self, now: Timestamp) -> bool {
        self.job.deadline.is_some_and(|deadline| deadline <= now)
    }
}
