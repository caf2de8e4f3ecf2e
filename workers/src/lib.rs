//! Everything from fetch to ack. A job's way, and the file of each step:
//!
//! 1. *staged*: [`flow`](crate::Worker) reads a flow into a small stage, [`queue`] says from where;
//!    `admit` reads the job, looks its identity up and matches it (`matching`) with the targets of its pool (`pools`);
//! 2. *permitted*: `dispatch`, the only loop, offers waiting jobs in the order of `fairness`; a `round` asks
//!    the [`accounts`] of a job's `choices`, which answer with a permit or with what has to be waited for. Jobs that ask
//!    the same wait for one of them in `sharing`, embeddings that will travel together behind the first in `joining`;
//! 3. *journalled, sent*: `work`, the spine, makes an `attempt`, for one job or for those that are `joined`, through a
//!    `forebay_providers` adapter and [`upstream`], and [`journal`] tells the next process of it;
//! 4. *classified, decided*: `outcome` says what happened, [`retry`] what to do about it;
//! 5. *persisted, completed, acked*: `finish` stores the result in [`results`], publishes the
//!    completion and only then acks.
//!
//! Beside that way: [`forecast`] plays limits ahead of time, [`probe`] tries a key.

pub mod accounts;
mod addressing;
mod admit;
mod attempt;
mod brake;
mod choices;
mod claim;
pub mod clock;
mod config;
mod content;
mod counters;
pub mod crash;
mod dead_letter;
mod dispatch;
mod end;
mod engine;
mod fairness;
mod finish;
mod flow;
pub mod forecast;
mod held;
mod inbox;
mod join;
mod joined;
mod joining;
pub mod journal;
mod large;
mod lookup;
mod matching;
mod orders;
mod outcome;
mod persist;
mod pools;
mod postpone;
pub mod probe;
mod publish;
pub mod queue;
mod read;
mod release;
pub mod results;
pub mod retry;
mod round;
mod running;
mod share;
mod sharing;
#[cfg(feature = "sim")]
pub mod sim;
mod sizes;
mod staged;
mod until_done;
pub mod upstream;
mod work;
mod worker;

pub use addressing::{Addressing, unknown_team};
pub use config::{Config, Team};
pub use orders::{Cancelled, Orders, Pausable};
pub use pools::{OnDemand, PoolConfig, TargetConfig, Wanted};
pub use worker::{Snapshot, Worker};
