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

/// The most attempts that a completion contains. Of more attempts, it contains the first half and
/// the last half of this number.
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
    /// The pool that the job requested.
    pub pool: String,
    /// The job's lane.
    pub lane: Lane,
    /// The number of this answer to the identity, from 1. If no provider has worked for an answer,
    /// the job can be published again, and the next answer has the next number.
    #[serde(alias = "generation")]
    pub revision: u32,
    /// The outcome of the job.
    pub status: Status,
    /// The provider's last complete answer, an error answer included; null where there was none.
    pub response: Option<Response>,
    /// The reason why the job did not succeed; null when it did.
    pub error: Option<CompletionError>,
    /// The tokens that the last attempt used, also where it was refused for the content; null where
    /// the provider does not report them.
    pub usage: Option<Usage>,
    /// The exact cost of the last attempt; null where one of its prices is not known. The cost is
    /// zero where another job's answer served.
    pub cost: Option<Cost>,
    /// The target that answered, and the reason for its choice; null where none did.
    #[serde(default)]
    pub answered_by: Option<AnsweredBy>,
    /// The job whose answer served, where the `cache` of this job or of its pool made a call
    /// unnecessary; else absent.
    #[serde(default, alias = "reused", skip_serializing_if = "Option::is_none")]
    pub cached_from: Option<CachedFrom>,
    /// Every call that was made, in order. Of more than 100 calls, the first 50 and the last 50.
    pub attempts: Vec<Attempt>,
    /// The time from the publish to the first attempt, in milliseconds.
    pub queued_ms: u64,
    /// The job's metadata.
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub metadata: Option<Object>,
}

/// The outcome of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The provider answered.
    Succeeded,
    /// The job was given up; `error` has the reason.
    Failed,
    /// The deadline passed first.
    Expired,
    /// The job was cancelled.
    Cancelled,
}

impl Status {
    /// Returns the status's name on the wire.
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
    /// The provider's id of the request; null where it sent none.
    pub request_id: Option<String>,
    /// The body, kept as the bytes in which it came.
    #[schemars(with = "Value")]
    pub body: Box<RawValue>,
}

/// The reason why a job did not succeed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CompletionError {
    /// A short name of the cause, the provider's own where it has one.
    #[serde(deserialize_with = "class_name")]
    pub code: String,
    /// A description of the cause, for a person.
    pub message: String,
    /// The cause's class.
    pub class: Class,
}

/// The tokens that a call used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// The tokens of the prompt, cached ones included.
    pub input_tokens: u64,
    /// The tokens of the answer, reasoning included.
    pub output_tokens: u64,
    /// The part of `input_tokens` that was read from the provider's cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_input_tokens: u64,
    /// The part of `input_tokens` that was written to the provider's cache, where that has a price
    /// of its own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cache_write_tokens: u64,
    /// The part of `output_tokens` that was spent on reasoning.
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
    /// The amount as a decimal string, for example `"0.000175"`.
    pub amount: String,
    /// The currency's code in ISO 4217.
    pub currency: String,
}

/// The target that answered a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AnsweredBy {
    /// The account that was charged.
    #[serde(alias = "quota")]
    pub account: String,
    /// The provider's name.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The reason for the choice of the target.
    pub reason: Reason,
}

/// The job whose answer served another job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CachedFrom {
    /// The batch of that job, if any; its team is the same.
    pub batch: Option<String>,
    /// The id of that job.
    pub id: String,
    /// The time of the call for that job (RFC 3339).
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub called_at: Timestamp,
}

/// The reason for the choice of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The target is in the pool's lowest tier, or in the lowest that the job's `model` leaves.
    #[default]
    Preferred,
    /// The targets of lower tiers had no room in time, or were cooling, spent or disabled.
    Unavailable,
    /// The job cannot be encoded for the targets of lower tiers.
    Unsupported,
    /// An earlier call failed; `attempts` has the details.
    Failed,
}

/// One HTTP call for a job.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// The account that was charged.
    #[serde(alias = "quota")]
    pub account: String,
    /// The name of the key that was used, never the key itself.
    pub key: String,
    /// The provider's name.
    pub provider: String,
    /// The model that was requested.
    pub model: String,
    /// The time at which the call was sent (RFC 3339).
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub started_at: Timestamp,
    /// The time that the job waited for this call, since it was published or last tried, in
    /// milliseconds.
    pub waited_ms: u64,
    /// The time from sending to the end of the answer, in milliseconds.
    #[serde(alias = "took_ms")]
    pub duration_ms: u64,
    /// The result: `succeeded`, or the failure's class.
    #[serde(deserialize_with = "class_name")]
    pub outcome: String,
    /// The HTTP status; null where no answer came.
    pub status_code: Option<u16>,
    /// The number of jobs in the call; absent where it was for this one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<u32>,
}

/// A line of an OpenAI Batch output or error file.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutputLine {
    /// The id of the request in OpenAI's form. It is derived from the identity, so that it is the
    /// same in every run.
    pub id: String,
    /// The job's `custom_id`.
    pub custom_id: String,
    /// The answer, an error answer included; null where there was none.
    pub response: Option<Response>,
    /// The failure, where it is not an HTTP error: no answer came, or a refusal came with a good
    /// status.
    pub error: Option<OutputError>,
}

/// The error of an OpenAI Batch error line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OutputError {
    /// A short name of the cause.
    pub code: String,
    /// A description of the cause, for a person.
    pub message: String,
}

impl OutputError {
    fn of(error: &CompletionError) -> Self {
        Self {
            code: error.code.clone(),
            message: error.message.clone(),
        }
    }
}

impl Attempt {
    /// Returns the class of the failure; `None` where the attempt succeeded.
    pub fn class(&self) -> Option<Class> {
        Class::named(&self.outcome)
    }
}

impl Completion {
    /// Returns the identity that this completion answers.
    pub fn identity(&self) -> Identity {
        Identity {
            team: self.team.clone(),
            batch: self.batch.clone(),
            id: self.id.clone(),
        }
    }

    /// Returns true if the identity keeps this answer, because a provider may have worked for it.
    /// If none has, or if the job was cancelled, the job may be published again as the next
    /// revision.
    pub fn is_final(&self) -> bool {
        let worked = |attempt: &Attempt| !attempt.class().is_some_and(Class::is_before_work);
        match self.status {
            Status::Succeeded => true,
            Status::Cancelled => false,
            Status::Failed | Status::Expired => self.attempts.iter().any(worked),
        }
    }

    /// Returns this completion as a line of OpenAI's output file, or of its error file if the job
    /// did not succeed. As at OpenAI, an HTTP error is put into `response`, with `error` null. Any
    /// other failure is put into `error`, with `response` null. A refusal with a good status is put
    /// into both, since its `response` need not show that it is one.
    pub fn output_line(&self) -> OutputLine {
        let response = self.response.as_ref();
        let is_http_error = response.is_some_and(|response| response.status_code >= 400);
        let error = self.error.as_ref().filter(|_| !is_http_error);
        OutputLine {
            id: output_line_id(&self.identity()),
            custom_id: self.custom_id.clone(),
            response: self.response.clone(),
            error: error.map(OutputError::of),
        }
    }
}

/// Returns the `id` of an output line: `batch_req_` and 24 hex digits of the identity's SHA-256.
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
