//! Which fields of a chat request a dialect says, and which it leaves out.

use serde_json::Value;

use crate::Unsupported;
use crate::registry::ChatFields;

/// What a dialect does with the fields of a request. What it does not say and is no hint is refused, unless it
/// asks for what is so anyway.
#[derive(Debug)]
pub(crate) struct ChatFieldRules {
    /// Said in the provider's way, beside [`ALWAYS`].
    pub(crate) maps: &'static [&'static str],
}

/// Said by every dialect.
const ALWAYS: [&str; 4] = [
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "response_format",
];

/// Left out where a provider has nothing like it: they change what an answer costs, how fast it comes, or who is
/// told of it, and at most how likely it is.
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
    /// For the documents.
    pub(crate) fn told(&self) -> ChatFields {
        let mapped: Vec<_> = ALWAYS.iter().chain(self.maps).copied().collect();
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

    /// Whether a field is read: false where it is left out.
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

/// Whether a field asks for what happens without it.
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
            // Of a transcription.
            "response_format" => value == "json",
            "modalities" => value
                .as_array()
                .is_some_and(|kinds| kinds.iter().all(|kind| kind == "text")),
            _ => false,
        }
}
