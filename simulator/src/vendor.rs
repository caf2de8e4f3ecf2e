//! Whose API is spoken, and how each of them is told the key.

use std::str::FromStr;

use axum::http::HeaderMap;

/// Whose API is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// OpenAI, and what speaks as it does.
    #[default]
    OpenAi,
    /// OpenAI's models at Azure, by both kinds of address.
    Azure,
    /// Anthropic's messages.
    Anthropic,
    /// Google's Gemini, as AI Studio serves it.
    Gemini,
    /// Mistral.
    Mistral,
    /// Cohere's second version.
    Cohere,
    /// AWS Bedrock's Converse, with its keys instead of signatures.
    Bedrock,
    /// Ollama's own API.
    Ollama,
    /// Groq.
    Groq,
    /// DeepSeek.
    DeepSeek,
    /// OpenRouter.
    OpenRouter,
}

impl Vendor {
    /// All of them.
    pub const ALL: [Vendor; 11] = [
        Vendor::OpenAi,
        Vendor::Azure,
        Vendor::Anthropic,
        Vendor::Gemini,
        Vendor::Mistral,
        Vendor::Cohere,
        Vendor::Bedrock,
        Vendor::Ollama,
        Vendor::Groq,
        Vendor::DeepSeek,
        Vendor::OpenRouter,
    ];

    /// Its name in options.
    pub const fn name(self) -> &'static str {
        match self {
            Vendor::OpenAi => "openai",
            Vendor::Azure => "azure",
            Vendor::Anthropic => "anthropic",
            Vendor::Gemini => "gemini",
            Vendor::Mistral => "mistral",
            Vendor::Cohere => "cohere",
            Vendor::Bedrock => "bedrock",
            Vendor::Ollama => "ollama",
            Vendor::Groq => "groq",
            Vendor::DeepSeek => "deepseek",
            Vendor::OpenRouter => "openrouter",
        }
    }

    /// Whether its chat is OpenAI's.
    pub(super) fn speaks_as_openai(self) -> bool {
        matches!(
            self,
            Vendor::OpenAi | Vendor::Azure | Vendor::Groq | Vendor::DeepSeek | Vendor::OpenRouter
        )
    }

    /// The key that a request offers in the way that this vendor asks for.
    pub(super) fn key(self, headers: &HeaderMap) -> Option<&str> {
        let named = |name: &str| headers.get(name)?.to_str().ok();
        match self {
            Vendor::Anthropic => named("x-api-key").or_else(|| bearer(headers)),
            Vendor::Azure => named("api-key").or_else(|| bearer(headers)),
            Vendor::Gemini => named("x-goog-api-key"),
            _ => bearer(headers),
        }
    }

    /// Whose path this looks like, for whoever has no key that tells.
    pub(super) fn of_path(path: &str) -> Self {
        let begins = |start: &str| path.starts_with(start);
        match path {
            _ if begins("/v1/messages") => Vendor::Anthropic,
            _ if begins("/openai/deployments/") || begins("/openai/v1/") => Vendor::Azure,
            _ if begins("/v1beta/") || begins("/v1/models/") => Vendor::Gemini,
            _ if begins("/v2/") => Vendor::Cohere,
            _ if begins("/model/") => Vendor::Bedrock,
            _ if begins("/api/v1/") => Vendor::OpenRouter,
            _ if begins("/api/") => Vendor::Ollama,
            _ => Vendor::OpenAi,
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("authorization")?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}

impl FromStr for Vendor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|vendor| vendor.name() == text)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|vendor| vendor.name()).collect();
                format!("`{text}` is not one of {}", names.join(", "))
            })
    }
}
