//! The kinds of work, each with the path that it has at OpenAI.

use serde::{Deserialize, Serialize};

/// A kind of work, as a job's `url` selects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// A chat completion.
    Chat,
    /// A response of OpenAI's Responses API.
    Responses,
    /// Vectors of texts.
    Embeddings,
    /// A judgement of the objectionable content of a text.
    Moderation,
    /// Documents in the order of their relevance. OpenAI has no such API; the request and the
    /// answer are those of Cohere, Together and vLLM.
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

    /// Returns the kind's path at OpenAI, which is a job's `url`.
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

    /// Returns the kind that a job's `url` selects; `None` for an unknown path.
    pub fn of(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// Returns true if the kind's answer has tokens of its own.
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
