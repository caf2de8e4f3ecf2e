//! A batch from its file to its files of answers: read and checked, published, gathered, written.

pub mod input;

pub mod run;

mod completions;
pub mod output;

pub mod bill;
pub mod failures;
pub mod totals;

pub mod progress;
