//! One call to a dialect, and the problems that it can have.

use axum::http::HeaderMap;
use serde_json::Value;

use super::account::Config;
use super::answer::VendorAnswer;
use super::field::text_field;
use super::multipart::{self, FormPart};
use super::route::ApiTask;
use super::vendor::Vendor;

/// One admitted call.
#[derive(Debug, Clone, Copy)]
pub(super) struct VendorCall<'a> {
    pub(super) vendor: Vendor,
    pub(super) task: ApiTask,
    /// The model, if the address names it.
    pub(super) model: Option<&'a str>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a [u8],
    /// The body, if it is JSON.
    pub(super) request: Option<&'a Value>,
    pub(super) account: &'a Config,
    pub(super) key: &'a str,
}

/// A problem of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestProblem {
    /// The request is wrong; the message is the vendor's.
    Request(String),
    /// One field is wrong: its path in the body, and the vendor's message.
    Field(Vec<String>, String),
    /// A case of the vendor's table of failures.
    Case(&'static str),
    /// The vendor serves nothing at this path.
    Address(String),
    /// The body is not JSON.
    Unreadable,
}

/// The result of a call in a dialect.
pub(super) type Outcome = Result<VendorAnswer, RequestProblem>;

/// Returns a [`RequestProblem::Request`] with this message.
pub(super) fn wrong<T>(message: impl Into<String>) -> Result<T, RequestProblem> {
    Err(RequestProblem::Request(message.into()))
}

impl VendorCall<'_> {
    pub(super) fn request(&self) -> Result<&Value, RequestProblem> {
        self.request.ok_or(RequestProblem::Unreadable)
    }

    /// Returns the parts of the body, if it is a form.
    pub(super) fn form(&self) -> Option<Vec<FormPart<'_>>> {
        let kind = self.headers.get("content-type")?;
        multipart::parts(kind.to_str().ok()?, self.body)
    }

    /// Returns the model that a request names in its address or in its body.
    pub(super) fn model_of<'a>(&'a self, request: &'a Value) -> Option<&'a str> {
        self.model.or_else(|| text_field(request, "model"))
    }
}
