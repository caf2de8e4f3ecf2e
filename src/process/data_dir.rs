//! The data directory. One process holds it, and other processes find that one through it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_schemas::Format;
use forebay_workers::clock::{SavedMoment, SystemClock};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::nats::server::write_private;
use crate::process::private_files;

/// The file whose age shows how long no process has held the directory.
const HEARTBEAT_FILE: &str = "alive";
/// The formats that this version reads. Each change that an older Forebay would misread adds a
/// format.
const FORMATS: [Format; 2] = [Format::One, Format::Two];
/// The file that names the format of the directory.
const FORMAT_FILE: &str = "format";
/// The number of characters of a format file that an error shows.
const LONGEST_SHOWN_FORMAT: usize = 20;
/// The interval at which the holder writes the file `alive`.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The holder of a data directory, as it describes itself in `forebay.json`. Only the owner can
/// read the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataHolder {
    /// The number of its process.
    pub pid: u32,
    /// The URL of its NATS server, with the credential.
    pub url: String,
}

/// A data directory that this process holds. The lock ends with the process, however it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// The result of taking hold of a data directory.
#[derive(Debug)]
pub enum DataHold {
    /// This process holds it.
    Ours(DataDir),
    /// Another process holds it.
    Taken(TakenBy),
}

/// The process that holds a data directory.
#[derive(Debug, Clone)]
pub struct TakenBy {
    /// The number of its process. `None` means unknown.
    pub pid: Option<u32>,
    /// Its description of itself. `None` until its server runs.
    pub holder: Option<DataHolder>,
}

/// Formats a data directory for messages: its absolute path and the field that sets it.
pub fn display_path(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    format!(
        "{} ([data] dir)",
        absolute.as_deref().unwrap_or(path).display()
    )
}

impl DataDir {
    /// Takes hold of `path`, unless another process holds it. Creates the directory if it does not
    /// exist.
    ///
    /// # Errors
    /// Returns an error when the directory cannot be created or written, or when its format is not
    /// known.
    pub fn hold(path: &Path) -> std::io::Result<DataHold> {
        let path = std::path::absolute(path)?;
        private_files::begin();
        fs::create_dir_all(&path)?;
        let mut options = File::options();
        options.read(true).write(true);
        options.create(true).truncate(false);
        let mut lock = options.open(path.join("forebay.lock"))?;
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
        private_files::make_private(&path)?;
        dir.delete_holder();
        fs::write(path.join("forebay.lock"), std::process::id().to_string())?;
        Ok(DataHold::Ours(dir))
    }

    /// Writes the file through which other processes find the server.
    ///
    /// # Errors
    /// Returns an error when the file cannot be written.
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

    /// Returns the time since a process that held this directory last wrote a sign of life. `None`
    /// means that none ever did.
    ///
    /// Two intervals are subtracted, since the process may have lived a little longer.
    pub fn idle(&self) -> Option<Duration> {
        let idle = self.time_since_last_sign()?;
        Some(idle.saturating_sub(2 * HEARTBEAT_INTERVAL))
    }

    /// Returns the time since the last sign of life, by a clock that cannot be set where that is possible.
    fn time_since_last_sign(&self) -> Option<Duration> {
        let text = fs::read(self.path.join(HEARTBEAT_FILE)).ok()?;
        if let Ok(last_sign) = serde_json::from_slice::<SavedMoment>(&text) {
            return Some(last_sign.time_until(&SavedMoment::of(&SystemClock)));
        }
        // A Forebay before 0.2 wrote it.
        let last_sign = fs::metadata(self.path.join(HEARTBEAT_FILE))
            .ok()?
            .modified()
            .ok()?;
        // If the clock was set back, this counts as now, which is the safe side.
        Some(last_sign.elapsed().unwrap_or_default())
    }

    /// Writes a sign of life once a second, so that the next process knows how long none held the
    /// directory.
    pub fn keep_alive(&self) -> tokio::task::JoinHandle<()> {
        let (path, dir) = (self.path.join(HEARTBEAT_FILE), display_path(&self.path));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(HEARTBEAT_INTERVAL);
            loop {
                ticks.tick().await;
                let moment = SavedMoment::of(&SystemClock);
                let text = serde_json::to_vec(&moment).unwrap_or_default();
                if let Err(error) = fs::write(&path, text) {
                    warn!(%error, "the data directory {dir} cannot be written");
                }
            }
        })
    }

    /// Returns the path of a file or directory in the data directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Refuses a format that this version does not read: it might misread the data.
    fn check_format(&self) -> std::io::Result<()> {
        let format = self.format()?;
        let is_known = |known: &Format| known.number().to_string() == format;
        if format.is_empty() || FORMATS.iter().any(is_known) {
            return Ok(());
        }
        let known = FORMATS.map(|known| known.number().to_string());
        let known = known.join(" and ");
        let newest = u32::from(Format::default().number());
        Err(std::io::Error::other(match format.parse::<u32>() {
            Ok(number) if number > newest => format!(
                "it has format {number}, which a newer Forebay wrote; this one knows formats {known}"
            ),
            _ => {
                let path = self.join(FORMAT_FILE);
                let start: String = format.chars().take(LONGEST_SHOWN_FORMAT).collect();
                format!(
                    "{} names no format, but begins with {start:?}; this Forebay knows formats {known}. Restore the file, or use \
                     another directory",
                    path.display()
                )
            }
        }))
    }

    /// Marks the directory with the newest format. An older Forebay then refuses to work on it.
    ///
    /// # Errors
    /// Returns an error when the mark cannot be written.
    pub fn begin_format(&self) -> std::io::Result<()> {
        let newest = Format::default().number().to_string();
        if self.format()? == newest {
            return Ok(());
        }
        let fresh = self.join("format.new");
        let mut file = File::create(&fresh)?;
        file.write_all(newest.as_bytes())?;
        file.sync_all()?;
        fs::rename(fresh, self.join(FORMAT_FILE))
    }

    /// Reads the directory's format. It is empty in a new directory, or if power was lost during
    /// the write.
    fn format(&self) -> std::io::Result<String> {
        match fs::read(self.join(FORMAT_FILE)) {
            Ok(format) => Ok(String::from_utf8_lossy(&format).trim().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    fn delete_holder(&self) {
        // If the file stays, it names a process that is gone. The lock shows the same.
        let _ = fs::remove_file(self.path.join("forebay.json"));
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        self.delete_holder();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(format: &[u8]) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(FORMAT_FILE), format).expect("written");
        DataDir::hold(dir.path())
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn a_format_that_is_not_known_is_refused_with_what_it_is() {
        for known in [b"".as_slice(), b"1", b"2\n"] {
            assert_eq!(refusal(known), None);
        }
        let newer = refusal(b"3").expect("refused");
        assert!(newer.contains("format 3, which a newer"), "{newer}");
        let long = [b'x'; 100_000];
        for no_format in [b"0".as_slice(), b"-1", b"2.0", b"\xff\xfe", &long] {
            let error = refusal(no_format).expect("refused");
            let is_named = error.contains("format names no format, but begins with");
            assert!(is_named && error.len() < 300, "{error}");
        }
    }
}
