//! The interface of a dialect: one function to the wire and one back.

use bytes::Bytes;
use forebay_schemas::{Job, Usage};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::chat::{ChatFieldRules, ChatRequest};
use crate::endpoint::Endpoint;
use crate::error::ErrorBody;
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::registry::Quirks;
use crate::unsupported::Unsupported;

/// The characters of a name that are percent-encoded in a path, as AWS signs it: all but letters,
/// digits, `-`, `.` and `_`.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// A call of a model for a job: the input of an adapter.
#[derive(Debug)]
pub(crate) struct AdapterCall<'a> {
    pub(crate) kind: WorkKind,
    pub(crate) job: &'a Job,
    pub(crate) model: &'a str,
    pub(crate) endpoint: &'a Endpoint,
}

/// A decoded answer with a good status.
#[derive(Debug)]
pub(crate) struct AdapterAnswer {
    /// The body in OpenAI's shape.
    pub(crate) body: Box<RawValue>,
    pub(crate) usage: Option<Usage>,
    pub(crate) answer_kind: AnswerKind,
}

/// The kind of an answer with a good status.
#[derive(Debug)]
pub(crate) enum AnswerKind {
    /// The requested work.
    Whole,
    /// A refusal for the content, with the provider's reason.
    Filtered(String),
    /// A failure, in spite of the good status.
    Error(ErrorBody),
}

/// A wire dialect. Implementations do no I/O, read no clock and keep no state.
pub(crate) trait Adapter: Sync {
    /// Returns the kinds of work that the dialect can encode.
    fn kinds(&self) -> &'static [WorkKind];

    /// Returns the rules for the fields of a chat; `None` where a chat's body is sent as it is.
    fn fields(&self) -> Option<&'static ChatFieldRules> {
        None
    }

    /// Encodes the request, without the credential. Fails where the job cannot be encoded.
    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported>;

    /// Returns why the job cannot be encoded; `None` if it can.
    fn refusal(&self, call: &AdapterCall<'_>) -> Option<Unsupported> {
        self.encode(call).err()
    }

    /// Decodes an answer with a good status; `None` when it cannot be read.
    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer>;
}

impl AdapterCall<'_> {
    /// Reads the job's body as a typed chat. `fields` decides what happens to each field.
    ///
    /// # Errors
    /// Fails when a field is not known, or has a value that it cannot have.
    pub(crate) fn chat(&self, fields: &ChatFieldRules) -> Result<ChatRequest, Unsupported> {
        let provider = &self.endpoint.provider.name;
        ChatRequest::read(&self.job.body, fields, provider)
    }

    /// Returns a `POST` request with a JSON body to `path` under the endpoint's address.
    pub(crate) fn post(&self, path: &str, body: &impl Serialize) -> Result<Request, Unsupported> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Unsupported::new("body", error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self.request(path, headers, body.into()))
    }

    /// Returns the provider's quirks, and then those of the model.
    pub(crate) fn quirks(&self) -> impl Iterator<Item = &Quirks> {
        let provider = self.endpoint.provider;
        provider.quirks_of(self.model)
    }

    /// Returns the model's name, percent-encoded for a path.
    pub(crate) fn model_in_path(&self) -> String {
        percent_encoding::utf8_percent_encode(self.model, IN_PATHS).to_string()
    }

    pub(crate) fn request(&self, path: &str, headers: HeaderMap, body: Bytes) -> Request {
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
