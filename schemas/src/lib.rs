//! What crosses the wire: jobs in, completions out, and the subjects both travel on.
//!
//! Nothing here is asynchronous and nothing here does I/O. Reading order: [`subjects`] (names and
//! their encoding), [`job`], [`failure`] (what can go wrong, as a closed list), [`completion`], [`event`]; [`reuse`] is a field
//! of jobs and pools.

pub mod subjects;

pub mod job;

pub mod failure;

pub mod completion;

pub mod event;

pub mod reuse;

pub mod contract;

pub use completion::{
    AnsweredBy, Attempt, Completion, CompletionError, Reason, Response, Reused, Status, Usage,
};
pub use event::QuotaEvent;
pub use failure::Class;
pub use job::{Identity, Job, OnAmbiguous};
pub use reuse::Reuse;
pub use subjects::{Flow, Lane, Names};
