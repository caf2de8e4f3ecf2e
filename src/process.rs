//! The process: its data directory, its logs and its shutdown.

pub mod data_dir;
pub mod disk_room;
pub(crate) mod private_files;
pub mod shutdown;
pub mod telemetry;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Keeps a crash from writing the memory, which holds keys and prompts, to a core file. The processes that this one starts
/// inherit that.
pub fn dump_no_core() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // A limit can always be lowered.
    let _ = setrlimit(Resource::Core, none);
}
