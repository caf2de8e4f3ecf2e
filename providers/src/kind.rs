//! The kinds of work, each by the path that it has at OpenAI.

use serde::{Deserialize, Serialize};

/// A kind of work: what a job's `url` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A chat completion.
    Chat,
    /// OpenAI's Responses.
    Responses,
    /// Vectors of texts.
    Embeddings,
    /// What is objectionable in a text.
    Moderation,
    /// Documents in the order of their relevance; the request and the answer as Cohere, Together and vLLM have
    /// them, since OpenAI has none.
    Rerank,
    /// Images from a text.
    Image,
    /// Sound from a text.
    Speech,
    /// A text from sound.
    Transcription,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 8] = [
        Kind::Chat,
        Kind::Responses,
        Kind::Embeddings,
        Kind::Moderation,
        Kind::Rerank,
        Kind::Image,
        Kind::Speech,
        Kind::Transcription,
    ];

    /// Its path at OpenAI, which is a job's `url`.
    pub fn url(self) -> &'static str {
        match self {
            Kind::Chat => "/v1/chat/completions",
            Kind::Responses => "/v1/responses",
            Kind::Embeddings => "/v1/embeddings",
            Kind::Moderation => "/v1/moderations",
            Kind::Rerank => "/v1/rerank",
            Kind::Image => "/v1/images/generations",
            Kind::Speech => "/v1/audio/speech",
            Kind::Transcription => "/v1/audio/transcriptions",
        }
    }

    /// The kind that a job's `url` means.
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// Whether its answer has tokens of its own.
    pub(super) fn has_answer_tokens(self) -> bool {
        !matches!(
            self,
            Kind::Embeddings | Kind::Moderation | Kind::Rerank | Kind::Transcription
        )
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Chat => "chat",
            Kind::Responses => "responses",
            Kind::Embeddings => "embeddings",
            Kind::Moderation => "moderation",
            Kind::Rerank => "rerank",
            Kind::Image => "image",
            Kind::Speech => "speech",
            Kind::Transcription => "transcription",
        })
    }
}
