//! The data on the wire: jobs, completions, and the subjects of both.
//!
//! Nothing here is asynchronous and nothing here does I/O. The reading order is: [`flow`] (pool, team
//! and lane), [`header`], [`subjects`] (names and their encoding), [`rights`] (who may use them), [`job`], [`failure`] (the closed
//! list of failures), [`completion`], [`event`]. [`cache`] is a field of jobs and pools.
//! [`format`](mod@format) has the parts of 0.1 that are still read.

pub mod flow;

pub mod header;

pub mod subjects;

mod streams;

pub mod rights;

pub mod job;

pub mod failure;

pub mod completion;

pub mod event;

pub mod cache;

pub mod quoting;

pub mod format;

pub mod contract;

pub use cache::Cache;
pub use completion::{
    AnsweredBy, Attempt, CachedFrom, Completion, CompletionError, Reason, Response, Status, Usage,
};
pub use event::AccountEvent;
pub use failure::Class;
pub use flow::{Flow, Lane};
pub use format::Format;
pub use job::{Identity, Job, OnAmbiguous};
pub use subjects::Names;
