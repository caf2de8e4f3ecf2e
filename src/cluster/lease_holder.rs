//! The holder of the worker's lease, as it describes itself.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rand::Rng;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// The holder of a lease. It is named in the message of a second process, and identifies one's own
/// key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LeaseHolder {
    pub(super) host: String,
    pub(super) pid: u32,
    /// Distinguishes two processes with the same host name and process number.
    nonce: u64,
    /// The running kernel and the namespace in which `pid` counts. `None` where the system has neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    /// The time at which the process started, as the kernel counts it. `None` where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started: Option<u64>,
}

impl LeaseHolder {
    /// Describes this process.
    pub(super) fn this_process() -> Self {
        let uname = rustix::system::uname();
        let pid = std::process::id();
        Self {
            host: uname.nodename().to_string_lossy().into_owned(),
            pid,
            nonce: rand::rng().random(),
            place: place(),
            started: start_of(pid),
        }
    }

    /// Returns true if this process can see that the holder has ended. A holder on another machine, or in another
    /// namespace of process numbers, cannot be seen.
    pub(super) fn has_ended(&self) -> bool {
        let is_here = self.place.is_some() && self.place == place();
        is_here && self.started.is_some() && !self.is_running()
    }

    /// Returns true if the process runs, or if that cannot be seen.
    fn is_running(&self) -> bool {
        match std::fs::read_to_string(stat_path(self.pid)) {
            Ok(stat) => start_in(&stat).is_none_or(|started| Some(started) == self.started),
            // Where other users' processes are hidden, one that runs seems not to exist.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
                pid.is_none_or(|pid| test_kill_process(pid) != Err(Errno::SRCH))
            }
            Err(_) => true,
        }
    }
}

impl std::fmt::Display for LeaseHolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "host {}, process {}", self.host, self.pid)
    }
}

/// Returns the boot of the kernel and the namespace of process numbers of this process.
fn place() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// Returns the time at which a process started, in ticks since the boot. A number that was used again has another one.
fn start_of(pid: u32) -> Option<u64> {
    start_in(&std::fs::read_to_string(stat_path(pid)).ok()?)
}

fn stat_path(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("stat")
}

fn start_in(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, which may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_has_not_ended_and_another_machines_cannot_be_seen() {
        let me = LeaseHolder::this_process();
        assert!(!me.has_ended());
        let elsewhere = LeaseHolder {
            place: Some("another boot".to_owned()),
            started: Some(1),
            ..me.clone()
        };
        assert!(!elsewhere.has_ended());
        let unknown = LeaseHolder { place: None, ..me };
        assert!(!unknown.has_ended());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_that_ended_is_seen_although_its_number_is_used_again() {
        let me = LeaseHolder::this_process();
        let before = LeaseHolder {
            started: me.started.map(|started| started - 1),
            ..me.clone()
        };
        assert!(before.has_ended());
        let mut child = std::process::Command::new("true").spawn().expect("started");
        let ended = LeaseHolder {
            pid: child.id(),
            started: start_of(child.id()),
            ..me
        };
        child.wait().expect("ended");
        assert!(ended.has_ended());
    }
}
