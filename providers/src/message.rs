//! A request to a provider, and its reply.

use bytes::Bytes;
use http::header::AsHeaderName;
use http::{HeaderMap, Method};

/// A request that is ready to be sent, credential included. It is not `Debug` for that reason.
#[derive(Clone)]
pub struct Request {
    /// The HTTP method: `POST` for every job.
    pub method: Method,
    /// The complete address.
    pub url: String,
    /// The headers, the credential among them.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The account that is called; adapters leave it empty.
    pub account: String,
}

/// A complete reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// Returns the value of a header; `None` where it is missing or not text.
    pub(crate) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        header(&self.headers, name)
    }
}

/// Returns the value of a header; `None` where it is missing or not text.
pub(crate) fn header(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
