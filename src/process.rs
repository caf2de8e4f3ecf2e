//! The process: its data directory, its logs and its shutdown.

pub mod data_dir;
pub(crate) mod private_files;
pub mod shutdown;
pub mod telemetry;
