//! The wire dialects of AI providers, as pure functions. A unified job becomes a provider's request,
//! and a provider's reply becomes a unified answer. The unified format is OpenAI's. Nothing here
//! does I/O, reads a clock or keeps state.
//!
//! [`registry`] is a table of providers: addresses, dialects, rate-limit headers, meanings of errors.
//! An [`Endpoint`] is a provider at an address. It encodes a job, signs the request with a [`Secret`]
//! and decodes the reply. It also reads limits from the reply's headers, and the meaning of an error.
//!
//! ```
//! use forebay_providers::registry::provider;
//! use forebay_providers::{Endpoint, Reply, Secret};
//! use forebay_schemas::Job;
//! use jiff::Timestamp;
//!
//! let line = br#"{"id": "1", "body": {"messages": [{"role": "user", "content": "Hello"}]}}"#;
//! let job = Job::parse(line)?;
//! let endpoint = Endpoint::new(provider("anthropic").expect("a known provider"), "https://api.anthropic.com");
//!
//! let mut request = endpoint.encode(&job, "claude-haiku-4-5")?;
//! let now: Timestamp = "2026-11-30T12:00:00Z".parse()?;
//! endpoint.authorise(&mut request, &Secret::new("sk-ant-…"), now).map_err(|problem| problem.to_string())?;
//! assert_eq!(request.url, "https://api.anthropic.com/v1/messages");
//! // Send `request` with any HTTP client, and put the response into a `Reply`.
//!
//! let body = br#"{"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down."}}"#;
//! let reply = Reply { status: 429, headers: Default::default(), body: body.as_slice().into() };
//! let decoded = endpoint.decode(&job, "claude-haiku-4-5", &reply, now);
//! assert_eq!(decoded.class.map(|class| class.as_str()), Some("rate_limited"));
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

pub mod registry;

mod endpoint;
mod kind;
mod lenient;
mod message;

mod adapter;
mod adapters;
mod decoded;
mod exchange;
mod unsupported;

mod anthropic;
mod bedrock;
mod cohere;
mod gemini;
mod mistral;
mod ollama;
mod openai;
mod responses;
mod vertex_claude;

mod chat;
mod embedding;
mod file;
mod rerank;

mod admission;
mod charge;
pub mod cost;
mod estimate;
#[cfg(feature = "exact-tokens")]
mod exact;
pub mod price;
mod usage;

mod error;
mod limits;
mod listing;
pub mod retry_after;
mod stated_use;

mod key_forms;
mod redact;
mod secret;
mod sigv4;

#[cfg(test)]
mod tests;

pub use charge::BilledFacts;
pub use decoded::{DecodedReply, ErrorScope, RateLimitHeaders};
pub use endpoint::Endpoint;
pub use file::{FILE, FileReference, file_of};
pub use kind::WorkKind;
pub use listing::models;
pub use message::{Reply, Request};
pub use redact::{Redaction, redact_answer};
pub use secret::Secret;
pub use stated_use::StatedUse;
pub use unsupported::{Unsupported, UnsupportedKind};
