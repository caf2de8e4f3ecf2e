//! The result with which a job ends.

use forebay_schemas::completion::CompletionError;
use forebay_schemas::{AnsweredBy, CachedFrom, Class, Completion, Response, Status, Usage};
use rust_decimal::Decimal;

use crate::large::short;
use crate::outcome::outcome::CallOutcome;

/// The result with which a job ends.
#[derive(Debug)]
pub(crate) struct JobResult {
    pub(crate) status: Status,
    pub(crate) response: Option<Response>,
    pub(crate) error: Option<CompletionError>,
    pub(crate) usage: Option<Usage>,
    pub(crate) cost: Option<Decimal>,
    /// Set if it is another job's answer: which job's, and the account that answered it.
    pub(crate) cached_from: Option<(CachedFrom, Option<AnsweredBy>)>,
}

impl JobResult {
    /// The result with another job's answer to the same request; `None` if that job has no answer that can serve.
    pub(crate) fn cached(of: &Completion) -> Option<Self> {
        if of.status != Status::Succeeded {
            return None;
        }
        let own = || {
            let called_at = of.attempts.last()?.started_at;
            Some(CachedFrom {
                batch: of.batch.clone(),
                id: of.id.clone(),
                called_at,
            })
        };
        // It may itself be the answer of a third job.
        let cached_from = of.cached_from.clone().or_else(own)?;
        Some(Self {
            status: Status::Succeeded,
            response: of.response.clone(),
            error: None,
            usage: None,
            cost: Some(Decimal::ZERO),
            cached_from: Some((cached_from, of.answered_by.clone())),
        })
    }

    /// A failure without an answer.
    pub(crate) fn failed(code: &str, message: String, class: Class) -> Self {
        Self {
            status: Status::Failed,
            response: None,
            error: Some(CompletionError {
                code: code.to_owned(),
                message: short(&message),
                class,
            }),
            usage: None,
            cost: None,
            cached_from: None,
        }
    }

    /// The result of the last outcome.
    pub(crate) fn of(outcome: CallOutcome) -> Self {
        match outcome.class {
            None => Self {
                status: Status::Succeeded,
                response: outcome.response,
                error: None,
                usage: outcome.usage,
                cost: outcome.cost,
                cached_from: None,
            },
            Some(_) => Self {
                status: Status::Failed,
                error: Some(outcome.error()),
                response: outcome.response,
                // A refusal for the content is charged all the same.
                usage: outcome.usage,
                cost: outcome.cost,
                cached_from: None,
            },
        }
    }

    /// The result of a job that an operator cancelled.
    pub(crate) fn cancelled() -> Self {
        let message = "cancelled by an operator".to_owned();
        Self {
            status: Status::Cancelled,
            ..Self::failed("cancelled", message, Class::Cancelled)
        }
    }

    /// The result of a job whose deadline passed before it was called.
    pub(crate) fn expired() -> Self {
        let message = "the deadline passed before a call could be made".to_owned();
        Self {
            status: Status::Expired,
            ..Self::failed("expired", message, Class::DeadlinePassed)
        }
    }
}
