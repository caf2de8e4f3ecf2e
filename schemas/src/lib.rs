//! What crosses the wire: jobs in, completions out, and the subjects both travel on.
//!
//! Nothing here is asynchronous and nothing here does I/O. Reading order: [`subjects`] (names and
//! their encoding), [`job`], [`failure`] (what can go wrong, as a closed list), [`completion`], [`event`].

pub mod subjects;

pub mod job;

pub mod failure;

pub mod completion;

pub mod event;

pub mod contract;

pub use completion::{AnsweredBy, Attempt, Completion, CompletionError, Reason, Response, Status, Usage};
pub use event::QuotaEvent;
pub use failure::Class;
pub use job::{Identity, Job, OnAmbiguous};
pub use subjects::{Flow, Lane, Names};
