//! One call as a dialect is given it, and what can be wrong with it.

use axum::http::HeaderMap;
use serde_json::Value;

use super::account::Config;
use super::answer::VendorAnswer;
use super::route::ApiTask;
use super::vendor::Vendor;

/// One call.
#[derive(Debug, Clone, Copy)]
pub(super) struct VendorCall<'a> {
    pub(super) vendor: Vendor,
    pub(super) task: ApiTask,
    /// The model, where the address names it.
    pub(super) model: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
    /// The body, where it is JSON.
    pub(super) request: Option<&'a Value>,
    pub(super) account: &'a Config,
    pub(super) key: &'a str,
}

/// What is wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestProblem {
    /// The request, in the vendor's words.
    Request(String),
    /// One field, in the vendor's words and by its way into the body.
    Field(Vec<String>, String),
    /// Something that the vendor's table of failures has a row for.
    Case(&'static str),
    /// Nothing is served at this address.
    Address(String),
    /// The body is not JSON.
    Unreadable,
}

/// What a dialect makes of a call.
pub(super) type Outcome = Result<VendorAnswer, RequestProblem>;

/// A wrong request.
pub(super) fn wrong<T>(message: impl Into<String>) -> Result<T, RequestProblem> {
    Err(RequestProblem::Request(message.into()))
}

impl VendorCall<'_> {
    pub(super) fn request(&self) -> Result<&Value, RequestProblem> {
        self.request.ok_or(RequestProblem::Unreadable)
    }

    /// The model that a request names, in its address or in its body.
    pub(super) fn model_of<'a>(&'a self, request: &'a Value) -> Option<&'a str> {
        self.model
            .or_else(|| request.get("model").and_then(Value::as_str))
    }
}
