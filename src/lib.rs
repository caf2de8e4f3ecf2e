//! Forebay: an asynchronous broker for AI requests.
//!
//! This crate has everything before the publish, the user interfaces and the process.
//! `forebay-workers` has everything from fetch to ack. `forebay-schemas` has the wire format
//! between them.

// The configuration and its checks.
pub mod config;

// The known models, their prices and their limits.
pub mod catalogue;

// The command line.
pub mod cli;

// Batches: from a file of requests to the files of answers.
pub mod batch;

// The parts of a running process, in the order in which they start.
pub mod app;

// The type of the worker in this process.
pub mod worker;

// The state that processes of one prefix share.
pub mod cluster;

// The services over NATS for operators and for clients that wait for an answer.
pub mod control;

// NATS: server, connection, streams and object stores.
pub mod nats;

// The upgrade of what 0.1 left at the NATS server.
pub mod upgrade;

// The process: its data directory, its logs and its shutdown.
pub mod process;
