//! The process: its data directory, its logs and its shutdown.

pub mod data_dir;
pub mod shutdown;
pub mod telemetry;
