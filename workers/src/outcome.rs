//! What an attempt turned out to be, what is done about it, and how a job ends.

#[expect(clippy::module_inception, reason = "what the folder is named after")]
pub(crate) mod outcome;

pub mod policy;

pub(crate) mod end;
