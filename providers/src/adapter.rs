//! A dialect: two functions, one to the wire and one back.

use bytes::Bytes;
use forebay_schemas::{Job, Usage};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::chat;
use crate::endpoint::Endpoint;
use crate::error::ErrorBody;
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::unsupported::Unsupported;

/// What is encoded of a name in a path: AWS signs it so.
const IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// A job on its way to a model.
#[derive(Debug)]
pub(crate) struct AdapterCall<'a> {
    pub(crate) kind: WorkKind,
    pub(crate) job: &'a Job,
    pub(crate) model: &'a str,
    pub(crate) endpoint: &'a Endpoint,
}

/// An answer with a good status.
#[derive(Debug)]
pub(crate) struct AdapterAnswer {
    /// In OpenAI's shape.
    pub(crate) body: Box<RawValue>,
    pub(crate) usage: Option<Usage>,
    pub(crate) said: AnswerKind,
}

/// What an answer with a good status says.
#[derive(Debug)]
pub(crate) enum AnswerKind {
    /// What was asked for.
    Whole,
    /// That it is refused for its content, in the provider's words.
    Filtered(String),
    /// That it failed.
    Error(ErrorBody),
}

/// A wire dialect. Implementations do no I/O, read no clock and keep no state.
pub(crate) trait Adapter: Sync {
    /// The kinds of work that it can say.
    fn kinds(&self) -> &'static [WorkKind];

    /// What becomes of the fields of a chat; `None` where it goes as it is.
    fn fields(&self) -> Option<&'static chat::ChatFieldRules> {
        None
    }

    /// The request, without the credential.
    fn encode(&self, call: &AdapterCall<'_>) -> Result<Request, Unsupported>;

    /// Why the job cannot be said, if it cannot.
    fn refusal(&self, call: &AdapterCall<'_>) -> Option<Unsupported> {
        self.encode(call).err()
    }

    /// Reads an answer with a good status; `None` when it cannot be read.
    fn decode(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer>;
}

impl AdapterCall<'_> {
    /// The typed chat of its body; `fields` says what becomes of each of them.
    ///
    /// # Errors
    /// When a field is not known, or has a value that it cannot have.
    pub(crate) fn chat(
        &self,
        fields: &chat::ChatFieldRules,
    ) -> Result<chat::ChatRequest, Unsupported> {
        chat::ChatRequest::read(&self.job.body, fields, &self.endpoint.provider.name)
    }

    /// A request with a JSON body to `path` under the endpoint's address.
    pub(crate) fn post(&self, path: &str, body: &impl Serialize) -> Result<Request, Unsupported> {
        let body = serde_json::to_vec(body)
            .map_err(|error| Unsupported::new("body", error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self.request(path, headers, body.into()))
    }

    /// The model's name in a path.
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
