//! The usage of a call: as OpenAI's dialect and its relatives encode it, and within credible
//! bounds.

use forebay_schemas::Usage;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The most tokens of one call; a larger count is not believed.
const MOST_TOKENS: u64 = 1 << 40;

/// Reduces a usage to credible counts.
pub(super) fn within_reason(usage: Usage) -> Usage {
    let cached_input_tokens = usage.cached_input_tokens.min(usage.input_tokens);
    Usage {
        input_tokens: usage.input_tokens.min(MOST_TOKENS),
        output_tokens: usage.output_tokens.min(MOST_TOKENS),
        cached_input_tokens,
        cache_write_tokens: usage
            .cache_write_tokens
            .min(usage.input_tokens - cached_input_tokens),
        reasoning_tokens: usage.reasoning_tokens.min(usage.output_tokens),
    }
}

/// The usage of chats and embeddings, and of Responses under its other names.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct WireUsage {
    #[serde(alias = "input_tokens", deserialize_with = "count")]
    prompt_tokens: Option<u64>,
    #[serde(alias = "output_tokens", deserialize_with = "count")]
    completion_tokens: Option<u64>,
    #[serde(alias = "input_tokens_details", deserialize_with = "details")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(alias = "output_tokens_details", deserialize_with = "details")]
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name of the cached part.
    #[serde(deserialize_with = "count")]
    prompt_cache_hit_tokens: Option<u64>,
}

/// Reads a count. A server without one may send null, and some servers send fractions.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count that comes as a float"
)]
fn count<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(from)?;
    let count = value
        .as_u64()
        .or_else(|| value.as_f64().map(|count| count as u64));
    Ok(count)
}

/// Reads details. Those of another type are as none.
fn details<'de, D: serde::Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> Result<Option<T>, D::Error> {
    let value = Value::deserialize(from)?;
    Ok(serde_json::from_value(value).ok())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PromptDetails {
    #[serde(deserialize_with = "count")]
    cached_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    cache_write_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CompletionDetails {
    #[serde(deserialize_with = "count")]
    reasoning_tokens: Option<u64>,
}

impl WireUsage {
    /// Returns the unified usage; `None` where no tokens are reported, as for sound that is priced
    /// by the second.
    pub(super) fn unified(&self) -> Option<Usage> {
        self.prompt_tokens.or(self.completion_tokens)?;
        let prompt = self.prompt_tokens_details.as_ref();
        let cached = prompt.and_then(|details| details.cached_tokens);
        let reasoning = self
            .completion_tokens_details
            .as_ref()
            .and_then(|details| details.reasoning_tokens);
        Some(Usage {
            input_tokens: self.prompt_tokens.unwrap_or(0),
            output_tokens: self.completion_tokens.unwrap_or(0),
            cached_input_tokens: cached.or(self.prompt_cache_hit_tokens).unwrap_or(0),
            cache_write_tokens: prompt
                .and_then(|details| details.cache_write_tokens)
                .unwrap_or(0),
            reasoning_tokens: reasoning.unwrap_or(0),
        })
    }
}
