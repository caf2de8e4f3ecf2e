//! The data directory: one process holds it, others find that one through it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_schemas::Format;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::nats::server::write_private;

/// The file whose age tells for how long no process has lived here.
const ALIVE: &str = "alive";
/// The formats that are read. There is another one after every change that an older Forebay would misread.
const FORMATS: [Format; 2] = [Format::One, Format::Two];
/// How often it is written.
const PULSE: Duration = Duration::from_secs(1);

/// What the holder of a data directory says of itself; the file is readable by its owner alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataHolder {
    /// Its process.
    pub pid: u32,
    /// Its NATS server's address, credential included.
    pub url: String,
}

/// A data directory that this process holds. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// What came of asking for a data directory.
#[derive(Debug)]
pub enum DataHold {
    /// It is ours.
    Ours(DataDir),
    /// Another process has it.
    Taken(TakenBy),
}

/// The process that has a data directory.
#[derive(Debug, Clone)]
pub struct TakenBy {
    /// Its process.
    pub pid: Option<u32>,
    /// What it says of itself, once its server is up.
    pub holder: Option<DataHolder>,
}

/// A data directory as messages name it: what it is relative to cannot be told from them, and where it is set can.
pub fn told(path: &Path) -> String {
    let whole = std::path::absolute(path);
    format!(
        "{} ([data] dir)",
        whole.as_deref().unwrap_or(path).display()
    )
}

impl DataDir {
    /// Takes hold of `path`, which is made if it is not there, unless another process has it.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn hold(path: &Path) -> std::io::Result<DataHold> {
        let path = std::path::absolute(path)?;
        fs::create_dir_all(&path)?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("forebay.lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                lock.read_to_string(&mut pid)?;
                let holder = fs::read_to_string(path.join("forebay.json")).ok();
                let holder = holder.and_then(|text| serde_json::from_str(&text).ok());
                return Ok(DataHold::Taken(TakenBy {
                    pid: pid.trim().parse().ok(),
                    holder,
                }));
            }
            Err(error) => return Err(error.into()),
        }
        let dir = Self {
            path: path.clone(),
            _lock: lock,
        };
        dir.check_format()?;
        dir.forget_holder();
        fs::write(path.join("forebay.lock"), std::process::id().to_string())?;
        Ok(DataHold::Ours(dir))
    }

    /// Lets others find the server.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn announce(&self, url: &str) -> std::io::Result<()> {
        let holder = DataHolder {
            pid: std::process::id(),
            url: url.to_owned(),
        };
        write_private(
            &self.path.join("forebay.json"),
            &serde_json::to_string(&holder)?,
        )
    }

    /// How long ago a process that held this directory last said that it lives; `None` if none ever did.
    /// It may have lived for some moments more.
    pub fn idle(&self) -> Option<Duration> {
        let said = fs::metadata(self.path.join(ALIVE)).ok()?.modified().ok()?;
        // A clock that was set back makes it now, which is on the safe side.
        let idle = said.elapsed().unwrap_or_default();
        Some(idle.saturating_sub(2 * PULSE))
    }

    /// Says, now and then, that this process lives, so that the next one knows for how long it has not.
    pub fn keep_alive(&self) -> tokio::task::JoinHandle<()> {
        let (path, dir) = (self.path.join(ALIVE), told(&self.path));
        tokio::spawn(async move {
            let mut pulse = tokio::time::interval(PULSE);
            loop {
                pulse.tick().await;
                if let Err(error) = fs::write(&path, std::process::id().to_string()) {
                    warn!(%error, "the data directory {dir} cannot be written");
                }
            }
        })
    }

    /// Where something of ours is.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Refuses what a newer Forebay wrote, which this one might misread.
    fn check_format(&self) -> std::io::Result<()> {
        let format = self.format()?;
        let is_known = |known: &Format| known.number().to_string() == format;
        if format.is_empty() || FORMATS.iter().any(is_known) {
            return Ok(());
        }
        let known = FORMATS
            .map(|known| known.number().to_string())
            .join(" and ");
        Err(std::io::Error::other(format!(
            "it has format {format}, which a newer Forebay wrote; this one knows formats {known}"
        )))
    }

    /// From now on what is written here is of the newest format: an older Forebay must not work on it any more.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn begin_format(&self) -> std::io::Result<()> {
        let newest = Format::default().number().to_string();
        if self.format()? == newest {
            return Ok(());
        }
        let fresh = self.join("format.new");
        let mut file = File::create(&fresh)?;
        file.write_all(newest.as_bytes())?;
        file.sync_all()?;
        fs::rename(fresh, self.join("format"))
    }

    /// What the directory says of its format: nothing where it is new, or the power went while that was written.
    fn format(&self) -> std::io::Result<String> {
        match fs::read_to_string(self.join("format")) {
            Ok(format) => Ok(format.trim().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    fn forget_holder(&self) {
        // If it stays, it names a process that is gone, which the lock tells as well.
        let _ = fs::remove_file(self.path.join("forebay.json"));
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        self.forget_holder();
    }
}
