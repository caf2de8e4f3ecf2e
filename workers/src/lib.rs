//! The engine: everything from the delivery of a job to its ack.
//!
//! The modules are listed in the order of a job's way. `intake` fetches, reads and routes it. `dispatch` finds an account
//! whose limits let it start. `execute` makes the call. `complete` stores the result, publishes the completion and only
//! then acks. Each module imports those below it, never one above it.

// Starts and stops everything below.
mod worker;

// From a delivery to a job that can be called: fetched, read, looked up, routed.
mod intake;

// Which job is called next, and where.
mod dispatch;

// One permitted call, and what is done about its outcome.
mod execute;

// Stored, published, copied, acked.
mod complete;

// The state that all steps share.
mod worker_state;

// The configuration of a worker, and its controls while it runs.
mod addressing;
mod config;
mod controls;
mod counters;

// A job between delivery and completion.
mod job;

// The targets of each pool.
mod pools;

// The outcome of a call, and the retry policy.
pub mod outcome;

// Where jobs come from and completions go, and the codes that mark what Forebay wrote.
pub mod queue;
pub mod tags;

// How fast each account is called: limits, cooldowns, keys.
pub mod accounts;

// One HTTP attempt.
pub mod upstream;

// The results and the journal on disk.
pub mod store;

// Not on a job's way: the forecast of a batch, and the check of keys.
pub mod forecast;
pub mod key_check;

// Leaves: backpressure of the store, the memory of jobs, time, until when calls may be made, the points between steps.
mod attempt_record;
mod backpressure;
pub mod clock;
pub mod crash;
pub mod fence;
mod large;
pub mod memory_budget;
mod until_done;

#[cfg(feature = "sim")]
pub mod sim;

pub use crate::controls::{CancelledJobs, PauseTarget, WorkerControls};
pub use addressing::{SubjectRules, unknown_team};
pub use config::{Config, TeamConfig};
pub use pools::{OnDemand, PoolConfig, TargetConfig, WantedModel};
pub use worker::{Worker, WorkerSnapshot};
