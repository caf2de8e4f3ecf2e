//! The outcome of an attempt, the decision about it, and the result of a job.

#[expect(clippy::module_inception, reason = "what the folder is named after")]
pub(crate) mod outcome;

pub mod patience;
pub mod policy;

pub(crate) mod end;
