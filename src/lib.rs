//! x
pub mod config;
pub mod simulate;
