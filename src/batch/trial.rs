//! The first lines of a run, which show whether any line can succeed.
//!
//! # Why
//!
//! A file of a million lines with the same mistake would fail a million times. A person reads the first of these failures
//! and would have stopped the run there.
//!
//! # How
//!
//! A run first sends [`TRIAL_LINES`] lines. It sends the others once one has succeeded, once their failures differ, or once one
//! fails that is not the request's fault. If all of them fail with the same error, the run stops and sends nothing more.

use forebay_schemas::completion::CompletionError;
use forebay_schemas::{Class, Completion, Status};
use tokio_util::sync::CancellationToken;

/// Number of lines that are sent before one has succeeded.
pub(super) const TRIAL_LINES: usize = 20;

/// The trial of a run, and what it has shown.
#[derive(Debug)]
pub(super) struct Trial {
    /// Number of lines that failed, one after the other, with the same error.
    failed: usize,
    error: Option<TrialError>,
    /// Is cancelled once the other lines may be sent.
    over: CancellationToken,
}

/// The error with which lines failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialError {
    /// Its short name.
    pub code: String,
    /// The message of the first line.
    pub message: String,
    /// Its class.
    class: Class,
}

impl TrialError {
    /// Returns true if another line failed alike. Only the first lines of a model that is not allowed have the provider's code.
    fn is_same(&self, error: &CompletionError) -> bool {
        let is_same_model = self.class == Class::ModelNotAllowed;
        self.class == error.class && (is_same_model || self.code == error.code)
    }
}

impl Trial {
    /// Returns a trial that begins. With `is_skipped`, all lines may be sent at once.
    pub(super) fn new(is_skipped: bool) -> Self {
        let over = CancellationToken::new();
        if is_skipped {
            over.cancel();
        }
        Self {
            failed: 0,
            error: None,
            over,
        }
    }

    /// Returns the token that is cancelled once the other lines may be sent.
    pub(super) fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    /// Takes in the completion of a line that this run sent.
    pub(super) fn take(&mut self, completion: &Completion) {
        let error = match (&completion.status, &completion.error) {
            (Status::Failed, Some(error)) if is_of_request(error.class) => error,
            _ => return self.over.cancel(),
        };
        match &self.error {
            Some(first) if !first.is_same(error) => self.over.cancel(),
            Some(_) => self.failed += 1,
            None => {
                self.failed = 1;
                self.error = Some(TrialError {
                    code: error.code.clone(),
                    message: error.message.clone(),
                    class: error.class,
                });
            }
        }
    }

    /// Returns the error with which all lines of the trial failed, if no line was sent after them.
    pub(super) fn failure(&self) -> Option<&TrialError> {
        let has_failed = self.failed >= TRIAL_LINES && !self.over.is_cancelled();
        self.error.as_ref().filter(|_| has_failed)
    }
}

/// Returns true if a failure of this class is the request's own fault, so that the same mistake would fail again.
fn is_of_request(class: Class) -> bool {
    matches!(
        class,
        Class::BadRequest
            | Class::ContextTooLong
            | Class::ContentFiltered
            | Class::ExceedsLimit
            | Class::ModelNotAllowed
            | Class::Rejected
    )
}
