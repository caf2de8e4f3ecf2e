//! Copies of the state of accounts and of orders in the data directory.
//!
//! # Why
//!
//! The true state is in buckets at the NATS server. A team can have the server put a foreign value in its place, and a store
//! can be lost while no Forebay runs. The state would then be unknown: limits that may not be spent would count as spent, or
//! an order would be gone.
//!
//! # How
//!
//! Each value that this process writes into a bucket is written into a file too. The file also has the time at which the
//! server made the bucket. A data directory has a random name, which its worker writes into the bucket of accounts. A start
//! so knows whether another data directory was the last one.
//!
//! # Invariants
//!
//! - A copy counts for a value of the bucket only if no other data directory wrote to the bucket after it.
//! - A copy that cannot be written or read stops nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

/// The subdirectory of the data directory.
const DIR: &str = "state";
/// The file of the data directory's random name.
const ID_FILE: &str = "id";
/// The end of the name of a file that is not whole yet.
const UNFINISHED: &str = "new";

/// A copy of a value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateCopy<T> {
    /// When the server made the bucket, in nanoseconds since the Unix epoch.
    pub bucket_made: i128,
    /// The value.
    pub value: T,
}

/// The copies of one bucket.
#[derive(Debug, Clone)]
pub struct StateCopies {
    dir: Arc<Path>,
    id: Bytes,
    /// True while copies cannot be written, so that a full disk is reported once.
    is_failing: Arc<AtomicBool>,
}

impl StateCopies {
    /// Opens the copies of `bucket` in a data directory.
    ///
    /// # Errors
    /// Returns an error when their directory cannot be made.
    pub fn open(data_dir: &Path, bucket: &str) -> io::Result<Self> {
        let dir = data_dir.join(DIR).join(bucket);
        fs::create_dir_all(&dir)?;
        let id = id_of(&data_dir.join(DIR).join(ID_FILE))?;
        Ok(Self {
            dir: dir.into(),
            id,
            is_failing: Arc::default(),
        })
    }

    /// Returns the random name of the data directory.
    pub fn id(&self) -> Bytes {
        self.id.clone()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }

    /// Returns the copy of a key's value; `None` if there is none that can be read.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Option<StateCopy<T>> {
        let path = self.path(key);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "a copy of state cannot be read");
                return None;
            }
        };
        let copy = serde_json::from_slice(&text);
        copy.inspect_err(
            |error| warn!(path = %path.display(), %error, "a copy of state is not understood"),
        )
        .ok()
    }

    /// Writes the copy of a key's value.
    pub fn write<T: Serialize>(&self, key: &str, copy: &StateCopy<T>) {
        let path = self.path(key);
        let written = serde_json::to_vec(copy)
            .map_err(io::Error::other)
            .and_then(|text| {
                let unfinished = path.with_extension(UNFINISHED);
                fs::write(&unfinished, text)?;
                fs::rename(unfinished, &path)
            });
        let was_failing = self.is_failing.swap(written.is_err(), Ordering::Relaxed);
        match written {
            Err(error) if !was_failing => {
                warn!(path = %path.display(), %error, "a copy of state cannot be written");
            }
            Ok(()) if was_failing => info!("copies of state can be written again"),
            _ => {}
        }
    }
}

/// Reads the name of a data directory, or gives it one.
fn id_of(path: &Path) -> io::Result<Bytes> {
    match fs::read(path) {
        Ok(id) if !id.is_empty() => Ok(id.into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            let id = format!("{:032x}", rand::random::<u128>());
            fs::write(path, &id)?;
            Ok(id.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_as_it_was_written_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let copies = StateCopies::open(dir.path(), "AI_ACCOUNTS").expect("opened");
        let first = copies.id();
        assert!(copies.read::<String>("team.acme").is_none());
        let copy = StateCopy {
            bucket_made: 1,
            value: "spent".to_owned(),
        };
        copies.write("team.acme", &copy);
        let copies = StateCopies::open(dir.path(), "AI_ACCOUNTS").expect("opened again");
        let read = copies.read::<String>("team.acme").expect("there");
        assert_eq!((read.bucket_made, read.value.as_str()), (1, "spent"));
        assert_eq!(copies.id(), first, "the directory keeps its name");
        fs::write(copies.path("team.acme"), "{").expect("written");
        assert!(copies.read::<String>("team.acme").is_none());
    }
}
