//! The request to an endpoint and the decoding of its reply, in the provider's dialect.

use std::time::Duration;

use forebay_schemas::quoting::cut_name;
use forebay_schemas::{Class, Job, Response};
use http::header::{CONTENT_TYPE, LOCATION};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::adapter::{Adapter, AdapterAnswer, AdapterCall, AnswerKind};
use crate::charge::{self, BilledFacts};
use crate::decoded::{DecodedReply, ErrorScope};
use crate::endpoint::Endpoint;
use crate::error::{ErrorBody, ErrorMeaning};
use crate::kind::WorkKind;
use crate::lenient;
use crate::message::{Reply, Request};
use crate::registry::Dialect;
use crate::retry_after;
use crate::unsupported::Unsupported;
use crate::usage::within_reason;

/// The longest request id that is kept, in characters.
const LONGEST_REQUEST_ID: usize = 200;
/// The longest address of a redirect that is shown, in characters.
const LONGEST_LOCATION: usize = 200;
/// The headers in which providers send the id of a request.
const REQUEST_IDS: [&str; 4] = [
    "x-request-id",
    "request-id",
    "x-amzn-requestid",
    "apim-request-id",
];

impl Endpoint {
    /// Returns the adapter of the provider's dialect.
    fn adapter(&self) -> &'static dyn Adapter {
        self.provider.dialect.adapter()
    }

    fn call<'a>(&'a self, job: &'a Job, model: &'a str) -> Result<AdapterCall<'a>, Unsupported> {
        let kinds = self.provider.kinds();
        match WorkKind::of(&job.url) {
            Some(kind) if kinds.contains(&kind) => Ok(AdapterCall {
                kind,
                job,
                model,
                endpoint: self,
            }),
            _ => {
                let urls = kinds.iter().map(|kind| kind.url());
                let urls: Vec<_> = urls.collect();
                let problem = format!(
                    "`{}` is nothing that {} has, use one of {}",
                    cut_name(&job.url),
                    self.provider.name,
                    urls.join(", ")
                );
                Err(Unsupported::new("url", problem))
            }
        }
    }

    /// Encodes the request for `job` to `model`, without the credential.
    ///
    /// # Errors
    /// Fails when the job cannot be expressed; the error names the field.
    pub fn encode(&self, job: &Job, model: &str) -> Result<Request, Unsupported> {
        let call = self.call(job, model)?;
        self.adapter().encode(&call)
    }

    /// Returns why `job` cannot be encoded for `model` here; `None` if it can.
    pub fn refusal(&self, job: &Job, model: &str) -> Option<Unsupported> {
        match self.call(job, model) {
            Ok(call) => self.adapter().refusal(&call),
            Err(unsupported) => Some(unsupported),
        }
    }

    /// Decodes the reply to `job`.
    pub fn decode(&self, job: &Job, model: &str, reply: &Reply, now: Timestamp) -> DecodedReply {
        if !(200..300).contains(&reply.status) {
            return self.refused(job, ErrorBody::read(reply), reply, now);
        }
        let Ok(call) = self.call(job, model) else {
            return self.unreadable(job, reply, now);
        };
        let answer = self.adapter().decode(&call, reply, now);
        let Some(answer) = answer.or_else(|| self.decode_leniently(&call, reply, now)) else {
            return self.unreadable(job, reply, now);
        };
        let AdapterAnswer {
            body,
            usage,
            answer_kind,
        } = answer;
        let usage = usage.map(within_reason);
        let (class, message) = match answer_kind {
            AnswerKind::Whole => (None, None),
            AnswerKind::Filtered(reason) => (Some(Class::ContentFiltered), Some(reason)),
            // The provider may have charged for it.
            AnswerKind::Error(error) => {
                return DecodedReply {
                    usage,
                    ..self.refused(job, error, reply, now)
                };
            }
        };
        DecodedReply {
            class,
            response: Some(response(reply, body)),
            code: class.map(|_| "content_filter".to_owned()),
            message,
            usage,
            charge: charge::charge(call.kind, job, &reply.body),
            ..self.blank(reply, now)
        }
    }

    /// Decodes an answer that only a lenient reader can read. In OpenAI's dialects its body stays as it came.
    fn decode_leniently(
        &self,
        call: &AdapterCall<'_>,
        reply: &Reply,
        now: Timestamp,
    ) -> Option<AdapterAnswer> {
        let strict = serde_json::to_vec(&lenient::value(&reply.body)?).ok()?;
        let read = Reply {
            body: strict.into(),
            ..reply.clone()
        };
        let mut answer = self.adapter().decode(call, &read, now)?;
        if self.keeps_bodies() {
            let text = lenient::text(&reply.body).into_owned();
            answer.body = RawValue::from_string(text).ok()?;
        }
        Some(answer)
    }

    /// Returns true if bodies of answers have OpenAI's shape as they come.
    fn keeps_bodies(&self) -> bool {
        matches!(self.provider.dialect, Dialect::Openai | Dialect::Responses)
    }

    /// Decodes a reply with a good status that the adapter cannot read.
    fn unreadable(&self, job: &Job, reply: &Reply, now: Timestamp) -> DecodedReply {
        if let Some(error) = ErrorBody::within(reply) {
            return self.refused(job, error, reply, now);
        }
        // It may have been charged, so that it is kept with the job's failure.
        let body = serde_json::from_slice(&reply.body).ok();
        let body = body.or_else(|| text_as_json(&reply.body));
        DecodedReply {
            class: Some(Class::MalformedResponse),
            response: body.map(|body| response(reply, body)),
            message: Some(unread(WorkKind::of(&job.url), reply)),
            ..self.blank(reply, now)
        }
    }

    fn blank(&self, reply: &Reply, now: Timestamp) -> DecodedReply {
        DecodedReply {
            class: None,
            response: None,
            code: None,
            message: None,
            usage: None,
            charge: BilledFacts::default(),
            retry_after: self.wait_in_headers(reply, now),
            scope: ErrorScope::Model,
            is_final: false,
            is_error: false,
            is_unexplained: false,
        }
    }

    fn wait_in_headers(&self, reply: &Reply, now: Timestamp) -> Option<Duration> {
        let usual = retry_after::from_headers(&reply.headers, now);
        if usual.is_some() {
            return usual;
        }
        let own = self.provider.wait.as_ref()?;
        own.read(&reply.headers, now)
    }

    fn refused(&self, job: &Job, error: ErrorBody, reply: &Reply, now: Timestamp) -> DecodedReply {
        let ErrorMeaning {
            class,
            scope,
            back,
            is_unexplained,
        } = error.meaning(self.provider, job, reply, now);
        let blank = self.blank(reply, now);
        let message = error.message.as_deref().unwrap_or_default();
        let in_message = retry_after::from_message(message, now);
        let requested = blank.retry_after.max(error.wait).max(in_message);
        let response = self
            .error_body(&error, reply)
            .map(|body| response(reply, body));
        let message = match (class, scope, reply.status) {
            (Class::ModelNotAllowed, ErrorScope::Request, 300..=399) => {
                Some(redirected(reply, &self.base_url))
            }
            (Class::ModelNotAllowed, ErrorScope::Request, 404 | 405) => {
                Some(not_found(error.message, reply.status, &self.base_url))
            }
            _ => error.message,
        };
        DecodedReply {
            class: Some(class),
            response,
            code: error.code,
            message,
            retry_after: back.max(requested),
            scope,
            is_final: reply.header("x-should-retry") == Some("false"),
            is_error: true,
            is_unexplained,
            ..blank
        }
    }

    /// Returns the body of an error in OpenAI's shape. OpenAI's dialects have that shape already;
    /// for others the provider's own body is added as `native`. A body that is not JSON becomes a
    /// JSON string.
    fn error_body(&self, error: &ErrorBody, reply: &Reply) -> Option<Box<RawValue>> {
        let Ok(raw) = serde_json::from_slice::<Box<RawValue>>(&reply.body) else {
            return text_as_json(&reply.body);
        };
        if self.keeps_bodies() {
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

/// Returns the message for a redirect. It names the place to which it points, without what may be secret there.
fn redirected(reply: &Reply, base_url: &str) -> String {
    let place = reply.header(LOCATION).map_or_else(String::new, |location| {
        let end = location.find(['?', '#']).unwrap_or(location.len());
        let shown = location[..end].chars().take(LONGEST_LOCATION);
        format!(" to {}", shown.collect::<String>())
    });
    format!(
        "`base_url` {base_url} redirects{place} (status {}), and calls are not sent on: put `base_url` of the account right",
        reply.status
    )
}

/// Returns the message for a 404 or 405 that does not concern the model. Only the operator can find out whether the job or
/// the address is wrong.
fn not_found(message: Option<String>, status: u16, base_url: &str) -> String {
    let message = message.unwrap_or_else(|| format!("the provider answered {status}"));
    let has_path = base_url.splitn(4, '/').nth(3).is_some();
    let hint = if has_path {
        ""
    } else {
        ": it has no path, and most addresses end with /v1"
    };
    format!(
        "{message} (if every call is answered so, put `base_url` {base_url} of the account right{hint})"
    )
}

/// Returns why an answer cannot be read, without a word of the answer.
fn unread(kind: Option<WorkKind>, reply: &Reply) -> String {
    let content_type = reply.header(CONTENT_TYPE);
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
    let id = REQUEST_IDS.iter().find_map(|name| reply.header(*name));
    let shortened = |id: &str| id.chars().take(LONGEST_REQUEST_ID).collect();
    let request_id = id.map(shortened);
    Response {
        status_code: reply.status,
        request_id,
        body,
    }
}

/// Returns an error body that is not JSON as a JSON string: at most its first 2,000 characters.
fn text_as_json(body: &[u8]) -> Option<Box<RawValue>> {
    let text = String::from_utf8_lossy(body);
    let text: String = text.chars().take(2_000).collect();
    serde_json::value::to_raw_value(&text).ok()
}
