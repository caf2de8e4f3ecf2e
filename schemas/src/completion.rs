//! A completion: the one final answer to a job.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::failure::Class;
use crate::flow::Lane;
use crate::format::class_name;
use crate::job::{Identity, Object};
use crate::subjects::hex;

/// The most attempts that a completion tells of: the first half and the last half of them.
pub const MOST_ATTEMPTS: usize = 100;

/// The one final answer to a job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Completion")]
pub struct Completion {
    /// The job's id.
    pub id: String,
    /// The job's `custom_id`; its id if it has none.
    pub custom_id: String,
    /// The team that the job belongs to.
    pub team: String,
    /// The batch that the job belongs to, if any.
    pub batch: Option<String>,
    /// The pool that the job asked for.
    pub pool: String,
    /// The job's lane.
    pub lane: Lane,
    /// 1 for the first answer to this identity. One that no provider has worked for is followed by the
    /// next when the job is published again.
    #[serde(alias = "generation")]
    pub revision: u32,
    /// How the job ended.
    pub status: Status,
    /// The provider's last whole answer, an error answer included; null where there was none.
    pub response: Option<Response>,
    /// Why the job did not succeed; null when it did.
    pub error: Option<CompletionError>,
    /// Tokens that the last attempt used, where the provider says; also where it refused for the content.
    pub usage: Option<Usage>,
    /// What the last attempt cost, exactly; null where a price of it is not known, nothing where another job's answer
    /// served.
    pub cost: Option<Cost>,
    /// Who answered, and why it was asked; null where nobody did.
    #[serde(default)]
    pub answered_by: Option<AnsweredBy>,
    /// Whose answer this is, where the job's `cache` or its pool's allowed that no call was made for it; else absent.
    #[serde(default, alias = "reused", skip_serializing_if = "Option::is_none")]
    pub cached_from: Option<CachedFrom>,
    /// Every call that was made, in order; of more than 100 the first 50 and the last 50.
    pub attempts: Vec<Attempt>,
    /// Time between the publish and the first attempt, in milliseconds.
    pub queued_ms: u64,
    /// The job's metadata.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub metadata: Option<Object>,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The provider answered.
    Succeeded,
    /// Given up; `error` says why.
    Failed,
    /// The deadline passed first.
    Expired,
    /// Somebody cancelled it.
    Cancelled,
}

impl Status {
    /// The status's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Succeeded => "succeeded",
            Status::Failed => "failed",
            Status::Expired => "expired",
            Status::Cancelled => "cancelled",
        }
    }
}

/// A provider's answer, in OpenAI's shape.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Response {
    /// The HTTP status.
    pub status_code: u16,
    /// The provider's name for the request, if it gave one.
    pub request_id: Option<String>,
    /// The body, kept as the bytes it came in.
    #[schemars(with = "Value")]
    pub body: Box<RawValue>,
}

/// Why a job did not succeed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CompletionError {
    /// A short name of the cause, the provider's own where it has one.
    #[serde(deserialize_with = "class_name")]
    pub code: String,
    /// What happened, for a person.
    pub message: String,
    /// The cause's class.
    pub class: Class,
}

/// Tokens that a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Prompt tokens, cached ones included.
    pub input_tokens: u64,
    /// Answer tokens, reasoning included.
    pub output_tokens: u64,
    /// Of `input_tokens`, those read from the provider's cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_input_tokens: u64,
    /// Of `input_tokens`, those written to the provider's cache, where that has a price of its own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// Of `output_tokens`, those spent on reasoning.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An exact amount of money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// A decimal string, for example `"0.000175"`.
    pub amount: String,
    /// ISO 4217.
    pub currency: String,
}

/// Who answered a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnsweredBy {
    /// The account that was charged.
    #[serde(alias = "quota")]
    pub account: String,
    /// The provider's name.
    pub provider: String,
    /// The model.
    pub model: String,
    /// Why it was asked.
    pub reason: Reason,
}

/// The job whose answer served another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CachedFrom {
    /// Its batch, if any; its team is the same.
    pub batch: Option<String>,
    /// Its id.
    pub id: String,
    /// When its call was made (RFC 3339).
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub called_at: Timestamp,
}

/// Why a target was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is of the pool's lowest tier, or of the lowest that the job's `model` leaves.
    #[default]
    Preferred,
    /// Those of lower tiers had no room in time, or were cooling, spent or disabled.
    Unavailable,
    /// The job cannot be said to those of lower tiers.
    Unsupported,
    /// A call that was made before failed; `attempts` says how.
    Failed,
}

/// One HTTP call for a job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// The account that was charged.
    #[serde(alias = "quota")]
    pub account: String,
    /// The name of the key that was used, never the key.
    pub key: String,
    /// The provider's name.
    pub provider: String,
    /// The model that was asked for.
    pub model: String,
    /// When the call was sent (RFC 3339).
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// How long the job had waited for this call since it was published or last tried, in
    /// milliseconds.
    pub waited_ms: u64,
    /// From sending to the end of the answer, in milliseconds.
    #[serde(alias = "took_ms")]
    pub duration_ms: u64,
    /// What it turned out to be: `succeeded`, or the failure's class.
    #[serde(deserialize_with = "class_name")]
    pub outcome: String,
    /// The HTTP status, if an answer came.
    pub status_code: Option<u16>,
    /// For how many jobs together the call was made; absent where it was for this one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<u32>,
}

/// A line of an OpenAI Batch output or error file.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutputLine {
    /// OpenAI's name for the request; made from the identity, so that it is the same in every run.
    pub id: String,
    /// The job's `custom_id`.
    pub custom_id: String,
    /// The answer, an error answer included.
    pub response: Option<Response>,
    /// Set where the answer is no HTTP error: there was none at all, or one with a good status that refuses.
    pub error: Option<OutputError>,
}

/// The error of an OpenAI Batch error line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutputError {
    /// A short name of the cause.
    pub code: String,
    /// What happened, for a person.
    pub message: String,
}

impl Attempt {
    /// How it failed; `None` where it succeeded.
    pub fn class(&self) -> Option<Class> {
        Class::named(&self.outcome)
    }
}

impl Completion {
    /// The identity that this answers.
    pub fn identity(&self) -> Identity {
        Identity {
            team: self.team.clone(),
            batch: self.batch.clone(),
            id: self.id.clone(),
        }
    }

    /// Whether this is the answer that the identity keeps: a provider may have worked for it. Where none
    /// has, or where the job was cancelled, it may be published again, as the next revision.
    pub fn is_final(&self) -> bool {
        let worked = |attempt: &Attempt| !attempt.class().is_some_and(Class::is_before_work);
        match self.status {
            Status::Succeeded => true,
            Status::Cancelled => false,
            Status::Failed | Status::Expired => self.attempts.iter().any(worked),
        }
    }

    /// This completion as a line of OpenAI's output file, or of its error file if it did not succeed.
    /// An HTTP error stands in `response` with `error` null; anything else in `error` with `response`
    /// null, as at OpenAI. A refusal that came with a good status stands in both: nothing in its `response` need say
    /// that it is one.
    pub fn output_line(&self) -> OutputLine {
        let is_told = self
            .response
            .as_ref()
            .is_some_and(|response| response.status_code >= 400);
        let error = self.error.as_ref().filter(|_| !is_told);
        let error = error.map(|error| OutputError {
            code: error.code.clone(),
            message: error.message.clone(),
        });
        OutputLine {
            id: output_line_id(&self.identity()),
            custom_id: self.custom_id.clone(),
            response: self.response.clone(),
            error,
        }
    }
}

/// The `id` of an output line: `batch_req_` and 24 hex digits of the identity's SHA-256.
pub fn output_line_id(identity: &Identity) -> String {
    let mut hash = Sha256::new();
    for part in [
        identity.team.as_str(),
        identity.batch.as_deref().unwrap_or(""),
        &identity.id,
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    format!("batch_req_{}", hex(&hash.finalize()[..12]))
}
