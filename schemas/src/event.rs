//! An event: a change of an account's key or of one of its models, for dashboards and alarms.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A change of an account's key, or of one of its models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Account event")]
pub struct AccountEvent {
    /// The time at which the change was seen, within a second of its occurrence. A change that ends
    /// sooner is not reported.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// The account.
    pub account: String,
    /// The key that changed; null if none did.
    pub key: Option<String>,
    /// The model that changed; null if none did.
    pub model: Option<String>,
    /// The new state: ready, cooling, exhausted, probing or disabled.
    pub state: String,
    /// The reason: the class of an outcome, or operator.
    pub reason: Option<String>,
    /// The time at which the state ends by itself; null if it does not.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,
}
