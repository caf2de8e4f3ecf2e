//! Batches: a file is read and checked, its jobs are published, and their completions are gathered
//! and written to files.

pub mod input;
pub mod input_text;

pub mod run;

mod completions;
mod kept_answers;
pub mod output;
mod ownership;
mod paid_again;
mod pool_watch;
mod publishing;

pub mod bill;
pub mod failures;
pub mod totals;
pub mod trial;

pub mod progress;
