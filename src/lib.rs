//! Forebay: an asynchronous broker for AI requests. This crate is everything before the publish,
//! everything a person touches, and the process; `forebay-workers` is everything from fetch to ack,
//! and `forebay-schemas` what crosses the wire between them.

pub mod catalogue;
pub mod config;

pub mod connection;
pub mod data_dir;
pub mod dead;
pub mod nats;
mod objects;
pub mod orders;
pub mod permissions;
pub mod seat;
pub mod topology;
pub mod upgrade;

pub mod app;
pub mod control;
pub mod events;
pub mod shutdown;
pub mod standing;
pub mod telemetry;
pub mod worker;

pub mod batch;
pub mod run;

pub mod cli;
