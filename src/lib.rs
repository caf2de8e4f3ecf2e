//! Forebay: an asynchronous broker for AI requests. This crate is everything before the publish,
//! everything a person touches, and the process; `forebay-workers` is everything from fetch to ack,
//! and `forebay-schemas` what crosses the wire between them.

// The configuration, and everything that is checked in it.
pub mod config;

// The models that are known, their prices and their limits.
pub mod catalogue;

// The command line.
pub mod cli;

// A batch from its file to its files of answers.
pub mod batch;

// The parts of a running process, in the order in which they start.
pub mod app;

// The worker of this process.
pub mod worker;

// What several processes of one prefix share.
pub mod cluster;

// What operators and those who wait for an answer can ask over NATS.
pub mod control;

// NATS as Forebay uses it.
pub mod nats;

// What 0.1 left, and how it is taken over.
pub mod upgrade;

// The process: its data directory, its logs and its end.
pub mod process;
