//! The kinds of work, each by the path that it has at OpenAI.

use serde::{Deserialize, Serialize};

/// A kind of work: what a job's `url` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
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

impl WorkKind {
    /// Every kind.
    pub const ALL: [WorkKind; 8] = [
        WorkKind::Chat,
        WorkKind::Responses,
        WorkKind::Embeddings,
        WorkKind::Moderation,
        WorkKind::Rerank,
        WorkKind::Image,
        WorkKind::Speech,
        WorkKind::Transcription,
    ];

    /// Its path at OpenAI, which is a job's `url`.
    pub fn url(self) -> &'static str {
        match self {
            WorkKind::Chat => "/v1/chat/completions",
            WorkKind::Responses => "/v1/responses",
            WorkKind::Embeddings => "/v1/embeddings",
            WorkKind::Moderation => "/v1/moderations",
            WorkKind::Rerank => "/v1/rerank",
            WorkKind::Image => "/v1/images/generations",
            WorkKind::Speech => "/v1/audio/speech",
            WorkKind::Transcription => "/v1/audio/transcriptions",
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
            WorkKind::Embeddings
                | WorkKind::Moderation
                | WorkKind::Rerank
                | WorkKind::Transcription
        )
    }
}

impl std::fmt::Display for WorkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WorkKind::Chat => "chat",
            WorkKind::Responses => "responses",
            WorkKind::Embeddings => "embeddings",
            WorkKind::Moderation => "moderation",
            WorkKind::Rerank => "rerank",
            WorkKind::Image => "image",
            WorkKind::Speech => "speech",
            WorkKind::Transcription => "transcription",
        })
    }
}
