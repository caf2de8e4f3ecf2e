//! Everything from fetch to ack. A job's way is the order of these modules: `intake` fetches, reads and routes it,
//! `dispatch` finds an account whose limits let it go now, `execute` calls, `complete` stores the result, publishes the
//! completion and only then acks. Each step imports what stands below it, never what stands above.

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

// What all steps share.
mod worker_state;

// What a worker is told before it starts, and while it runs.
mod addressing;
mod config;
mod controls;
mod counters;

// A job on its way, and what holds it.
mod job;

// Which accounts and models serve a pool.
mod pools;

// What a call turned out to be, and what to do about it.
pub mod outcome;

// Where jobs come from and completions go.
pub mod queue;

// How fast each account is called: limits, cooldowns, keys.
pub mod accounts;

// One HTTP attempt.
pub mod upstream;

// What is kept on disk.
pub mod store;

// Beside a job's way: what a batch is going to take, and whether a key works.
pub mod forecast;
pub mod key_check;

// Leaves: what stops calls while the store is full, time, the points where a test ends the process.
mod backpressure;
pub mod clock;
pub mod crash;
mod large;
mod until_done;

#[cfg(feature = "sim")]
pub mod sim;

pub use crate::controls::{CancelledJobs, PauseTarget, WorkerControls};
pub use addressing::{SubjectRules, unknown_team};
pub use config::{Config, TeamConfig};
pub use pools::{OnDemand, PoolConfig, TargetConfig, WantedModel};
pub use worker::{Worker, WorkerSnapshot};
