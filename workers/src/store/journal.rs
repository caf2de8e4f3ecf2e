//! What this process is doing, in files that outlive it: the calls under way, and the jobs whose bytes it works
//! on. From them the next process learns of which calls nobody knows what became, and which job it may be that
//! ends the process.
//!
//! Files are written without a buffer, so that what is written survives the process. The power may take the last
//! of it; only where a job must not be called twice, its line is synced first.

mod attempts;
mod poison;

use std::fs::File;
use std::path::{Path, PathBuf};

pub(crate) use crate::store::journal::attempts::AttemptJournal;
pub(crate) use crate::store::journal::poison::{PoisonPills, WorkStep};

/// Why the journal cannot be opened.
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
    pub(crate) suspects: PoisonPills,
}

impl Journal {
    /// Opens the journal in `dir`, which is made if it is not there, and reads what a process before this one
    /// left. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let open = || {
            std::fs::create_dir_all(dir)?;
            // A new directory is there after a power loss when the one that it is in is synced.
            if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
            Ok(Self {
                attempts: AttemptJournal::open(dir)?,
                suspects: PoisonPills::open(dir)?,
            })
        };
        open().map_err(|problem| Error {
            path: dir.to_owned(),
            problem,
        })
    }
}
