//! Decoded replies, and the limits that their headers report.

use std::time::Duration;

use forebay_schemas::{Class, Response, Usage};
use serde::Deserialize;

use crate::charge::BilledFacts;
use crate::cost::LimitDimension;

/// A decoded reply: an answer or an error.
#[derive(Debug, Clone)]
pub struct DecodedReply {
    /// The class of the failure; `None` for a success.
    pub class: Option<Class>,
    /// The response in OpenAI's shape, an error's included; `None` when it cannot be read.
    pub response: Option<Response>,
    /// A short name of the failure, the provider's own for an error; `None` where there is none.
    pub code: Option<String>,
    /// The message of the failure, in the provider's words for an error; `None` where there is
    /// none.
    pub message: Option<String>,
    /// The tokens that the call used; `None` where the provider does not report them.
    pub usage: Option<Usage>,
    /// The other facts that decide the price.
    pub charge: BilledFacts,
    /// The wait that the provider requests; `None` where it requests none.
    pub retry_after: Option<Duration>,
    /// The subject of an error.
    pub scope: ErrorScope,
    /// True if the provider forbids a retry.
    pub is_final: bool,
    /// True if the reply is an error, whatever its status. False for an answer, also for one that
    /// cannot be read.
    pub is_error: bool,
    /// True if the error is a refusal that names no fault of the request: the account or the address may be the reason.
    pub is_unexplained: bool,
}

/// The state of one limit, as the headers of a reply report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitHeaders {
    /// The quantity that is limited.
    pub dimension: LimitDimension,
    /// The whole limit, in units of `dimension`.
    pub limit: u64,
    /// The amount that is left of the limit, in units of `dimension`.
    pub remaining: u64,
    /// The time until the whole limit is available again; `None` where no header states it.
    pub whole_in: Option<Duration>,
    /// The largest error of `whole_in`, in both directions.
    pub resolution: Duration,
    /// The period of the limit; `None` where the provider does not document it.
    pub per: Option<Duration>,
}

/// The subject of an error: the key, the model or the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorScope {
    /// The key alone.
    Key,
    /// The account's use of this model.
    Model,
    /// This request alone, as far as the reply shows.
    Request,
}
