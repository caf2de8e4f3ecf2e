//! Where an account's calls go, and everything that is done with a call there: pure functions of job, reply and time.

use std::time::Duration;

use bytes::Bytes;
use forebay_schemas::{Class, Job, Response, Usage};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::catalogue::{Auth, Dialect, Provider, Tokens};
use super::error::{ErrorBody, Meaning};
use super::kind::Kind;
use super::usage::within_reason;
use super::{
    Answer, Call, Charge, Decoded, Figures, Said, Scope, Unsupported, admission, charge, sigv4,
};
use crate::cost::{Cost, Together};
use crate::retry_after;
use crate::secret::Secret;
use crate::upstream::{Reply, Request};

/// Longest name of a request that is repeated, in characters.
const LONGEST_REQUEST_ID: usize = 200;
/// How providers name a request.
const REQUEST_IDS: [&str; 4] = [
    "x-request-id",
    "request-id",
    "x-amzn-requestid",
    "apim-request-id",
];

/// Where an account's calls go.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The provider.
    pub provider: &'static Provider,
    /// Its address, without a final slash.
    pub base_url: String,
    /// The version of its API that is asked for, where it has several.
    pub api_version: Option<String>,
}

impl Endpoint {
    /// Calls at `base_url`, with the provider's own version.
    pub fn new(provider: &'static Provider, base_url: &str) -> Self {
        let base_url = base_url.trim_end_matches('/').to_owned();
        Self {
            provider,
            base_url,
            api_version: provider.api_version.clone(),
        }
    }

    /// What is wrong with the version that is asked for, or with asking for none.
    pub fn wrong_version(&self) -> Option<String> {
        let Provider {
            name,
            api_versions,
            dated_address,
            ..
        } = self.provider;
        let undated = dated_address
            .as_ref()
            .map(|end| self.base_url.ends_with(end.as_str()));
        let shape: String = self
            .api_version
            .iter()
            .flat_map(|version| version.chars())
            .map(as_digit)
            .collect();
        match (undated, &self.api_version) {
            (None, Some(_)) if api_versions.is_empty() => Some(format!(
                "{name} has no versions to choose from, leave it out"
            )),
            (None, Some(version)) if !api_versions.contains(version) => Some(format!(
                "`{version}` is not known, use one of {}",
                api_versions.join(", ")
            )),
            (Some(true), Some(_)) => {
                Some("is for the older address alone, leave it out".to_owned())
            }
            (Some(false), None) => Some(format!(
                "is missing: this address needs one, for example \"2024-10-21\"; the newer address, {}, needs none",
                self.provider.example_url.as_deref().unwrap_or_default()
            )),
            (Some(false), Some(version))
                if !matches!(shape.as_str(), "0000-00-00" | "0000-00-00-preview") =>
            {
                Some(format!(
                    "`{version}` is no version, write for example \"2024-10-21\""
                ))
            }
            _ => None,
        }
    }

    fn call<'a>(&'a self, job: &'a Job, model: &'a str) -> Result<Call<'a>, Unsupported> {
        let has = |kind: &Kind| self.provider.kinds().contains(kind);
        let kind = Kind::of(&job.url).filter(has).ok_or_else(|| {
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
        Ok(Call {
            kind,
            job,
            model,
            endpoint: self,
        })
    }

    /// The request for `job` to `model`, without the credential.
    ///
    /// # Errors
    /// When the job cannot be expressed; says which field.
    pub fn encode(&self, job: &Job, model: &str) -> Result<Request, Unsupported> {
        self.provider
            .dialect
            .adapter()
            .encode(&self.call(job, model)?)
    }

    /// Why `job` cannot be said to `model` here, if it cannot.
    pub fn refusal(&self, job: &Job, model: &str) -> Option<Unsupported> {
        match self.call(job, model) {
            Ok(call) => self.provider.dialect.adapter().refusal(&call),
            Err(unsupported) => Some(unsupported),
        }
    }

    /// Adds the credential to a request that is sent at `now`.
    ///
    /// # Errors
    /// When the credential cannot be sent.
    pub fn authorise(
        &self,
        request: &mut Request,
        secret: &Secret,
        now: Timestamp,
    ) -> Result<(), String> {
        let key = secret.expose();
        if key.is_empty() {
            return Ok(());
        }
        let (name, value) = match &self.provider.auth {
            Auth::Bearer => (AUTHORIZATION, format!("Bearer {key}")),
            Auth::Header(name) => {
                let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
                (name, key.to_owned())
            }
            Auth::AwsSigv4 => return sigv4::sign(request, key, now),
        };
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| "the key holds characters that cannot stand in a header".to_owned())?;
        value.set_sensitive(true);
        request.headers.insert(name, value);
        Ok(())
    }

    /// Why no call can be made with this credential, if none can.
    pub fn wrong_key(&self, secret: &Secret) -> Option<String> {
        let (url, account) = (self.base_url.clone(), String::new());
        let (method, headers) = (Method::POST, HeaderMap::new());
        let mut request = Request {
            method,
            url,
            headers,
            body: Bytes::new(),
            account,
        };
        self.authorise(&mut request, secret, Timestamp::UNIX_EPOCH)
            .err()
    }

    /// What the provider takes a call to `model` to cost when it admits it.
    pub fn admission_cost(&self, job: &Job, model: &str) -> Cost {
        let Tokens {
            together,
            always_sets_maximum,
            ..
        } = self.provider.tokens;
        admission::cost(job, model, together, always_sets_maximum)
    }

    /// Whether a job says how long its answer may be.
    pub(crate) fn states_maximum(job: &Job) -> bool {
        admission::states_maximum(job)
    }

    /// What costs so much elsewhere, as this provider counts it.
    pub fn counted(&self, cost: Cost) -> Cost {
        Cost {
            together: self.provider.tokens.together,
            ..cost
        }
    }

    /// What a call turned out to cost.
    pub fn spent(&self, usage: Usage, model: &str) -> Cost {
        let together = match self.provider.tokens.together {
            Together::Input => Together::Input,
            Together::Sum | Together::Larger => Together::Sum,
        };
        let output_tokens = usage
            .output_tokens
            .saturating_mul(self.provider.burndown(model));
        let free = if self.provider.tokens.cached_is_free {
            usage.cached_input_tokens
        } else {
            0
        };
        let input_tokens = usage.input_tokens.saturating_sub(free);
        Cost {
            requests: 1,
            input_tokens,
            output_tokens,
            together,
        }
    }

    /// Whether the provider gives back what was admitted and not used.
    pub fn settles(&self) -> bool {
        self.provider.tokens.settles
    }

    /// What the headers of an answer say of limits.
    pub fn observe(&self, headers: &HeaderMap, now: Timestamp) -> Vec<Figures> {
        self.provider
            .limit_headers()
            .iter()
            .filter_map(|limit| limit.read(headers, now))
            .collect()
    }

    /// Reads the reply to `job`.
    pub fn decode(&self, job: &Job, model: &str, reply: &Reply, now: Timestamp) -> Decoded {
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
                    let message = unread(Kind::of(&job.url), reply);
                    let blank = self.blank(reply, now);
                    Decoded {
                        class: Some(Class::MalformedResponse),
                        message: Some(message),
                        ..blank
                    }
                }
            },
            // It may have been paid for.
            Some((
                _,
                Answer {
                    said: Said::Error(error),
                    usage,
                    ..
                },
            )) => Decoded {
                usage: usage.map(within_reason),
                ..self.refused(job, error, reply, now)
            },
            Some((kind, Answer { body, usage, said })) => {
                let (class, message) = match said {
                    Said::Filtered(reason) => (Some(Class::ContentFiltered), Some(reason)),
                    _ => (None, None),
                };
                Decoded {
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

    fn blank(&self, reply: &Reply, now: Timestamp) -> Decoded {
        let own = || self.provider.wait.as_ref()?.read(&reply.headers, now);
        Decoded {
            class: None,
            response: None,
            code: None,
            message: None,
            usage: None,
            charge: Charge::default(),
            retry_after: retry_after::from_headers(&reply.headers, now).or_else(own),
            scope: Scope::Model,
            is_final: false,
            is_error: false,
        }
    }

    fn refused(&self, job: &Job, error: ErrorBody, reply: &Reply, now: Timestamp) -> Decoded {
        let Meaning { class, scope, back } =
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
            (Class::ModelNotAllowed, Scope::Request, 404) => Some(not_found(error.message)),
            _ => error.message,
        };
        Decoded {
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

    /// The body of an error in OpenAI's shape, the provider's own beside it; what is not JSON as a JSON string.
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

/// Every digit as 0, so that what is left is the form of a text.
fn as_digit(char: char) -> char {
    if char.is_ascii_digit() { '0' } else { char }
}

/// What is said of a 404 that speaks of no model: nobody but the operator can tell whose mistake it is.
fn not_found(message: Option<String>) -> String {
    let message = message.unwrap_or_else(|| "the provider answered 404".to_owned());
    format!("{message} (if every call is answered so, put `base_url` of the account right)")
}

/// Why an answer cannot be read, without a word of it.
fn unread(kind: Option<Kind>, reply: &Reply) -> String {
    let content_type = reply
        .headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let reason = match serde_json::from_slice::<IgnoredAny>(&reply.body) {
        _ if reply.body.is_empty() => "it is empty".to_owned(),
        _ if content_type.is_some_and(|kind| kind.contains("html")) => {
            "it is a page of HTML".to_owned()
        }
        _ if kind == Some(Kind::Speech) => "it is no sound".to_owned(),
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

/// An error body that is not JSON, as a JSON string: at most its first 2,000 characters.
fn text_as_json(body: &[u8]) -> Option<Box<RawValue>> {
    let text: String = String::from_utf8_lossy(body).chars().take(2_000).collect();
    serde_json::value::to_raw_value(&text).ok()
}
