//! The request to an endpoint and the decoding of its reply, in the provider's dialect.

use std::time::Duration;

use forebay_schemas::{Class, Job, Response};
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::adapter::{AdapterAnswer, AdapterCall, AnswerKind};
use crate::charge::{self, BilledFacts};
use crate::decoded::{DecodedReply, ErrorScope};
use crate::endpoint::Endpoint;
use crate::error::{ErrorBody, ErrorMeaning};
use crate::kind::WorkKind;
use crate::message::{Reply, Request};
use crate::registry::Dialect;
use crate::retry_after;
use crate::unsupported::Unsupported;
use crate::usage::within_reason;

/// The longest request id that is kept, in characters.
const LONGEST_REQUEST_ID: usize = 200;
/// The headers in which providers send the id of a request.
const REQUEST_IDS: [&str; 4] = [
    "x-request-id",
    "request-id",
    "x-amzn-requestid",
    "apim-request-id",
];

impl Endpoint {
    fn call<'a>(&'a self, job: &'a Job, model: &'a str) -> Result<AdapterCall<'a>, Unsupported> {
        let has = |kind: &WorkKind| self.provider.kinds().contains(kind);
        let kind = WorkKind::of(&job.url).filter(has).ok_or_else(|| {
            let urls: Vec<_> = self
                .provider
                .kinds()
                .iter()
                .map(|kind| kind.url())
                .collect();
            let name = &self.provider.name;
            let problem = format!(
                "`{}` is nothing that {name} has, use one of {}",
                job.url,
                urls.join(", ")
            );
            Unsupported::new("url", problem)
        })?;
        Ok(AdapterCall {
            kind,
            job,
            model,
            endpoint: self,
        })
    }

    /// Encodes the request for `job` to `model`, without the credential.
    ///
    /// # Errors
    /// Fails when the job cannot be expressed; the error names the field.
    pub fn encode(&self, job: &Job, model: &str) -> Result<Request, Unsupported> {
        self.provider
            .dialect
            .adapter()
            .encode(&self.call(job, model)?)
    }

    /// Returns why `job` cannot be encoded for `model` here; `None` if it can.
    pub fn refusal(&self, job: &Job, model: &str) -> Option<Unsupported> {
        match self.call(job, model) {
            Ok(call) => self.provider.dialect.adapter().refusal(&call),
            Err(unsupported) => Some(unsupported),
        }
    }

    /// Decodes the reply to `job`.
    pub fn decode(&self, job: &Job, model: &str, reply: &Reply, now: Timestamp) -> DecodedReply {
        if !(200..300).contains(&reply.status) {
            return self.refused(job, ErrorBody::read(reply), reply, now);
        }
        let answer = self.call(job, model).ok().and_then(|call| {
            let adapter = self.provider.dialect.adapter();
            Some((call.kind, adapter.decode(&call, reply, now)?))
        });
        match answer {
            None => match ErrorBody::within(reply) {
                Some(error) => self.refused(job, error, reply, now),
                None => {
                    let message = unread(WorkKind::of(&job.url), reply);
                    let blank = self.blank(reply, now);
                    DecodedReply {
                        class: Some(Class::MalformedResponse),
                        message: Some(message),
                        ..blank
                    }
                }
            },
            // The provider may have charged for it.
            Some((
                _,
                AdapterAnswer {
                    said: AnswerKind::Error(error),
                    usage,
                    ..
                },
            )) => DecodedReply {
                usage: usage.map(within_reason),
                ..self.refused(job, error, reply, now)
            },
            Some((kind, AdapterAnswer { body, usage, said })) => {
                let (class, message) = match said {
                    AnswerKind::Filtered(reason) => (Some(Class::ContentFiltered), Some(reason)),
                    _ => (None, None),
                };
                DecodedReply {
                    class,
                    response: Some(response(reply, body)),
                    code: class.map(|_| "content_filter".to_owned()),
                    message,
                    usage: usage.map(within_reason),
                    charge: charge::charge(kind, job, &reply.body),
                    ..self.blank(reply, now)
                }
            }
        }
    }

    fn blank(&self, reply: &Reply, now: Timestamp) -> DecodedReply {
        let own = || self.provider.wait.as_ref()?.read(&reply.headers, now);
        DecodedReply {
            class: None,
            response: None,
            code: None,
            message: None,
            usage: None,
            charge: BilledFacts::default(),
            retry_after: retry_after::from_headers(&reply.headers, now).or_else(own),
            scope: ErrorScope::Model,
            is_final: false,
            is_error: false,
        }
    }

    fn refused(&self, job: &Job, error: ErrorBody, reply: &Reply, now: Timestamp) -> DecodedReply {
        let ErrorMeaning { class, scope, back } =
            error.meaning(self.provider, job, reply.status, &reply.headers, now);
        let hint = |wait: Option<Duration>| {
            wait.or(error.wait)
                .or_else(|| retry_after::from_message(error.message.as_deref()?))
        };
        let blank = self.blank(reply, now);
        let retry_after = back.into_iter().chain(hint(blank.retry_after)).max();
        let is_final = reply
            .headers
            .get("x-should-retry")
            .is_some_and(|value| value == "false");
        let response = self
            .error_body(&error, reply)
            .map(|body| response(reply, body));
        let message = match (class, scope, reply.status) {
            (Class::ModelNotAllowed, ErrorScope::Request, 404) => Some(not_found(error.message)),
            _ => error.message,
        };
        DecodedReply {
            class: Some(class),
            response,
            code: error.code,
            message,
            retry_after,
            scope,
            is_final,
            is_error: true,
            ..blank
        }
    }

    /// Returns the body of an error in OpenAI's shape, with the provider's own body as `native`. A
    /// body that is not JSON becomes a JSON string.
    fn error_body(&self, error: &ErrorBody, reply: &Reply) -> Option<Box<RawValue>> {
        let Ok(raw) = serde_json::from_slice::<Box<RawValue>>(&reply.body) else {
            return text_as_json(&reply.body);
        };
        if matches!(self.provider.dialect, Dialect::Openai | Dialect::Responses) {
            return Some(raw);
        }
        let own: Value = serde_json::from_str(raw.get()).ok()?;
        let kind = error.names.first();
        let body = json!({ "error": {
            "message": error.message, "type": kind, "param": null, "code": error.code, "native": own,
        } });
        serde_json::value::to_raw_value(&body).ok()
    }
}

/// Returns the message for a 404 that does not concern the model. Only the operator can find out
/// whether the job or the address is wrong.
fn not_found(message: Option<String>) -> String {
    let message = message.unwrap_or_else(|| "the provider answered 404".to_owned());
    format!("{message} (if every call is answered so, put `base_url` of the account right)")
}

/// Returns why an answer cannot be read, without a word of the answer.
fn unread(kind: Option<WorkKind>, reply: &Reply) -> String {
    let content_type = reply
        .headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let reason = match serde_json::from_slice::<IgnoredAny>(&reply.body) {
        _ if reply.body.is_empty() => "it is empty".to_owned(),
        _ if content_type.is_some_and(|kind| kind.contains("html")) => {
            "it is a page of HTML".to_owned()
        }
        _ if kind == Some(WorkKind::Speech) => "it is no sound".to_owned(),
        Ok(_) => "it is JSON of another shape".to_owned(),
        Err(error) => format!("it is no JSON: {error}"),
    };
    format!(
        "the provider's answer (status {}) is not what its API answers: {reason}",
        reply.status
    )
}

fn response(reply: &Reply, body: Box<RawValue>) -> Response {
    let id = REQUEST_IDS
        .iter()
        .find_map(|name| reply.headers.get(*name)?.to_str().ok());
    let request_id = id.map(|id| id.chars().take(LONGEST_REQUEST_ID).collect());
    Response {
        status_code: reply.status,
        request_id,
        body,
    }
}

/// Returns an error body that is not JSON as a JSON string: at most its first 2,000 characters.
fn text_as_json(body: &[u8]) -> Option<Box<RawValue>> {
    let text: String = String::from_utf8_lossy(body).chars().take(2_000).collect();
    serde_json::value::to_raw_value(&text).ok()
}
