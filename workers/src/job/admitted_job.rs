//! A job between its delivery and its completion, and all that is known of it.

use std::hash::{DefaultHasher, Hash, Hasher};
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

use crate::accounts::{CallOrigin, EarlierFailures};
use crate::clock::millis_between;
use crate::controls::WorkerControls;
use crate::counters::InFlightCount;
use crate::job::candidates::CandidateSet;
use crate::job::delivery::HeldDelivery;
use crate::job::in_flight::Registration;
use crate::job::merge_key::{MergeCandidate, says_nothing};
use crate::job::share::CoalesceRequest;
use crate::outcome::end::JobResult;
use crate::queue::Delivery;
use crate::store::results::RequestKey;
use forebay_providers::cost::CallCost;

/// A job between its delivery and its completion.
#[derive(Debug)]
pub(crate) struct AdmittedJob {
    /// The span of its events; its fields are id, team, pool and lane.
    pub(crate) span: Span,
    pub(crate) job: Job,
    pub(crate) identity: Identity,
    pub(crate) flow: Flow,
    /// True if it was scheduled and its time has come.
    pub(crate) due: bool,
    /// A hash of pool, URL and body.
    pub(crate) fingerprint: String,
    pub(crate) delivery: Delivery,
    pub(crate) held: HeldDelivery,
    pub(crate) registration: Registration,
    /// Duplicates that end with this job, although its identity was released.
    pub(crate) duplicates: Vec<HeldDelivery>,
    /// The number of the answer that its identity gets, from 1.
    pub(crate) revision: u32,
    /// The targets that may serve it.
    pub(crate) candidates: CandidateSet,
    /// Why its last call went to its target.
    pub(crate) reason: Reason,
    /// When it was first in the fair queue.
    pub(crate) first_queued_at: Option<Instant>,
    /// True if the process ended during its last call, so that the outcome is unknown.
    pub(crate) interrupted: bool,
    /// The estimated cost of a call at the first of its targets.
    pub(crate) cost: CallCost,
    pub(crate) attempts: Vec<Attempt>,
    /// Attempts that count against the retry policy's maximum.
    pub(crate) counted: u32,
    /// When it was published, or when its last attempt ended.
    pub(crate) waiting_since: Timestamp,
    /// The permit for the memory of its large answer; held until the job ends.
    pub(crate) answer_permit: Option<Arc<OwnedSemaphorePermit>>,
    /// Counts it from its call until its completion is published, or it waits for its next call.
    pub(crate) unpublished: Option<InFlightCount>,
    /// Set if another job's answer may serve it.
    pub(crate) coalesce: Option<CoalesceRequest>,
    /// Set if it may share a call with others.
    pub(crate) merge: Option<MergeCandidate>,
    /// Since when it waits for its next call without a pause; `None` while it is called.
    pub(crate) uncalled_since: Option<Instant>,
    /// It is not called before then.
    pub(crate) not_before: Option<Instant>,
    /// The error of the last target that can never serve it.
    pub(crate) last_error: Option<CompletionError>,
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn in_dollars(amount: Decimal) -> completion::Cost {
    completion::Cost {
        amount: amount.to_string(),
        currency: "USD".to_owned(),
    }
}

impl AdmittedJob {
    /// Builds the completion of this job. Takes its attempts and metadata.
    pub(crate) fn completion(&mut self, end: JobResult) -> Completion {
        let (cached_from, answered_by) = match end.cached_from {
            Some((cached_from, answered_by)) => (Some(cached_from), answered_by),
            None => (None, self.answered_by(end.status)),
        };
        let first_call = self.attempts.first().map(|attempt| attempt.started_at);
        let first_call = first_call.unwrap_or(self.waiting_since);
        let (id, custom_id) = (self.identity.id.clone(), self.job.custom_id.clone());
        Completion {
            custom_id: custom_id.unwrap_or_else(|| id.clone()),
            id,
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
            queued_ms: millis_between(self.delivery.published, first_call),
            metadata: self.job.metadata.take(),
        }
    }

    /// The unique id of its message.
    pub(crate) fn message_id(&self) -> &str {
        &self.delivery.unique_id
    }

    /// Its failures before its last call. `now` is the wall clock's time.
    pub(crate) fn earlier_failures(&self, now: Timestamp) -> EarlierFailures {
        let is_failure = |attempt: &&Attempt| {
            !says_nothing(attempt) && attempt.class().is_some_and(Class::is_of_provider)
        };
        let end = |attempt: &Attempt| {
            let began = Duration::try_from(now.duration_since(attempt.started_at)).ok()?;
            let ended = began.saturating_sub(Duration::from_millis(attempt.duration_ms));
            Instant::now().checked_sub(ended)
        };
        let [earlier @ .., _] = &*self.attempts else {
            return EarlierFailures::default();
        };
        EarlierFailures {
            first: earlier.iter().find(is_failure).and_then(end),
            last: earlier.iter().rfind(is_failure).and_then(end),
            counted: self.counted,
        }
    }

    /// Its identity and its team, for the circuit breaker.
    pub(crate) fn origin(&self) -> CallOrigin {
        CallOrigin {
            team: hash_of(&self.identity.team),
            job: hash_of(&self.identity),
        }
    }

    /// Its request, for look-ups of answers to the same one.
    pub(crate) fn request(&self) -> RequestKey {
        RequestKey {
            team: self.identity.team.clone(),
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// The account that answered, and why it was asked; `None` without an answer.
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

    /// The time until its deadline; zero if it has passed.
    pub(crate) fn ends_in(&self, now: Timestamp) -> Option<Duration> {
        let left = self.job.deadline?.duration_since(now);
        Some(Duration::try_from(left).unwrap_or_default())
    }

    /// Returns true if a provider failed at it, or could not serve it. A refusal by a limit is no failure.
    pub(crate) fn has_failed(&self) -> bool {
        self.counted > 0 || self.candidates.have_failed()
    }

    /// Adds an attempt. Beyond the most that fit a message, the middle ones are dropped.
    pub(crate) fn add_attempt(&mut self, attempt: Attempt) {
        if self.attempts.len() == MOST_ATTEMPTS {
            self.attempts.remove(MOST_ATTEMPTS / 2);
        }
        self.attempts.push(attempt);
    }

    /// Makes it a part of a split call.
    pub(crate) fn set_part(&mut self, number: u64) {
        if let Some(merge) = &mut self.merge {
            merge.part = Some(number);
        }
    }

    /// Returns true if an operator cancelled it.
    pub(crate) fn is_cancelled(&self, controls: &WorkerControls) -> bool {
        controls.cancels(&self.identity, self.delivery.published)
    }

    /// Returns true if its deadline has passed.
    pub(crate) fn is_late(&self, now: Timestamp) -> bool {
        self.job.deadline.is_some_and(|deadline| deadline <= now)
    }
}
