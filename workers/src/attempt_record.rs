//! The calls for one unfinished job, as a journal keeps them.

use forebay_schemas::Attempt;
use forebay_schemas::completion::MOST_ATTEMPTS;
use serde::{Deserialize, Serialize};

/// The calls for an unfinished job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptRecord {
    /// The fingerprint of the job's request.
    pub(crate) fingerprint: String,
    /// The revision of the identity that the calls are for.
    pub(crate) revision: u32,
    /// The attempts, each with true if it counts.
    pub(crate) attempts: Vec<(Attempt, bool)>,
    /// True if the last attempt is in flight.
    pub(crate) under_way: bool,
}

/// Returns true if two attempts of a job are the same call.
pub(crate) fn is_same_call(one: &Attempt, other: &Attempt) -> bool {
    (one.started_at, &one.account) == (other.started_at, &other.account)
}

impl AttemptRecord {
    pub(crate) fn new(fingerprint: &str, revision: u32) -> Self {
        Self {
            fingerprint: fingerprint.to_owned(),
            revision,
            attempts: Vec::new(),
            under_way: false,
        }
    }

    /// Adds an attempt that is about to be made. For another request or revision, the record begins again.
    pub(crate) fn begin(&mut self, fingerprint: &str, revision: u32, attempt: Attempt) {
        if !self.is_for(fingerprint, revision) {
            *self = Self::new(fingerprint, revision);
        }
        // Of too many attempts, the middle ones are dropped, as in a completion.
        if self.attempts.len() >= MOST_ATTEMPTS {
            self.attempts.remove(MOST_ATTEMPTS / 2);
        }
        // An attempt that did not end before the next began was interrupted by an end of the process. It does not
        // count.
        self.attempts.push((attempt, false));
        self.under_way = true;
    }

    /// Replaces the attempt that was begun by what became of it.
    pub(crate) fn end(&mut self, attempt: Attempt, counted: bool) {
        self.withdraw();
        self.attempts.push((attempt, counted));
    }

    /// Removes an attempt that was begun and not made.
    pub(crate) fn withdraw(&mut self) {
        if self.under_way {
            self.attempts.pop();
        }
        self.under_way = false;
    }

    /// Returns true if the calls are for this request in this revision.
    pub(crate) fn is_for(&self, fingerprint: &str, revision: u32) -> bool {
        (self.fingerprint.as_str(), self.revision) == (fingerprint, revision)
    }

    /// Returns true if the last attempt of `other` is among these, or if it has none.
    pub(crate) fn has_last_of(&self, other: &Self) -> bool {
        let Some((last, _)) = other.attempts.last() else {
            return true;
        };
        self.attempts
            .iter()
            .any(|(attempt, _)| is_same_call(attempt, last))
    }
}
