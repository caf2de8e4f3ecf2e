//! How many lines of a batch have which end.

use crate::batch::bill::CostSummary;
use crate::batch::failures::FailureSummary;

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunOutcome {
    /// Every line has its completion.
    Done(RunTotals),
    /// It was interrupted; the same command goes on.
    Interrupted(RunTotals),
}

/// How many lines have which end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunTotals {
    /// Lines in all.
    pub lines: usize,
    /// Lines with an answer.
    pub succeeded: usize,
    /// Lines that failed, expired or were cancelled.
    pub failed: usize,
    /// What they used and cost.
    pub bill: CostSummary,
    /// Why lines did not succeed.
    pub failures: FailureSummary,
}

impl RunTotals {
    /// Lines that have their completion.
    pub fn done(&self) -> usize {
        self.succeeded + self.failed
    }
}
