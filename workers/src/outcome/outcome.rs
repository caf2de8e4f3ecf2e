//! The outcome of an attempt. What is done about it is decided in [`crate::outcome::policy`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use forebay_schemas::completion::CompletionError;
use forebay_schemas::{Class, Job, Response, Usage};
use rust_decimal::Decimal;

use crate::accounts::{FailureCause, RefusalJudgement, UnexplainedRefusal};
use crate::large::short;
use crate::upstream;
use forebay_providers::Secret;
use forebay_providers::price::Prices;
use forebay_providers::{BilledFacts, DecodedReply, ErrorScope};
use forebay_providers::{Redaction, redact_answer};

/// The longest error code that is kept, in characters. The whole answer is kept beside it.
const MAX_CODE: usize = 200;
/// The code of a call that was not made because it could not be journalled in time.
const NOT_JOURNALLED: &str = "not_journalled";
/// The code of a call that was not made because another worker may have taken over.
const FENCE_CLOSED: &str = "fence_closed";
/// The code of an answer that is larger than the configured maximum.
const TOO_LARGE: &str = "answer_too_large";
/// After this, providers give up on a call themselves.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(600);

/// A failure's code and message.
pub(crate) type Rejection = (&'static str, String);

/// The outcome of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct CallOutcome {
    /// `None` when the call succeeded.
    pub(crate) class: Option<Class>,
    /// The provider's whole answer, an error answer included.
    pub(crate) response: Option<Response>,
    /// A short name of an error.
    pub(crate) code: String,
    /// A description of the outcome, for people.
    pub(crate) message: String,
    /// The tokens used, if the provider reports them.
    pub(crate) usage: Option<Usage>,
    /// The cost of the call in US dollars, if it is known.
    pub(crate) cost: Option<Decimal>,
    /// The wait that the provider asks for.
    pub(crate) retry_after: Option<Duration>,
    /// The subject of an error: the request, the key or the model.
    pub(crate) scope: ErrorScope,
    /// True if the provider asks not to retry.
    pub(crate) is_final: bool,
    /// The judgement of a refusal that names no fault of the request; `None` for every other outcome, and before it is made.
    pub(crate) refusal: Option<RefusalJudgement>,
    /// True for a refusal that names no fault of the request.
    pub(crate) is_unexplained: bool,
    /// The cause of a failure of the provider or the network; `None` for every other outcome, and before it is judged.
    pub(crate) cause: Option<FailureCause>,
    /// How long a call that was given up on may run on at the provider.
    pub(crate) runs_on: Option<Duration>,
    /// The HTTP status, if an answer came.
    pub(crate) status_code: Option<u16>,
}

impl CallOutcome {
    /// The outcome of a reply that an adapter decoded. Secrets and prompt text that an error repeats are redacted.
    pub(crate) fn of_reply(
        decoded: DecodedReply,
        status: u16,
        (secret, prices): (&Secret, Option<&Prices>),
        job: &Job,
    ) -> Self {
        let class = decoded.class;
        let cost = prices.and_then(|prices| cost(&decoded, prices));
        // A refusal that is an answer is meant for the producer: only the credential is redacted in it.
        let redaction = decoded
            .is_error
            .then(|| Redaction::new(secret, job, class.is_some_and(Class::is_limit)));
        let redact = |text: String| match &redaction {
            Some(redaction) => redaction.text(&text),
            None => text,
        };
        let mut response = decoded.response;
        if let Some(id) = response
            .as_mut()
            .and_then(|response| response.request_id.as_mut())
        {
            // A gateway may use what it was sent as the id.
            *id = secret.redact(id);
        }
        if let Some(response) = &mut response {
            let redacted = match &redaction {
                Some(redaction) => redaction.body(&response.body),
                None => redact_answer(secret, &response.body),
            };
            if let Some(body) = redacted {
                response.body = body;
            }
        }
        let default = class.map_or("succeeded", Class::as_str);
        Self {
            class,
            response,
            code: decoded.code.map_or_else(
                || default.to_owned(),
                |code| redact(code).chars().take(MAX_CODE).collect(),
            ),
            message: decoded.message.map_or_else(
                || format!("the provider failed without a word (status {status})"),
                |text| short(&redact(text)),
            ),
            usage: decoded.usage,
            cost,
            retry_after: decoded.retry_after,
            scope: decoded.scope,
            is_final: decoded.is_final,
            refusal: None,
            is_unexplained: decoded.is_unexplained,
            cause: None,
            runs_on: None,
            status_code: Some(status),
        }
    }

    /// The outcome of an attempt without a whole answer.
    pub(crate) fn of_error(error: &upstream::Error) -> Self {
        let class = match error {
            upstream::Error::NotSent(_) | upstream::Error::FenceClosed => Class::NetBeforeSend,
            upstream::Error::Unanswered(_) | upstream::Error::TimedOut(_) => Class::NetAfterSend,
            upstream::Error::TooLarge(_) => Class::MalformedResponse,
        };
        let runs_on = match error {
            upstream::Error::TimedOut(after) => PROVIDER_TIMEOUT.checked_sub(*after),
            _ => None,
        };
        let code = match error {
            upstream::Error::TooLarge(_) => TOO_LARGE,
            upstream::Error::FenceClosed => FENCE_CLOSED,
            _ => class.as_str(),
        };
        Self {
            runs_on,
            ..Self::local(class, code, error.to_string())
        }
    }

    /// The outcome of a call during which the process ended.
    pub(crate) fn of_interrupted() -> Self {
        let message =
            "the process ended while the call was under way, so its answer is not known".to_owned();
        Self::local(Class::NetAfterSend, "interrupted", message)
    }

    /// The outcome of an attempt that failed here, before anything was sent.
    pub(crate) fn local(class: Class, code: &str, message: String) -> Self {
        Self {
            class: Some(class),
            response: None,
            code: code.to_owned(),
            message,
            usage: None,
            cost: None,
            retry_after: None,
            scope: if class == Class::BadKey {
                ErrorScope::Key
            } else {
                ErrorScope::Model
            },
            is_final: false,
            refusal: None,
            is_unexplained: false,
            cause: None,
            runs_on: None,
            status_code: None,
        }
    }

    /// Returns true if the answer was too large. A retry would be as large, and charged again.
    pub(crate) fn is_too_large(&self) -> bool {
        self.status_code.is_none() && self.code == TOO_LARGE
    }

    /// The outcome of an attempt that could not be journalled in time.
    pub(crate) fn of_unjournalled() -> Self {
        let message = "it could not be journalled in time, so it was not made".to_owned();
        Self::local(Class::NetBeforeSend, NOT_JOURNALLED, message)
    }

    /// Returns true if the call was not made, for a reason that has nothing to do with the account.
    pub(crate) fn was_not_made(&self) -> bool {
        self.status_code.is_none() && [NOT_JOURNALLED, FENCE_CLOSED].contains(&&*self.code)
    }

    /// Returns true if the account, and not the job, may be the reason of the refusal.
    pub(crate) fn may_be_of_account(&self) -> bool {
        let is_of_job = |judgement| judgement == RefusalJudgement::OfJob;
        self.refusal.is_some_and(|judgement| !is_of_job(judgement))
    }

    /// Returns the refusal, if it names no fault of the request.
    pub(crate) fn unexplained_refusal(&self) -> Option<UnexplainedRefusal> {
        let mut hasher = DefaultHasher::new();
        (self.status_code, &self.code).hash(&mut hasher);
        self.is_unexplained.then(|| UnexplainedRefusal {
            kind: hasher.finish(),
            is_of_address: matches!(self.status_code, Some(300..=399 | 405 | 407)),
        })
    }

    /// The error of a completion with this outcome.
    pub(crate) fn error(&self) -> CompletionError {
        CompletionError {
            code: self.code.clone(),
            message: self.message.clone(),
            class: self.class.unwrap_or(Class::ServerError),
        }
    }

    /// Bytes of the answer's body; zero without an answer.
    pub(crate) fn answer_size(&self) -> usize {
        let response = self.response.as_ref();
        response.map_or(0, |response| response.body.get().len())
    }

    /// The outcome's name in an attempt.
    pub(crate) fn name(&self) -> &'static str {
        self.class.map_or("succeeded", Class::as_str)
    }
}

/// The cost of an answer; `None` if it is not known from its tokens alone.
fn cost(decoded: &DecodedReply, prices: &Prices) -> Option<Decimal> {
    let BilledFacts {
        tier,
        has_extras,
        billed,
    } = &decoded.charge;
    let usage = billed.or(decoded.usage).filter(|_| !has_extras)?;
    prices.amount(&usage, tier.as_deref())
}
