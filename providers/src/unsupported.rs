//! Why a job cannot be said to a provider.

/// How serde begins to tell of mistakes.
const MISTAKES: [&str; 2] = ["invalid ", "missing "];

/// A job cannot be said to a provider: it is refused for this target before any call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {problem}")]
pub struct Unsupported {
    /// The field, for example `body.messages[0].content`.
    pub field: String,
    /// What is wrong with it and what to do.
    pub problem: String,
    /// Whose doing it is.
    pub obstacle: UnsupportedKind,
}

/// What keeps a job from being said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsupportedKind {
    /// The provider has nothing like it; another one may.
    Unsupported,
    /// The job's value is wrong, whoever is asked.
    InvalidValue,
}

impl UnsupportedKind {
    /// The code of a job that ends for it.
    pub fn code(self) -> &'static str {
        match self {
            UnsupportedKind::Unsupported => "unsupported",
            UnsupportedKind::InvalidValue => "invalid_value",
        }
    }
}

impl Unsupported {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            obstacle: UnsupportedKind::Unsupported,
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            obstacle: UnsupportedKind::InvalidValue,
            ..Self::new(field, problem)
        }
    }

    /// What serde cannot read. A field or a word that is not known here may be known elsewhere; a value of the
    /// wrong type, or none, is a mistake.
    pub(crate) fn unreadable(field: impl Into<String>, error: &impl std::fmt::Display) -> Self {
        let problem = error.to_string();
        match MISTAKES.iter().any(|start| problem.starts_with(start)) {
            true => Self::invalid(field, problem),
            false => Self::new(field, problem),
        }
    }
}
