//! The vendors whose APIs are simulated, and the header in which each expects the key.

use std::str::FromStr;

use axum::http::HeaderMap;

/// The vendor whose API an account speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// OpenAI, and servers that speak its API.
    #[default]
    OpenAi,
    /// OpenAI's models at Azure, at both kinds of address.
    Azure,
    /// Anthropic's Messages API.
    Anthropic,
    /// Google's Gemini, in the form that AI Studio serves.
    Gemini,
    /// Mistral.
    Mistral,
    /// Version 2 of Cohere's API.
    Cohere,
    /// The Converse API of AWS Bedrock, with API keys instead of signatures.
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
    /// All vendors.
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

    /// Returns the vendor's name in options.
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

    /// Returns true if the vendor's chat dialect is OpenAI's.
    pub(super) fn speaks_as_openai(self) -> bool {
        matches!(
            self,
            Vendor::OpenAi | Vendor::Azure | Vendor::Groq | Vendor::DeepSeek | Vendor::OpenRouter
        )
    }

    /// Returns the key of a request, if one is in a header in which this vendor expects it.
    pub(super) fn key(self, headers: &HeaderMap) -> Option<&str> {
        let named = |name: &str| headers.get(name)?.to_str().ok();
        match self {
            Vendor::Anthropic => named("x-api-key").or_else(|| bearer(headers)),
            Vendor::Azure => named("api-key").or_else(|| bearer(headers)),
            Vendor::Gemini => named("x-goog-api-key"),
            _ => bearer(headers),
        }
    }

    /// Returns the vendor that a path most likely belongs to, for requests without a known key.
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
    let value = headers.get("authorization")?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}

impl FromStr for Vendor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let vendor = Self::ALL.into_iter().find(|vendor| vendor.name() == text);
        vendor.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            format!("`{text}` is not one of {}", names.join(", "))
        })
    }
}
