//! The classes of failures, as a closed list.

use schemars::JsonSchema;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

/// The class of a failed attempt, or of a refused job. Adapters map the words of providers onto
/// this list. One place in `workers` decides what is done about each class.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A short limit is reached: after a wait the same key serves again.
    RateLimited,
    /// The rate grew faster than the provider allows.
    RampLimited,
    /// A day's or a month's allowance is spent.
    QuotaExhausted,
    /// The request alone is larger than the whole limit.
    #[serde(alias = "exceeds_key_limit")]
    ExceedsLimit,
    /// The account cannot pay, or has reached its spending cap.
    BillingStop,
    /// The credential is not accepted.
    BadKey,
    /// The account may not use this model.
    ModelNotAllowed,
    /// The provider has no capacity for any account.
    Overloaded,
    /// The provider failed.
    ServerError,
    /// The request was not sent: there was no connection.
    NetBeforeSend,
    /// The request was sent and no complete answer came: it may have been served, and billed.
    NetAfterSend,
    /// The prompt and the answer together are too long for the model.
    ContextTooLong,
    /// The provider refused the content.
    ContentFiltered,
    /// The provider does not accept the request as it is.
    BadRequest,
    /// The answer cannot be read.
    MalformedResponse,
    /// Forebay refused the job before any call: no such pool or model, not a job, an id that
    /// clashes.
    Rejected,
    /// The deadline passed before a call could be made.
    DeadlinePassed,
    /// The job was cancelled.
    Cancelled,
}

impl Class {
    /// Returns true if no provider has worked on the request: it was refused before, or not sent.
    pub fn is_before_work(self) -> bool {
        matches!(
            self,
            Class::RateLimited
                | Class::RampLimited
                | Class::QuotaExhausted
                | Class::ExceedsLimit
                | Class::BillingStop
                | Class::BadKey
                | Class::ModelNotAllowed
                | Class::NetBeforeSend
        )
    }

    /// Returns true if a limit refused the request: neither the request nor the provider was at
    /// fault.
    pub fn is_limit(self) -> bool {
        matches!(
            self,
            Class::RateLimited | Class::RampLimited | Class::QuotaExhausted
        )
    }

    /// Returns true if the provider or the network failed, or may have: not a limit, a key or a rule.
    pub fn is_of_provider(self) -> bool {
        matches!(
            self,
            Class::Overloaded
                | Class::ServerError
                | Class::MalformedResponse
                | Class::NetBeforeSend
                | Class::NetAfterSend
        )
    }

    /// Returns the class with this name; `None` for an unknown name.
    pub fn named(name: &str) -> Option<Self> {
        let class: Result<Self, serde::de::value::Error> =
            Self::deserialize(name.into_deserializer());
        class.ok()
    }

    /// Returns the class's name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::RateLimited => "rate_limited",
            Class::RampLimited => "ramp_limited",
            Class::QuotaExhausted => "quota_exhausted",
            Class::ExceedsLimit => "exceeds_limit",
            Class::BillingStop => "billing_stop",
            Class::BadKey => "bad_key",
            Class::ModelNotAllowed => "model_not_allowed",
            Class::Overloaded => "overloaded",
            Class::ServerError => "server_error",
            Class::NetBeforeSend => "net_before_send",
            Class::NetAfterSend => "net_after_send",
            Class::ContextTooLong => "context_too_long",
            Class::ContentFiltered => "content_filtered",
            Class::BadRequest => "bad_request",
            Class::MalformedResponse => "malformed_response",
            Class::Rejected => "rejected",
            Class::DeadlinePassed => "deadline_passed",
            Class::Cancelled => "cancelled",
        }
    }
}

impl std::fmt::Display for Class {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_code_is_the_name_on_the_wire() {
        for name in names() {
            assert_eq!(Class::named(&name).map(Class::as_str), Some(name.as_str()));
        }
    }

    #[test]
    fn the_list_for_people_has_every_class_once() {
        let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/failures.md");
        let text = std::fs::read_to_string(text).expect("the list");
        let table = text
            .split_once("| class |")
            .expect("a table")
            .1
            .split("\n\n")
            .next()
            .unwrap_or_default();
        let rows = table
            .lines()
            .filter_map(|row| Some(row.strip_prefix("| `")?.split_once('`')?.0));
        assert_eq!(rows.collect::<Vec<_>>(), names(), "docs/failures.md");
    }

    /// Returns the names of all classes on the wire, in the order of the code.
    fn names() -> Vec<String> {
        let schema = serde_json::to_value(schemars::schema_for!(Class)).expect("JSON");
        let classes = schema["oneOf"].as_array().expect("a list").iter();
        let names: Vec<_> = classes
            .map(|class| class["const"].as_str().expect("a name").to_owned())
            .collect();
        assert!(names.len() > 10, "{schema}");
        names
    }
}
