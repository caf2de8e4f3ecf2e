//! Totals of a run: the number of lines by their end.

use crate::batch::bill::CostSummary;
use crate::batch::failures::FailureSummary;
use crate::batch::trial::TrialError;

/// The outcome of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunOutcome {
    /// Each line has its completion.
    Done(RunTotals),
    /// The run was interrupted. The same command resumes it.
    Interrupted(RunTotals),
    /// The first lines all failed with the same error, so the others were not sent. The same command sends them.
    Stopped(RunTotals, TrialError),
}

/// Number of lines by their end, and what they cost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunTotals {
    /// The batch's name.
    pub batch: String,
    /// Number of lines.
    pub lines: usize,
    /// Number of lines with an answer.
    pub succeeded: usize,
    /// Number of lines that failed, expired or were cancelled.
    pub failed: usize,
    /// The tokens and the cost of the lines.
    pub cost: CostSummary,
    /// The reasons why lines did not succeed.
    pub failures: FailureSummary,
}

impl RunTotals {
    /// Returns the number of lines with a completion.
    pub fn done(&self) -> usize {
        self.succeeded + self.failed
    }
}
