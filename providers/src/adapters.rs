//! Which code speaks which dialect, and what follows from that for a provider.

use std::collections::BTreeMap;

use super::kind::WorkKind;
use super::registry::{ChatFields, Dialect, Provider};
use super::{
    Adapter, anthropic, bedrock, cohere, gemini, mistral, ollama, openai, responses, vertex_claude,
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
    /// The kinds of work that it has.
    pub fn kinds(&self) -> &[WorkKind] {
        self.kinds
            .as_deref()
            .unwrap_or_else(|| self.dialect.adapter().kinds())
    }

    /// What becomes of the fields of a chat request, whichever the model.
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
