//! Providers' wire dialects: pure functions between the unified format and what a provider speaks.

mod estimate;
#[cfg(feature = "exact-tokens")]
mod exact;
mod openai;

use forebay_schemas::{Class, Job, Response, Usage};
use http::HeaderMap;
use jiff::Timestamp;
use std::time::Duration;

use crate::cost::{Cost, Dimension};
use crate::secret::Secret;
use crate::upstream::{Reply, Request};

/// What a reply turned out to be.
#[derive(Debug, Clone)]
pub struct Decoded {
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
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// What an error speaks of.
    pub scope: Scope,
}

/// What the headers of an answer say of one limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// What is limited.
    pub dimension: Dimension,
    /// The whole limit.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// When all of it is back.
    pub whole_in: Option<Duration>,
    /// By how much `whole_in` may be too long or too short.
    pub resolution: Duration,
}

/// What an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This key alone.
    Key,
    /// The account's use of this model.
    Model,
    /// This request alone, as far as can be told.
    Request,
}

/// A wire dialect. Implementations do no I/O, read no clock and keep no state.
pub trait Adapter: Send + Sync + std::fmt::Debug {
    /// The request for `job` to `model`, without the credential.
    ///
    /// # Errors
    /// When the job cannot be expressed; says which field.
    fn encode(&self, job: &Job, model: &str, base_url: &str) -> Result<Request, String>;

    /// Adds the credential.
    ///
    /// # Errors
    /// When the credential cannot stand in a header.
    fn authorise(&self, headers: &mut HeaderMap, secret: &Secret) -> Result<(), String>;

    /// What the provider takes a call to `model` to cost when it admits it.
    fn admission_cost(&self, job: &Job, model: &str) -> Cost;

    /// Whether the provider gives back what was admitted and not used.
    fn settles(&self) -> bool;

    /// What the headers of an answer say of limits.
    fn observe(&self, headers: &HeaderMap) -> Vec<Figures>;

    /// Reads a reply.
    fn decode(&self, reply: &Reply, now: Timestamp) -> Decoded;
}

/// A provider that is known by name.
#[derive(Debug, Clone, Copy)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: &'static str,
    /// Its address when the configuration gives none.
    pub base_url: &'static str,
    /// Its dialect.
    pub adapter: &'static dyn Adapter,
}

/// Every provider that is known by name.
pub const PROVIDERS: &[Provider] =
    &[Provider { name: "openai", base_url: "https://api.openai.com/v1", adapter: &openai::OpenAi }];

/// The adapter of a provider.
pub fn by_name(name: &str) -> Option<&'static dyn Adapter> {
    PROVIDERS.iter().find(|provider| provider.name == name).map(|provider| provider.adapter)
}
