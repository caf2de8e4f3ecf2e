//! The work of this process in files that outlive it: the calls in flight, and the jobs whose bytes are processed.
//! The next process learns from them which calls have an unknown outcome, and which job may end the process.
//!
//! Files are written without a buffer, so that each write survives the process. A power loss may lose the last
//! writes. A line is synced first only where a job must not be called twice.

mod attempts;
mod poison;

use std::fs::File;
use std::path::{Path, PathBuf};

pub(crate) use crate::store::journal::attempts::AttemptJournal;
pub(crate) use crate::store::journal::poison::{PoisonPills, WorkStep};

/// The reason why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("journal in {}: {problem}", path.display())]
pub struct Error {
    path: PathBuf,
    problem: std::io::Error,
}

/// The journal of one process.
#[derive(Debug)]
pub struct Journal {
    pub(crate) attempts: AttemptJournal,
    pub(crate) poison_pills: PoisonPills,
}

impl Journal {
    /// Opens the journal in `dir`, which is created if it is missing, and reads the records of an earlier process.
    /// Blocks.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or written.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_in(dir).map_err(|problem| Error {
            path: dir.to_owned(),
            problem,
        })
    }

    fn open_in(dir: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        // A new directory survives a power loss only after its parent is synced.
        if let Some(parent) = dir.parent()
            && !parent.as_os_str().is_empty()
        {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self {
            attempts: AttemptJournal::open(dir)?,
            poison_pills: PoisonPills::open(dir)?,
        })
    }
}
