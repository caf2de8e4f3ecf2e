//! The rules for the fields of a chat request: which ones a dialect encodes, and which ones it
//! leaves out.

use serde_json::Value;

use crate::registry::ChatFields;
use crate::unsupported::Unsupported;

/// The rules of a dialect for the fields of a request. A field that is neither encoded nor a hint
/// is refused, unless it requests only the default.
#[derive(Debug)]
pub(crate) struct ChatFieldRules {
    /// The fields that the dialect encodes in its own form, beside [`ALWAYS`].
    pub(crate) maps: &'static [&'static str],
}

/// The largest number up to which every whole number is exact as a float: 2 to the power of 53.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// The fields that are whole numbers.
const COUNTS: [&str; 8] = [
    "max_tokens",
    "max_completion_tokens",
    "seed",
    "n",
    "top_k",
    "top_logprobs",
    "top_n",
    "dimensions",
];

/// The fields that every dialect encodes.
const ALWAYS: [&str; 4] = [
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "response_format",
];

/// The fields that are left out where a provider has nothing like them. They change an answer's
/// cost, its speed or the parties that learn of it, and at most its probability.
const HINTS: [&str; 12] = [
    "user",
    "safety_identifier",
    "metadata",
    "store",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "seed",
    "prediction",
    "verbosity",
    "stream_options",
    "model",
];

impl ChatFieldRules {
    /// Returns the rules for the documentation.
    pub(crate) fn documented(&self) -> ChatFields {
        let mapped = ALWAYS.iter().chain(self.maps);
        let mapped: Vec<_> = mapped.copied().collect();
        let dropped = HINTS.iter().copied();
        let dropped = dropped
            .filter(|name| *name != "model" && !mapped.contains(name))
            .collect();
        ChatFields {
            mapped: Some(mapped),
            dropped,
            ..ChatFields::default()
        }
    }

    /// Returns true if a field is read, and false if it is left out. Fails where it is refused.
    pub(super) fn passes(
        &self,
        name: &str,
        value: &Value,
        provider: &str,
    ) -> Result<bool, Unsupported> {
        if value.is_null() {
            return Ok(false);
        }
        if ALWAYS.contains(&name) || self.maps.contains(&name) {
            return Ok(true);
        }
        if HINTS.contains(&name) || is_so_anyway(name, value) {
            return Ok(false);
        }
        let problem =
            format!("{provider} has nothing like it, leave it out or name another target");
        Err(Unsupported::new(format!("body.{name}"), problem))
    }
}

/// Returns the value of a field, and of one of [`COUNTS`] without a fraction that is zero, such as 256 for `256.0`. JSON has
/// one kind of number, and some writers put a point into each.
pub(crate) fn whole(name: &str, value: Value) -> Value {
    let number = value
        .as_f64()
        .filter(|_| COUNTS.contains(&name) && !value.is_i64() && !value.is_u64());
    match number {
        Some(number) if number.fract() == 0.0 && number.abs() < LARGEST_EXACT => {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and small")]
            let whole = number as i64;
            whole.into()
        }
        _ => value,
    }
}

/// Returns true if a field requests what happens without it.
pub(crate) fn is_so_anyway(name: &str, value: &Value) -> bool {
    let is_empty = value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(|map| map.is_empty());
    is_empty
        || match name {
            "n" => value == 1,
            "top_logprobs" => value == 0,
            "stream" | "logprobs" => value == false,
            "parallel_tool_calls" => value == true,
            "presence_penalty" | "frequency_penalty" => value.as_f64() == Some(0.0),
            "tool_choice" => value == "auto",
            // A field of transcriptions.
            "response_format" => value == "json",
            "modalities" => value
                .as_array()
                .is_some_and(|kinds| kinds.iter().all(|kind| kind == "text")),
            _ => false,
        }
}
