//! Errors of providers: the reading of every envelope that they use, and the meaning of an error.

use std::time::Duration;

use forebay_schemas::{Class, Job};
use http::HeaderMap;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::decoded::ErrorScope;
use crate::lenient;
use crate::message::{Reply, header};
use crate::registry::{ErrorRule, Provider, ReturnRule};
use crate::retry_after;

/// The fields in which errors have their message.
const MESSAGE_FIELDS: [&str; 8] = [
    "message",
    "Message",
    "detail",
    "msg",
    "status_msg",
    "error_msg",
    "errmsg",
    "error",
];
/// The fields in which errors have a wait, each with the seconds that its plain number counts.
const WAIT_FIELDS: [(&str, f64); 5] = [
    ("retry_after", 1.0),
    ("retryAfter", 1.0),
    ("retry_after_seconds", 1.0),
    ("retry_after_ms", 1e-3),
    ("retryAfterMs", 1e-3),
];
/// The fields in which errors have names.
const NAME_FIELDS: [&str; 8] = [
    "code",
    "type",
    "status",
    "error_type",
    "__type",
    "status_code",
    "error_code",
    "errcode",
];
/// Statuses that speak of the request itself: it is too large, or it was read and is invalid.
const TOO_LARGE_OR_INVALID: [u16; 2] = [413, 422];
/// Fields of requests that errors name, beside those of the job: dialects have other names for some.
const KNOWN_FIELDS: [&str; 12] = [
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "tools",
    "tool_choice",
    "response_format",
    "input",
    "contents",
    "generationconfig",
    "stream",
];
/// Words of errors that speak of the request's form.
const BAD_REQUEST_WORDS: [&str; 14] = [
    "parameter",
    "field required",
    "is required",
    "missing field",
    "unknown field",
    "invalid json",
    "parse the json",
    "not valid json",
    "validation error",
    "schema",
    "invalid value",
    "invalid type",
    "unsupported value",
    "must be one of",
];

/// The contents of an error.
#[derive(Debug, Clone, Default)]
pub(super) struct ErrorBody {
    pub(super) message: Option<String>,
    /// The provider's short name of the error, for the completion.
    pub(super) code: Option<String>,
    /// Every machine-readable name in the error: codes, types, statuses, reasons, ids of quotas.
    pub(super) names: Vec<String>,
    /// The wait that the details request; `None` where they request none.
    pub(super) wait: Option<Duration>,
    /// The HTTP status that the body itself contains.
    pub(super) status: Option<u16>,
    /// The field of the request that the error names.
    pub(super) parameter: Option<String>,
}

/// The meaning of an error at a provider.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErrorMeaning {
    pub(super) class: Class,
    pub(super) scope: ErrorScope,
    /// The time until a spent allowance is back; `None` where no calendar decides it.
    pub(super) back: Option<Duration>,
    /// True if the error is a refusal that names no fault of the request: the account or the address may be the reason.
    pub(super) is_unexplained: bool,
}

impl ErrorBody {
    /// Reads an error from its body, and from the header in which AWS names it.
    pub(super) fn read(reply: &Reply) -> Self {
        let value = lenient::value(&reply.body).unwrap_or(Value::Null);
        let mut error = Self::of(&value);
        if let Some(name) = reply.header("x-amzn-errortype") {
            // `ThrottlingException:http://…` names the shape and where it is defined.
            let shape = name.split(':').next().unwrap_or(name);
            error.name(shape);
        }
        error
    }

    /// Reads an error that came with a good status; `None` if the body is not an error.
    pub(super) fn within(reply: &Reply) -> Option<Self> {
        let value = lenient::value(&reply.body)?;
        let first = first(&value);
        let is_stated = |value: &Value| value.is_object() || value.is_string();
        let has = |field: &str| first.get(field).is_some_and(is_stated);
        let is_error = |field: &str| first.get(field).is_some_and(|name| name == "error");
        let is_named = is_error("type") || is_error("object");
        // Cohere's errors have only a `message`, a text. In Cohere's answers it is an object.
        let is_flat = first.get("message").is_some_and(Value::is_string);
        let is_stated = has("error") || has("detail") || is_named || is_flat;
        (is_stated || is_failure(first)).then(|| Self::read(reply))
    }

    /// Reads `{"error":{…}}`, `{"error":"text"}`, `[{"error":{…}}]`, `{"message":…}`, `{"detail":…}` and
    /// `{"base_resp":{…}}`.
    pub(super) fn of(value: &Value) -> Self {
        let value = first(value);
        let error = ["error", "base_resp"]
            .iter()
            .find_map(|field| value.get(field).filter(|error| !error.is_null()))
            .unwrap_or(value);
        let mut body = Self::default();
        match error {
            Value::String(message) => body.message = Some(message.clone()),
            _ => body.read_object(error),
        }
        // Together also puts a type beside the error.
        body.name_of(value.get("error_type"));
        // A number becomes the code only where the error has no word for it.
        let first_name = body.names.first().cloned();
        body.code = body.code.or(first_name);
        body
    }

    fn read_object(&mut self, error: &Value) {
        let message = MESSAGE_FIELDS
            .iter()
            .find_map(|field| error.get(field).filter(|message| !message.is_null()));
        self.message = message.map(as_text);
        for field in NAME_FIELDS {
            self.name_of(error.get(field));
        }
        let waits = WAIT_FIELDS
            .iter()
            .filter_map(|(field, unit)| wait_in(error.get(field)?, *unit));
        self.wait = self.wait.max(waits.max());
        let parameter = error.get("param").and_then(Value::as_str);
        self.parameter = parameter.filter(|name| !name.is_empty()).map(str::to_owned);
        self.name_of(error.pointer("/innererror/code"));
        self.name_of(error.pointer("/metadata/error_type"));
        match error.get("details") {
            Some(Value::Array(details)) => {
                details.iter().for_each(|detail| self.read_detail(detail))
            }
            Some(details) => self.name_of(details.get("error_code")),
            None => {}
        }
    }

    /// Reads one of Google's details: `ErrorInfo`, `QuotaFailure` or `RetryInfo`.
    fn read_detail(&mut self, detail: &Value) {
        self.name_of(detail.get("reason"));
        let violations = detail.get("violations").and_then(Value::as_array);
        for violation in violations.into_iter().flatten() {
            self.name_of(violation.get("quotaId"));
            let quota = violation.get("quotaValue");
            if quota.is_some_and(|value| value == "0" || value == 0) {
                self.name("quotaValue=0");
            }
        }
        // Google's `RetryInfo`.
        let delay = detail.get("retryDelay");
        self.wait = self.wait.max(delay.and_then(|delay| wait_in(delay, 1.0)));
    }

    fn name_of(&mut self, value: Option<&Value>) {
        match value {
            Some(Value::String(name)) => self.name(name),
            Some(Value::Number(number)) => {
                let status = number
                    .as_u64()
                    .and_then(|number| u16::try_from(number).ok());
                let failed = status.filter(|status| (400..600).contains(status));
                self.status = self.status.or(failed);
                self.names.push(number.to_string());
            }
            _ => {}
        }
    }

    fn name(&mut self, name: &str) {
        // AWS may put a namespace and `#` before a name.
        let name = name.rsplit('#').next().unwrap_or(name);
        if name.is_empty() {
            return;
        }
        self.code.get_or_insert_with(|| name.to_owned());
        self.names.push(name.to_owned());
    }

    /// Returns the meaning of the error at `provider`, for a call for `job`.
    pub(super) fn meaning(
        &self,
        provider: &Provider,
        job: &Job,
        reply: &Reply,
        now: Timestamp,
    ) -> ErrorMeaning {
        // An error with a good status contains the status that it means.
        let own_status = self.status.filter(|_| reply.status < 300);
        let status = own_status.unwrap_or(reply.status);
        let message = self.message.as_deref().unwrap_or_default();
        let message = message.to_lowercase().replace('\u{2019}', "'");
        let is_met = |rule: &&ErrorRule| self.is(rule, job, status, &reply.headers, &message);
        let rule = provider.rules().find(is_met);
        let class = rule.map_or_else(|| by_status(status), |rule| rule.class);
        let scope = match class {
            Class::BadKey => ErrorScope::Key,
            // A 403 without a code can concern a moderated prompt as well as the model.
            Class::ModelNotAllowed if rule.is_none() => ErrorScope::Request,
            _ => ErrorScope::Model,
        };
        let scope = rule.and_then(|rule| rule.scope).unwrap_or(scope);
        let wait = |back: &ReturnRule| back.wait(now);
        let may_be_of_account = match class {
            Class::BadRequest => !TOO_LARGE_OR_INVALID.contains(&status),
            Class::ModelNotAllowed => scope == ErrorScope::Request,
            _ => false,
        };
        ErrorMeaning {
            class,
            scope,
            back: rule.and_then(|rule| rule.back.as_ref()).and_then(wait),
            is_unexplained: may_be_of_account && !self.names_parameter(job, &message),
        }
    }

    /// Returns true if the error names a field of the request as its reason, or says that the request cannot be read.
    fn names_parameter(&self, job: &Job, message: &str) -> bool {
        let is_field = |name: &str| job.body.contains_key(name) || KNOWN_FIELDS.contains(&name);
        self.parameter.is_some()
            || BAD_REQUEST_WORDS
                .iter()
                .any(|words| message.contains(words))
            || paths_in(message).any(is_field)
    }

    fn is(
        &self,
        rule: &ErrorRule,
        job: &Job,
        status: u16,
        headers: &HeaderMap,
        message: &str,
    ) -> bool {
        let has_name = |wanted: &String| self.names.contains(wanted);
        let has_name_with = |part: &String| self.has_name_with(part);
        let has_words = |words: &String| says(rule.class, job, message, words);
        let has_header = |(name, value): &(String, String)| {
            header(headers, name).is_some_and(|found| found == value)
        };
        is_met(&rule.status, |wanted| *wanted == status)
            && is_met(&rule.names, has_name)
            && is_met(&rule.names_with, has_name_with)
            && rule.header.as_ref().is_none_or(has_header)
            && is_met(&rule.says, has_words)
    }

    fn has_name_with(&self, part: &str) -> bool {
        let mut names = self.names.iter();
        names.any(|name| name.contains(part))
    }
}

/// Returns true if a body without an error of its own states that the request failed, as some gateways do with status 200.
fn is_failure(body: &Value) -> bool {
    let is_failing = |code: &Value| code.as_i64().is_some_and(|code| code != 0);
    let has_failing = |path: &str| body.pointer(path).is_some_and(is_failing);
    let has_failed = body.get("success").is_some_and(|success| success == false);
    let paths = ["/base_resp/status_code", "/error_code", "/errcode"];
    has_failed || paths.into_iter().any(has_failing)
}

/// Returns the first part of each field's path that a message quotes, or begins with, such as `messages` of
/// `messages[0].content: is required`.
fn paths_in(message: &str) -> impl Iterator<Item = &str> {
    let begins = message.split_once(':').map(|(path, _)| path);
    let quotes = ['\'', '"', '`'];
    let quoted = message.split(quotes).skip(1).step_by(2);
    begins
        .into_iter()
        .chain(quoted)
        .filter_map(|path| path.split(['.', '[', ' ']).next())
}

/// Returns true if a condition of a rule is absent, or one of its entries holds.
fn is_met<T>(entries: &[T], holds: impl Fn(&T) -> bool) -> bool {
    entries.is_empty() || entries.iter().any(holds)
}

fn as_text(message: &Value) -> String {
    match message {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Reads a wait in a field: a number that counts `unit` seconds, or a text such as `3.5s`. A point in time is none.
fn wait_in(value: &Value, unit: f64) -> Option<Duration> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    retry_after::read(&text, unit, Timestamp::MAX)
}

/// Returns true if a message contains `words` and the job does not. Providers repeat values of a
/// request that they refuse. No job's words may stop an account or a model for other jobs. For
/// classes that concern one job alone, the job's own words count too.
fn says(class: Class, job: &Job, message: &str, words: &str) -> bool {
    let is_of_the_job = matches!(
        class,
        Class::ContextTooLong | Class::ContentFiltered | Class::ExceedsLimit | Class::BadRequest
    );
    message.contains(words)
        && (is_of_the_job || !job.body.iter().any(|(name, raw)| holds(name, raw, words)))
}

fn holds(name: &str, raw: &RawValue, words: &str) -> bool {
    // A field that cannot be read may contain any words.
    let value = serde_json::from_str(raw.get()).unwrap_or_else(|_| Value::String(words.to_owned()));
    name.to_lowercase().contains(words) || has_words(&value, words)
}

fn has_words(value: &Value, words: &str) -> bool {
    match value {
        Value::String(text) => text.to_lowercase().contains(words),
        Value::Array(items) => items.iter().any(|item| has_words(item, words)),
        Value::Object(map) => map
            .iter()
            .any(|(name, value)| name.to_lowercase().contains(words) || has_words(value, words)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Returns the first item of an array, or the value itself. Google may send an error as the only
/// item of an array.
fn first(value: &Value) -> &Value {
    match value {
        Value::Array(items) => items.first().unwrap_or(&Value::Null),
        other => other,
    }
}

impl ReturnRule {
    /// Returns the time until the allowance is back; `None` for an unknown time zone.
    fn wait(&self, now: Timestamp) -> Option<Duration> {
        let (ReturnRule::DayIn(zone) | ReturnRule::MonthIn(zone)) = self;
        let here = now.to_zoned_datetime(TimeZone::get(zone).ok()?);
        let last = match self {
            ReturnRule::DayIn(_) => Ok(here),
            ReturnRule::MonthIn(_) => here.last_of_month(),
        };
        let next = last
            .and_then(|last| last.tomorrow())
            .and_then(|next| next.start_of_day())
            .ok()?;
        Duration::try_from(next.timestamp().duration_since(now)).ok()
    }
}

/// Returns the class of a status that no rule matches.
fn by_status(status: u16) -> Class {
    match status {
        401 => Class::BadKey,
        402 => Class::BillingStop,
        // Most often the address does not exist, or a proxy answers; another target has another address.
        300..=399 | 403 | 404 | 405 | 407 | 412 => Class::ModelNotAllowed,
        // An unknown error with a good status is treated as temporary.
        ..300 | 408 | 409 | 424 | 499 | 500 | 502 | 504 | 524 => Class::ServerError,
        429 => Class::RateLimited,
        503 | 529 => Class::Overloaded,
        501 => Class::BadRequest,
        status if status >= 500 => Class::ServerError,
        _ => Class::BadRequest,
    }
}
