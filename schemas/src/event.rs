//! An event: a change of an account's key, or of a model there, for boards and alarms.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A change of an account's key, or of a model there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Account event")]
pub struct AccountEvent {
    /// When it was seen, within a second of when it happened. What is over sooner is not told.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// The account.
    pub account: String,
    /// The key that changed, if one did.
    pub key: Option<String>,
    /// The model that changed, if one did.
    pub model: Option<String>,
    /// ready, cooling, exhausted, probing or disabled.
    pub state: String,
    /// Why: the class of what happened, or operator.
    pub reason: Option<String>,
    /// When it returns by itself, if it does.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,
}
