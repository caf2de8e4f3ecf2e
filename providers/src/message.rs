//! What is sent to a provider, and what comes back.

use bytes::Bytes;
use http::{HeaderMap, Method};

/// A request that is ready to leave, credential included; it is not `Debug` for that reason.
#[derive(Clone)]
pub struct Request {
    /// POST for every job.
    pub method: Method,
    /// The whole address.
    pub url: String,
    /// Headers, the credential among them.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The account that is asked.
    pub account: String,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}
