//! The process: its data directory, its logs and its end.

pub mod data_dir;
pub mod shutdown;
pub mod telemetry;
