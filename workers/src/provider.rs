//! Providers' wire dialects: pure functions between the unified format, which is OpenAI's, and what a provider
//! speaks.
//!
//! A provider is an entry in [`catalogue`]'s table. A dialect is an [`Adapter`]: two functions, one to the wire and
//! one back. Everything else that is done with a call is the same for all and stands in [`Endpoint`]: how keys are
//! sent, what headers tell of limits, what errors mean.

mod adapters;
mod admission;
mod anthropic;
mod bedrock;
pub mod catalogue;
mod charge;
mod chat;
mod cohere;
mod embedding;
mod endpoint;
mod error;
mod estimate;
#[cfg(feature = "exact-tokens")]
mod exact;
mod gemini;
mod kind;
mod limits;
pub(crate) mod listing;
mod mistral;
mod ollama;
mod openai;
mod rerank;
mod responses;
mod sigv4;
mod usage;
mod vertex_claude;

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use forebay_schemas::{Class, Job, Response, Usage};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use charge::Charge;
pub use endpoint::Endpoint;
use error::ErrorBody;
pub use kind::Kind;

use crate::cost::Dimension;
use crate::upstream::{Reply, Request};

/// What is encoded of a name in a path: AWS signs it so.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// How serde begins to tell of mistakes.
const MISTAKES: [&str; 2] = ["invalid ", "missing "];

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
    /// What else its price depends on.
    pub charge: Charge,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
    /// What an error speaks of.
    pub scope: Scope,
    /// Whether the provider forbids to ask again.
    pub is_final: bool,
    /// Whether it is an error, with whatever status, and no answer.
    pub is_error: bool,
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
    /// The period, where the provider documents it.
    pub per: Option<Duration>,
}

/// What an error speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// This key alone.
    Key,
    /// The account's use of this model.
    Model,
    /// This request alone, as far as can be told.
    Request,
}

/// A job cannot be said to a provider: it is refused for this target before any call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {problem}")]
pub struct Unsupported {
    /// The field, for example `body.messages[0].content`.
    pub field: String,
    /// What is wrong with it and what to do.
    pub problem: String,
    /// Whose doing it is.
    pub obstacle: Obstacle,
}

/// What keeps a job from being said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The provider has nothing like it; another one may.
    Unsupported,
    /// The job's value is wrong, whoever is asked.
    InvalidValue,
}

impl Obstacle {
    /// The code of a job that ends for it.
    pub fn code(self) -> &'static str {
        match self {
            Obstacle::Unsupported => "unsupported",
            Obstacle::InvalidValue => "invalid_value",
        }
    }
}

impl Unsupported {
    fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            obstacle: Obstacle::Unsupported,
        }
    }

    fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            obstacle: Obstacle::InvalidValue,
            ..Self::new(field, problem)
        }
    }

    /// What serde cannot read. A field or a word that is not known here may be known elsewhere; a value of the
    /// wrong type, or none, is a mistake.
    fn unreadable(field: impl Into<String>, error: &impl std::fmt::Display) -> Self {
        let problem = error.to_string();
        match MISTAKES.iter().any(|start| problem.starts_with(start)) {
            true => Self::invalid(field, problem),
            false => Self::new(field, problem),
        }
    }
}

/// A job on its way to a model.
#[derive(Debug)]
struct Call<'a> {
    kind: Kind,
    job: &'a Job,
    model: &'a str,
    endpoint: &'a Endpoint,
}

/// An answer with a good status.
#[derive(Debug)]
struct Answer {
    /// In OpenAI's shape.
    body: Box<RawValue>,
    usage: Option<Usage>,
    said: Said,
}

/// What an answer with a good status says.
#[derive(Debug)]
enum Said {
    /// What was asked for.
    Whole,
    /// That it is refused for its content, in the provider's words.
    Filtered(String),
    /// That it failed.
    Error(ErrorBody),
}

/// A wire dialect. Implementations do no I/O, read no clock and keep no state.
trait Adapter: Sync {
    /// The kinds of work that it can say.
    fn kinds(&self) -> &'static [Kind];

    /// What becomes of the fields of a chat; `None` where it goes as it is.
    fn fields(&self) -> Option<&'static chat::Fields> {
        None
    }

    /// The request, without the credential.
    fn encode(&self, call: &Call<'_>) -> Result<Request, Unsupported>;

    /// Why the job cannot be said, if it cannot.
    fn refusal(&self, call: &Call<'_>) -> Option<Unsupported> {
        self.encode(call).err()
    }

    /// Reads an answer with a good status; `None` when it cannot be read.
    fn decode(&self, call: &Call<'_>, reply: &Reply, now: Timestamp) -> Option<Answer>;
}

impl Call<'_> {
    /// A request with a JSON body to `path` under the endpoint's address.
    fn post(&self, path: &str, body: &impl Serialize) -> Result<Request, Unsupported> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Unsupported::new("body", error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self.request(path, headers, body.into()))
    }

    /// The model's name in a path.
    fn model_in_path(&self) -> String {
        percent_encoding::utf8_percent_encode(self.model, IN_PATHS).to_string()
    }

    fn request(&self, path: &str, headers: HeaderMap, body: Bytes) -> Request {
        let url = format!("{}{path}", self.endpoint.base_url);
        Request {
            method: Method::POST,
            url,
            headers,
            body,
            account: String::new(),
        }
    }
}
