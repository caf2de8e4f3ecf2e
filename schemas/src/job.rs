//! A job: an OpenAI Batch line with a few optional fields more.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::flow::is_name;
use crate::format::{Format, job_of_today};
use crate::quoting::{cut_name, without_values};
use crate::subjects::hex;

/// The problem of a job with the field `reuse`.
const RENAMED: &str = "is now `cache`: \"1h\", \"coalesce\" (was \"0s\") or \"off\"";
/// The longest id, in bytes: every message about a job contains it.
const MAX_ID: usize = 512;

/// A JSON object whose values are kept as the bytes in which they came.
pub type Object = BTreeMap<String, Box<RawValue>>;

/// A request for one AI call. Every line of an OpenAI Batch input file is one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Job")]
pub struct Job {
    /// The job's id within its team and batch. If absent: `custom_id`, else the `Nats-Msg-Id`
    /// header, else an id made from the stream's creation and the message's sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// OpenAI Batch's name for `id`. Beside an `id` it is only repeated in the completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_id: Option<String>,
    /// The kind of call, as OpenAI's path.
    #[serde(default = "default_url")]
    pub url: String,
    /// Always `POST`; present because OpenAI Batch lines have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The request in OpenAI's format, which is the unified one. `model` may name a target's model
    /// or the pool; absent means any target of the pool.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub body: Object,
    /// The batch that the job belongs to: 1 to 64 of `[A-Za-z0-9_-]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub batch: Option<String>,
    /// The subject for a copy of the completion. It must begin with `_INBOX.`, `_INBOX_<team>.` or
    /// a prefix that is configured for the team. The header `Nats-Reply-To` means the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The time after which no call is made (RFC 3339); the job then ends as `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub deadline: Option<Timestamp>,
    /// The time before which no call is made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_before: Option<Timestamp>,
    /// The treatment of an attempt that was sent and whose result is unknown.
    #[serde(default)]
    pub on_ambiguous: OnAmbiguous,
    /// The permission to use the answer to an identical request of another job of the team; if
    /// absent, the pool's setting applies. No answer is older than the dedupe horizon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Any data; it is copied to the completion unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub metadata: Option<Object>,
    /// The name of `cache` in format 1: refused where it is given.
    #[serde(default, rename = "reuse", skip_serializing)]
    #[schemars(skip)]
    _reuse: FormerReuse,
}

/// The treatment of an attempt that was sent and whose result is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnAmbiguous {
    /// The job is retried: the call may then be made, and billed, twice.
    #[default]
    Retry,
    /// The job is given up: the call is made at most once.
    Fail,
}

/// The field `reuse`. Every value but null is refused, with the field's present name.
#[derive(Debug, Clone, Copy, Default)]
struct FormerReuse;

impl<'de> Deserialize<'de> for FormerReuse {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Option::<IgnoredAny>::deserialize(from)? {
            None => Ok(Self),
            Some(_) => Err(de::Error::custom(RENAMED)),
        }
    }
}

fn default_url() -> String {
    "/v1/chat/completions".to_owned()
}

/// The reason why bytes are not a job.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The bytes are not JSON, or do not have a job's shape.
    #[error("not a job: {0}")]
    Shape(String),
    /// A field has an impossible value.
    #[error("field `{field}`: {problem}")]
    Field {
        /// The field's name.
        field: String,
        /// The problem and the expected value.
        problem: String,
    },
}

impl Job {
    /// Reads a job from one JSON object.
    ///
    /// ```
    /// let line = br#"{"custom_id":"r-1","method":"POST","url":"/v1/embeddings","body":{"input":"hi"}}"#;
    /// let job = forebay_schemas::Job::parse(line).unwrap();
    /// assert_eq!(job.own_id(), Some("r-1"));
    /// ```
    ///
    /// # Errors
    /// Fails when `bytes` is not a JSON object of a job's shape, or a field has an impossible
    /// value.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        Self::parse_as(bytes, Format::Two)
    }

    /// Reads a job as [`Job::parse`] does, from a message of this format.
    ///
    /// # Errors
    /// Fails as [`Job::parse`] does. Words of format 1 are errors in format 2; the error names the
    /// present word.
    pub fn parse_as(bytes: &[u8], format: Format) -> Result<Self, ParseError> {
        let of_today = (format == Format::One)
            .then(|| job_of_today(bytes))
            .flatten();
        let bytes = of_today.as_deref().unwrap_or(bytes);
        let job: Job = serde_json::from_slice(bytes).map_err(|error| name_field(bytes, &error))?;
        job.check()?;
        Ok(job)
    }

    /// Checks that no field has an impossible value.
    fn check(&self) -> Result<(), ParseError> {
        if self
            .method
            .as_deref()
            .is_some_and(|method| method != "POST")
        {
            return wrong("method", "is not supported, use POST".to_owned());
        }
        if let Some(batch) = self.batch.as_deref().filter(|batch| !is_name(batch)) {
            return wrong(
                "batch",
                format!(
                    "`{}` is no batch name, use 1 to 64 of A-Z a-z 0-9 _ -",
                    cut_name(batch)
                ),
            );
        }
        for (field, id) in [("id", &self.id), ("custom_id", &self.custom_id)] {
            if let Some(id) = id.as_deref().filter(|id| !is_id(id)) {
                return wrong(field, format!("has {} bytes, use 1 to {MAX_ID}", id.len()));
            }
        }
        if self.is_true("stream") {
            return wrong(
                "body.stream",
                "a job is answered once and whole, leave `stream` out".to_owned(),
            );
        }
        Ok(())
    }

    /// Returns the id that the job itself contains.
    pub fn own_id(&self) -> Option<&str> {
        let id = self.id.as_deref();
        id.or(self.custom_id.as_deref())
    }

    /// Returns `body.model`; `None` if it is not a string.
    pub fn model(&self) -> Option<String> {
        let model = self.body.get("model")?;
        serde_json::from_str(model.get()).ok()
    }

    /// Returns the size of the body's values in bytes.
    pub fn size(&self) -> usize {
        let values = self.body.values();
        let sizes = values.map(|value| value.get().len());
        sizes.sum()
    }

    fn is_true(&self, field: &str) -> bool {
        let value = self.body.get(field);
        value.is_some_and(|raw| raw.get() == "true")
    }

    /// Returns the fingerprint of the request: 32 hex digits over pool, url and body. Two jobs of
    /// one identity with the same fingerprint are the same request. White space and the order of
    /// keys do not count.
    pub fn fingerprint(&self, pool: &str) -> String {
        self.fingerprint_without(pool, None)
    }

    /// Returns the fingerprint without one field of the body.
    pub fn fingerprint_without(&self, pool: &str, field: Option<&str>) -> String {
        let mut hash = Sha256::new();
        for part in [pool, &self.url] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        for (key, raw) in &self.body {
            if field == Some(key.as_str()) {
                continue;
            }
            feed(&mut hash, &Value::String(key.clone()));
            match serde_json::from_str(raw.get()) {
                Ok(value) => feed(&mut hash, &value),
                // Raw values were checked when they were read. If one fails all the same, its text
                // is hashed.
                Err(_) => hash.update(raw.get()),
            }
        }
        hex(&hash.finalize()[..16])
    }
}

fn wrong(field: &str, problem: String) -> Result<(), ParseError> {
    Err(ParseError::Field {
        field: field.to_owned(),
        problem,
    })
}

/// Returns true if `id` can be a job's id: any text of 1 to 512 bytes.
pub fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len())
}

/// Reads the bytes again to find the wrong field. Only wrong jobs cost this second reading.
fn name_field(bytes: &[u8], error: &serde_json::Error) -> ParseError {
    if !error.is_data() {
        return ParseError::Shape(format!("not valid JSON: {error}"));
    }
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return ParseError::Shape(
            "expected one JSON object, such as {\"id\": \"1\", \"body\": {}}".to_owned(),
        );
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Err(found) = serde_path_to_error::deserialize::<_, Job>(&mut json) else {
        return ParseError::Shape(without_values(error));
    };
    let mut path = found.path().iter();
    if path.next().is_none() {
        return ParseError::Shape(without_values(error));
    }
    let field = cut_name(&found.path().to_string());
    let found = without_values(found.inner());
    let problem = match field.as_str() {
        "deadline" | "not_before" => {
            "expected a time in RFC 3339, for example \"2030-01-31T09:30:00Z\"".to_owned()
        }
        "body" | "metadata" => format!("expected a JSON object; {found}"),
        _ => found,
    };
    ParseError::Field { field, problem }
}

/// Feeds a value to the hash together with its type, so that different values never feed the same
/// bytes.
fn feed(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Array(items) => {
            hash.update(b"[");
            items.iter().for_each(|item| feed(hash, item));
            hash.update(b"]");
        }
        Value::Object(map) => {
            hash.update(b"{");
            let sorted: BTreeMap<_, _> = map.iter().collect();
            for (key, item) in sorted {
                feed(hash, &Value::String(key.clone()));
                feed(hash, item);
            }
            hash.update(b"}");
        }
        Value::String(text) => {
            hash.update(b"\"");
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        scalar => {
            hash.update(scalar.to_string());
            hash.update(b",");
        }
    }
}

/// The identity of a job: publishes with the same identity are the same job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The team, from the subject.
    pub team: String,
    /// The batch, if the job names one.
    pub batch: Option<String>,
    /// The job's id.
    pub id: String,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.team,
            self.batch.as_deref().unwrap_or("_"),
            self.id
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Job, ParseError> {
        Job::parse(text.as_bytes())
    }

    #[test]
    fn a_body_is_all_that_a_job_needs() {
        let job = parse(r#"{"body":{"messages":[]}}"#).expect("a job");
        assert_eq!(job.url, "/v1/chat/completions");
        assert_eq!(job.own_id(), None);
        assert_eq!(job.on_ambiguous, OnAmbiguous::Retry);
    }

    #[test]
    fn mistakes_name_the_field() {
        for (text, expected) in [
            ("{", "not a job: not valid JSON: EOF"),
            (
                r#"{"body":{},}"#,
                "not a job: not valid JSON: trailing comma at line 1 column 12",
            ),
            (r#"{"body":{"model":"m""#, "not a job: not valid JSON: EOF"),
            (
                r#"{"id":"a" "body":{}}"#,
                "not a job: not valid JSON: expected `,` or `}`",
            ),
            ("[]", "not a job: expected one JSON object"),
            (r#""text""#, "not a job: expected one JSON object"),
            (
                r#"{"id":1,"body":{}}"#,
                "field `id`: invalid type: integer, expected a string",
            ),
            (r#"{"body":[]}"#, "field `body`: expected a JSON object"),
            (r#"{"custom_id":"a"}"#, "body"),
            (r#"{"body":{},"method":"GET"}"#, "method"),
            (r#"{"body":{},"batch":"a.b"}"#, "batch"),
            (r#"{"body":{},"id":""}"#, "id"),
            (
                &format!(r#"{{"body":{{}},"custom_id":"{}"}}"#, "x".repeat(513)),
                "513 bytes",
            ),
            (r#"{"body":{"stream":true}}"#, "stream"),
            (
                r#"{"body":{},"deadline":"soon"}"#,
                "field `deadline`: expected a time in RFC 3339, for example",
            ),
            (
                r#"{"body":{},"cache":"soon"}"#,
                "field `cache`: is no duration: write for example",
            ),
            (
                r#"{"body":{},"cache":"0s"}"#,
                "field `cache`: a duration of zero is now \"coalesce\"",
            ),
            (
                r#"{"body":{},"reuse":"0s"}"#,
                "field `reuse`: is now `cache`: \"1h\", \"coalesce\"",
            ),
            (
                r#"{"body":{},"reuse":7}"#,
                "field `reuse`: is now `cache`: \"1h\", \"coalesce\"",
            ),
            (
                r#"{"body":{},"not_before":7}"#,
                "field `not_before`: expected a time in RFC 3339, for example",
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(
                !error.contains('?') && !error.contains("struct"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_job_of_format_1_is_read_in_the_words_of_today() {
        let old = br#"{"id":"1","body":{},"reuse":"0s"}"#;
        let job = Job::parse_as(old, Format::One).expect("a job");
        assert_eq!(job.cache, Some(Cache::Coalesce));
        assert!(
            serde_json::to_string(&job)
                .expect("json")
                .contains(r#""cache":"coalesce""#)
        );
        // 0.1 had no `cache`, so the field meant nothing.
        for cache in ["\"1h\"", "true", "\"0s\""] {
            let old = format!(r#"{{"body":{{"a":1e400}},"cache":{cache}}}"#);
            let job = Job::parse_as(old.as_bytes(), Format::One).expect("a job");
            assert_eq!((job.cache, job.body["a"].get()), (None, "1e400"));
        }
        for wrong in [r#"{"body":{},"reuse":"soon"}"#, "[]", "{"] {
            assert!(
                Job::parse_as(wrong.as_bytes(), Format::One).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn numbers_in_a_body_keep_their_bytes() {
        let job = parse(r#"{"body":{"seed":12345678901234567890123,"temperature":0.10}}"#)
            .expect("a job");
        let text = serde_json::to_string(&job.body).expect("json");
        assert_eq!(
            text,
            r#"{"seed":12345678901234567890123,"temperature":0.10}"#
        );
    }

    #[test]
    fn the_fingerprint_sees_values_not_layout() {
        let print = |text: &str, pool: &str| parse(text).expect("a job").fingerprint(pool);
        let one = print(r#"{"body":{"a":[1,{"x":1,"y":"2"}],"b":null}}"#, "p");
        assert_eq!(
            one,
            print(
                r#"{"id":"other", "body":{ "b": null, "a":[1, {"y":"2","x":1}] }}"#,
                "p"
            )
        );
        assert_ne!(
            one,
            print(r#"{"body":{"a":[1,{"x":1,"y":2}],"b":null}}"#, "p")
        );
        assert_ne!(
            one,
            print(r#"{"body":{"a":[1,{"x":1,"y":"2"}],"b":null}}"#, "q")
        );
        assert_ne!(
            print(r#"{"body":{"a":[[1],2]}}"#, "p"),
            print(r#"{"body":{"a":[[1,2]]}}"#, "p")
        );
        let without = |text: &str| {
            parse(text)
                .expect("a job")
                .fingerprint_without("p", Some("input"))
        };
        let plain = without(r#"{"body":{"input":"one"}}"#);
        assert_eq!(plain, without(r#"{"body":{"input":["two","three"]}}"#));
        assert_ne!(plain, without(r#"{"body":{"input":"one","dimensions":8}}"#));
    }
}
