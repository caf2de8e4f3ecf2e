//! The reasons why lines of a batch did not succeed, each with an example.

use std::collections::BTreeMap;

use forebay_schemas::Completion;
use serde_json::{Value, json};

/// Number of reasons that are shown.
const MAX_SHOWN: usize = 3;
/// Maximum length of a shown message in characters.
const MAX_MESSAGE_CHARS: usize = 200;

/// The reasons why lines did not succeed, by the code of the failure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailureSummary(BTreeMap<String, FailureReason>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct FailureReason {
    lines: usize,
    /// The message of the first of these lines.
    message: String,
}

impl FailureSummary {
    /// Adds a line if it failed.
    pub fn add(&mut self, completion: &Completion) {
        let Some(error) = &completion.error else {
            return;
        };
        let reason = self.0.entry(error.code.clone()).or_default();
        if reason.lines == 0 {
            let shown = error.message.chars().take(MAX_MESSAGE_CHARS);
            reason.message = shown.collect();
        }
        reason.lines += 1;
    }

    fn by_frequency(&self) -> Vec<(&String, &FailureReason)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(_, reason)| std::cmp::Reverse(reason.lines));
        all
    }

    /// Returns the most frequent reasons, one per line.
    pub fn lines(&self) -> Vec<String> {
        let all = self.by_frequency();
        let mut lines: Vec<_> = all
            .iter()
            .take(MAX_SHOWN)
            .map(|(code, FailureReason { lines, message })| {
                format!("  {lines} × {code}, for example: {message}")
            })
            .collect();
        if all.len() > MAX_SHOWN {
            lines.push(format!("  … and {} other reasons", all.len() - MAX_SHOWN));
        }
        lines
    }

    /// Returns the reasons as JSON.
    pub fn in_json(&self) -> Value {
        let reason = |(code, reason): &(&String, &FailureReason)| json!({ "code": code, "lines": reason.lines, "example": reason.message });
        let reasons = self.by_frequency();
        reasons.iter().map(reason).collect()
    }
}
