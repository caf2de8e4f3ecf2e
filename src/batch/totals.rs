//! How many lines of a batch have which end.

use crate::batch::bill::Bill;
use crate::batch::failures::Failures;

/// How a batch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Every line has its completion.
    Done(Totals),
    /// It was interrupted; the same command goes on.
    Interrupted(Totals),
}

/// How many lines have which end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Lines in all.
    pub lines: usize,
    /// Lines with an answer.
    pub succeeded: usize,
    /// Lines that failed, expired or were cancelled.
    pub failed: usize,
    /// What they used and cost.
    pub bill: Bill,
    /// Why lines did not succeed.
    pub failures: Failures,
}

impl Totals {
    /// Lines that have their completion.
    pub fn done(&self) -> usize {
        self.succeeded + self.failed
    }
}
