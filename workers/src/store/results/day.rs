//! The database of one day.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::crash::{self, CrashPoint};
use crate::store::results::{Error, large};
use parking_lot::RwLock;
use tracing::Span;

/// The first byte of a value that holds a record; it is the version of the layout.
const VERSION: u8 = 1;
/// The first byte of a value that holds the name of a file, which holds the record.
const IN_FILE: u8 = 2;
/// The segment size of sled, in bytes. sled moves values larger than a quarter of a segment to files that no flush
/// covers. It writes a leaf of up to 17 values as one. So 17 of the largest values must fit a quarter of a segment.
const SEGMENT: usize = 4 * 1024 * 1024;
/// The size of the largest piece of a record, in bytes.
const CHUNK: usize = 48 * 1024;
/// The first byte of the key of a record.
const RECORD: u8 = b'r';
/// The first byte of the key of a piece of a record.
const PIECE: u8 = b'p';
/// The first byte of the key of a request whose answer is cached.
const KEPT: u8 = b'k';
/// The memory that sled may use for one day, in bytes.
const CACHE: u64 = 16 * 1024 * 1024;
/// The number of retries to open a database that is still open.
const OPEN_RETRIES: u32 = 400;
/// The pause before each retry.
const OPEN_RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Returns true if a database could not be opened because it is open already. sled has no kind of error for that.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(cause) if cause.to_string().starts_with("could not acquire lock"))
}

/// The results of one day.
#[derive(Debug)]
pub(crate) struct StoreDay {
    path: PathBuf,
    /// The open database; `None` if it could not be reopened. Only reopening takes the lock for writing. Look-ups
    /// wait meanwhile, so that none misses a stored record.
    open: RwLock<Option<DayDatabase>>,
}

#[derive(Debug)]
struct DayDatabase {
    db: sled::Db,
    /// The database's own file, for the sync that sled omits.
    file: File,
}

impl StoreDay {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            open: RwLock::new(Some(DayDatabase::open(path)?)),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the error of a closed database. It is passing, because the database may be opened again.
    fn closed(&self) -> Error {
        Error {
            passing: true,
            ..Error::new(&self.path, "it is closed after a failure")
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let failed = |problem: &dyn std::fmt::Display| Error::new(&self.path, problem);
        let open = self.open.read();
        let open = open.as_ref().ok_or_else(|| self.closed())?;
        let Some(value) = open.get(&self.path, record_key(key))? else {
            return Ok(None);
        };
        if let [IN_FILE, name @ ..] = value.as_ref() {
            return large::read(&self.path, &String::from_utf8_lossy(name)).map(Some);
        }
        let [VERSION, a, b, c, d, head @ ..] = value.as_ref() else {
            return Err(failed(&format!(
                "a record of version {:?}, which is unknown",
                value.first()
            )));
        };
        let mut whole = head.to_vec();
        for index in 0..u32::from_be_bytes([*a, *b, *c, *d]) {
            let piece = open.get(&self.path, piece_key(key, index))?;
            let piece = piece.ok_or_else(|| failed(&"a piece of a record is missing"))?;
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole))
    }

    /// Returns the cache entry of the request of this key.
    pub(crate) fn kept(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let open = self.open.read();
        let open = open.as_ref().ok_or_else(|| self.closed())?;
        let found = open.get(&self.path, kept_key(key))?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// Adds the cache entry of a request to `batch`.
    pub(crate) fn put_kept(batch: &mut sled::Batch, key: &[u8], value: &[u8]) {
        batch.insert(kept_key(key), value);
    }

    /// Adds a record to `batch`: its head, and more pieces if it is large.
    pub(crate) fn put(batch: &mut sled::Batch, key: &[u8], value: &[u8]) {
        let (head, rest) = value.split_at(value.len().min(CHUNK));
        let pieces = rest.chunks(CHUNK);
        let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        let mut record = vec![VERSION];
        record.extend_from_slice(&count.to_be_bytes());
        record.extend_from_slice(head);
        for (index, piece) in (0..).zip(pieces) {
            batch.insert(piece_key(key, index), piece);
        }
        batch.insert(record_key(key), record);
    }

    /// Adds the name of the file that holds a record to `batch`.
    pub(crate) fn put_name(batch: &mut sled::Batch, key: &[u8], name: &str) {
        batch.insert(record_key(key), [&[IN_FILE], name.as_bytes()].concat());
    }

    /// Writes a batch. When this returns, the batch survives a power loss. sled does not work after an error, so the
    /// database is reopened then.
    pub(crate) fn commit<'a>(
        &self,
        batch: sled::Batch,
        spans: impl IntoIterator<Item = &'a Span>,
    ) -> Result<(), Error> {
        let result = {
            let open = self.open.read();
            match open.as_ref() {
                Some(open) => open.commit(&self.path, batch, spans),
                None => Err(self.closed()),
            }
        };
        if result.is_err() {
            let mut open = self.open.write();
            // The database is locked as long as it is open.
            drop(open.take());
            *open = DayDatabase::open(&self.path).ok();
        }
        result
    }
}

impl DayDatabase {
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever opens a day expects to be blocked"
    )]
    fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::new(path, error);
        let fresh = !path.exists();
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE)
            .segment_size(SEGMENT)
            .flush_every_ms(None);
        let mut looks = 0;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                // sled's own threads may hold the file a moment longer than the last owner.
                Err(error) if is_locked(&error) && looks < OPEN_RETRIES => {
                    looks += 1;
                    thread::sleep(OPEN_RETRY_PAUSE);
                }
                Err(error) => return Err(of_sled(path, &error)),
            }
        };
        let file = File::open(path.join("db")).map_err(|error| failed(&error))?;
        if fresh {
            for dir in [Some(path), path.parent()].into_iter().flatten() {
                File::open(dir)
                    .and_then(|dir| dir.sync_all())
                    .map_err(|error| failed(&error))?;
            }
        }
        Ok(Self { db, file })
    }

    fn get(&self, path: &Path, key: Vec<u8>) -> Result<Option<sled::IVec>, Error> {
        self.db.get(key).map_err(|error| of_sled(path, &error))
    }

    fn commit<'a>(
        &self,
        path: &Path,
        batch: sled::Batch,
        spans: impl IntoIterator<Item = &'a Span>,
    ) -> Result<(), Error> {
        self.db
            .apply_batch(batch)
            .map_err(|error| of_sled(path, &error))?;
        crash::at_in(CrashPoint::Written, spans);
        self.db.flush().map_err(|error| of_sled(path, &error))?;
        self.file.sync_data().map_err(|error| Error {
            passing: true,
            ..Error::new(path, error)
        })
    }
}

/// Converts an error of sled. An error of the system or a lock may pass. An error of sled itself is damage.
fn of_sled(path: &Path, error: &sled::Error) -> Error {
    let of_system = matches!(error, sled::Error::Io(cause) if cause.raw_os_error().is_some());
    Error {
        passing: of_system || is_locked(error),
        ..Error::new(path, error)
    }
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [&[RECORD], key].concat()
}

fn kept_key(key: &[u8]) -> Vec<u8> {
    [&[KEPT], key].concat()
}

fn piece_key(key: &[u8], index: u32) -> Vec<u8> {
    [&[PIECE], key, &index.to_be_bytes()].concat()
}
