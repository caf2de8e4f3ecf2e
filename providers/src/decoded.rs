//! What a reply turned out to be.

use std::time::Duration;

use forebay_schemas::{Class, Response, Usage};
use serde::Deserialize;

use crate::charge::BilledFacts;
use crate::cost::LimitDimension;

/// What a reply turned out to be.
#[derive(Debug, Clone)]
pub struct DecodedReply {
    /// `None` when it is a success.
    pub class: Option<Class>,
    /// The answer in OpenAI's shape, an error answer included; `None` when it cannot be read.
    pub response: Option<Response>,
    /// The provider's short name of an error.
    pub code: Option<String>,
    /// The provider's words on an error.
    pub message: Option<String>,
    /// Tokens used, where the provider says.
    pub usage: Option<Usage>,
    /// What else its price depends on.
    pub charge: BilledFacts,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// What an error speaks of.
    pub scope: ErrorScope,
    /// Whether the provider forbids to ask again.
    pub is_final: bool,
    /// Whether it is an error, with whatever status, and no answer.
    pub is_error: bool,
}

/// What the headers of an answer say of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitHeaders {
    /// What is limited.
    pub dimension: LimitDimension,
    /// The whole limit.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// When all of it is back.
    pub whole_in: Option<Duration>,
    /// By how much `whole_in` may be too long or too short.
    pub resolution: Duration,
    /// The period, where the provider documents it.
    pub per: Option<Duration>,
}

/// What an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorScope {
    /// This key alone.
    Key,
    /// The account's use of this model.
    Model,
    /// This request alone, as far as can be told.
    Request,
}
