//! The adapter of each dialect, and the properties of a provider that follow from its adapter.

use std::collections::BTreeMap;

use crate::adapter::Adapter;
use crate::kind::WorkKind;
use crate::registry::{ChatFields, Dialect, Provider};
use crate::{
    anthropic, bedrock, cohere, gemini, mistral, ollama, openai, responses, vertex_claude,
};

impl Dialect {
    pub(super) fn adapter(self) -> &'static dyn Adapter {
        match self {
            Dialect::Openai => &openai::OpenAi,
            Dialect::Responses => &responses::Responses,
            Dialect::Anthropic => &anthropic::Anthropic,
            Dialect::Gemini => &gemini::Gemini,
            Dialect::Mistral => &mistral::Mistral,
            Dialect::Cohere => &cohere::Cohere,
            Dialect::Bedrock => &bedrock::Bedrock,
            Dialect::Ollama => &ollama::Ollama,
            Dialect::VertexClaude => &vertex_claude::VertexClaude,
        }
    }
}

impl Provider {
    /// Returns the kinds of work that the provider offers: its own list, else its dialect's.
    pub fn kinds(&self) -> &[WorkKind] {
        let of_dialect = || self.dialect.adapter().kinds();
        self.kinds.as_deref().unwrap_or_else(of_dialect)
    }

    /// Returns what happens to each field of a chat request, apart from quirks of single models.
    pub fn chat_fields(&'static self) -> ChatFields {
        if let Some(fields) = self.dialect.adapter().fields() {
            return fields.documented();
        }
        ChatFields {
            mapped: None,
            dropped: names(&self.quirks.drops),
            refused: names(&self.quirks.refuses),
            renamed: pairs(&self.quirks.renames),
            dropped_of_messages: names(&self.quirks.message_drops),
            roles: pairs(&self.quirks.roles),
        }
    }
}

fn names(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn pairs(pairs: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    let pairs = pairs.iter();
    pairs
        .map(|(one, other)| (one.as_str(), other.as_str()))
        .collect()
}
