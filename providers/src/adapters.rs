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
        self.kinds
            .as_deref()
            .unwrap_or_else(|| self.dialect.adapter().kinds())
    }

    /// Returns what happens to each field of a chat request, apart from quirks of single models.
    pub fn chat_fields(&'static self) -> ChatFields {
        if let Some(fields) = self.dialect.adapter().fields() {
            return fields.told();
        }
        let names = |names: &'static [String]| names.iter().map(String::as_str).collect();
        let pairs = |pairs: &'static BTreeMap<String, String>| {
            pairs
                .iter()
                .map(|(one, other)| (one.as_str(), other.as_str()))
                .collect()
        };
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
