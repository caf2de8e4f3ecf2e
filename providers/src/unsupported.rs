//! The reason why a job cannot be encoded for a provider.

use forebay_schemas::quoting::{cut_name, without_values};

/// The beginnings of serde's messages about wrong or missing values.
const MISTAKES: [&str; 2] = ["invalid ", "missing "];

/// The refusal of a job that cannot be encoded for a provider. It excludes the target before any
/// call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {problem}")]
pub struct Unsupported {
    /// The path of the field, for example `body.messages[0].content`.
    pub field: String,
    /// The problem and its remedy, for a person.
    pub problem: String,
    /// The origin of the problem: the provider or the job.
    pub obstacle: UnsupportedKind,
}

/// The origin of the problem that prevents the encoding of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsupportedKind {
    /// The provider has nothing like it; another provider may.
    Unsupported,
    /// The job's value is wrong at every provider.
    InvalidValue,
}

impl UnsupportedKind {
    /// Returns the error code of a job that ends for this reason.
    pub fn code(self) -> &'static str {
        match self {
            UnsupportedKind::Unsupported => "unsupported",
            UnsupportedKind::InvalidValue => "invalid_value",
        }
    }
}

impl Unsupported {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let field = field.into();
        Self {
            field: field.split('.').map(cut_name).collect::<Vec<_>>().join("."),
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

    /// Creates a refusal from an error of serde. An unknown field or word may be known to another
    /// provider. A value that is missing or of the wrong type is a mistake.
    pub(crate) fn unreadable(field: impl Into<String>, error: &impl std::fmt::Display) -> Self {
        let problem = without_values(error);
        match MISTAKES.iter().any(|start| problem.starts_with(start)) {
            true => Self::invalid(field, problem),
            false => Self::new(field, problem),
        }
    }
}
