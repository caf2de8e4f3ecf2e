//! The tokens that a call counts for: at its admission, and after its answer.

use serde_json::Value;

use super::answer::prompt_tokens;
use super::dialect::openai::messages::most;
use super::field::number_field;
use super::vendor::Vendor;

/// The tokens that a call counts for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TokenCount {
    /// The tokens that count against limits on all tokens.
    pub(super) tokens: u64,
    /// The tokens that count against limits on prompts.
    pub(super) input: u64,
    /// The tokens that count against limits on answers.
    pub(super) output: u64,
}

/// Returns the tokens that a call counts for at its admission.
pub(super) fn at_admission(vendor: Vendor, body: &[u8]) -> TokenCount {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let input = prompt_tokens(body);
    let most = requested_output(vendor, &request).unwrap_or_default();
    let tokens = match vendor {
        // OpenAI counts the larger of the estimated prompt and the longest answer that the request allows.
        Vendor::OpenAi => input.max(most),
        Vendor::Azure => input + most + number_field(&request, "best_of").unwrap_or_default(),
        Vendor::Groq | Vendor::Bedrock => input + most,
        _ => input,
    };
    TokenCount {
        tokens,
        input,
        output: 0,
    }
}

/// Returns the tokens that an answered call counts for; `None` if the vendor does not count again.
pub(super) fn at_completion(
    vendor: Vendor,
    model: &str,
    (input, output): (u64, u64),
) -> Option<TokenCount> {
    match vendor {
        Vendor::Anthropic => Some(TokenCount {
            tokens: input,
            input,
            output,
        }),
        Vendor::Groq | Vendor::Mistral => Some(TokenCount {
            tokens: input + output,
            input,
            output,
        }),
        Vendor::Bedrock => Some(TokenCount {
            tokens: input + output * burndown(model),
            input,
            output,
        }),
        _ => None,
    }
}

/// Returns the tokens that one token of an answer counts for at Bedrock.
fn burndown(model: &str) -> u64 {
    match model {
        _ if !model.contains("claude") => 1,
        _ if model.contains("-4-8") => 15,
        _ if model.contains("sonnet-5") || model.contains("opus-5") => 10,
        _ => 5,
    }
}

/// Returns the most tokens of an answer that a request allows.
fn requested_output(vendor: Vendor, request: &Value) -> Option<u64> {
    match vendor {
        Vendor::Bedrock => request.pointer("/inferenceConfig/maxTokens")?.as_u64(),
        _ => most(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vendor_counts_in_its_own_way() {
        let body = format!(
            r#"{{"max_tokens":100,"inferenceConfig":{{"maxTokens":100}},"x":"{}"}}"#,
            "x".repeat(200)
        );
        let input = body.len() as u64 / 4;
        let tokens = |vendor| at_admission(vendor, body.as_bytes()).tokens;
        assert_eq!(tokens(Vendor::OpenAi), 100);
        assert_eq!(tokens(Vendor::Azure), input + 100);
        assert_eq!(tokens(Vendor::Bedrock), input + 100);
        assert_eq!(tokens(Vendor::Gemini), input);
        let claude = at_completion(
            Vendor::Bedrock,
            "anthropic.claude-sonnet-4-5-v1:0",
            (10, 20),
        );
        assert_eq!(claude.map(|cost| cost.tokens), Some(110));
        assert_eq!(at_completion(Vendor::OpenAi, "gpt", (10, 20)), None);
        let anthropic = at_completion(Vendor::Anthropic, "claude", (10, 20));
        assert_eq!(
            anthropic.map(|cost| (cost.input, cost.output)),
            Some((10, 20))
        );
    }
}
