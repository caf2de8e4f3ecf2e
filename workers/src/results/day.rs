//! One day's database.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Error;
use crate::crash::{self, Point};

/// The first byte of every value: the layout of what follows.
const VERSION: u8 = 1;
/// sled moves what is larger than a quarter of a segment to files that no flush covers, and writes a
/// leaf of up to 17 values as one: so 17 of the largest values must fit a quarter of a segment.
const SEGMENT: usize = 4 * 1024 * 1024;
/// The largest value that is written as one.
const CHUNK: usize = 48 * 1024;
/// Records and chunks live under different first bytes.
const RECORD: u8 = b'r';
const PIECE: u8 = b'p';
/// What sled may keep in memory for one day, in bytes.
const CACHE: u64 = 64 * 1024 * 1024;
/// How often it is looked at a database that is still open, and how long after each time.
const LOOKS: u32 = 400;
const LOOK: Duration = Duration::from_millis(5);

/// Whether a database could not be opened because it is open: sled has no kind of error for that.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(cause) if cause.to_string().starts_with("could not acquire lock"))
}

#[derive(Debug)]
pub(super) struct Day {
    path: PathBuf,
    db: sled::Db,
    /// The database's own file, for the sync that sled leaves out.
    file: File,
}

impl Day {
    #[expect(clippy::disallowed_methods, reason = "whoever opens a day expects to be blocked")]
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error::new(path, error);
        let fresh = !path.exists();
        let config =
            sled::Config::new().path(path).cache_capacity(CACHE).segment_size(SEGMENT).flush_every_ms(None);
        let mut looks = 0;
        let db = loop {
            match config.open() {
                Ok(db) => break db,
                // sled's own threads may keep the file a moment longer than whoever closed it last.
                Err(error) if is_locked(&error) && looks < LOOKS => {
                    looks += 1;
                    thread::sleep(LOOK);
                }
                Err(error) => {
                    let of_system =
                        matches!(&error, sled::Error::Io(cause) if cause.raw_os_error().is_some());
                    return Err(Error { passing: of_system || is_locked(&error), ..failed(&error) });
                }
            }
        };
        let file = File::open(path.join("db")).map_err(|error| failed(&error))?;
        if fresh {
            for dir in [Some(path), path.parent()].into_iter().flatten() {
                File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(&error))?;
            }
        }
        Ok(Self { path: path.to_owned(), db, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let failed = |problem: &dyn std::fmt::Display| Error::new(&self.path, problem);
        let Some(value) = self.db.get(record_key(key)).map_err(|error| failed(&error))? else {
            return Ok(None);
        };
        let [VERSION, a, b, c, d, head @ ..] = value.as_ref() else {
            return Err(failed(&format!("a record of version {:?}, which is unknown", value.first())));
        };
        let mut whole = head.to_vec();
        for index in 0..u32::from_be_bytes([*a, *b, *c, *d]) {
            let piece = self.db.get(piece_key(key, index)).map_err(|error| failed(&error))?;
            whole.extend_from_slice(&piece.ok_or_else(|| failed(&"a piece of a record is missing"))?);
        }
        Ok(Some(whole))
    }

    /// Adds a record to `batch`: its head, and pieces after it where it is large.
    pub(super) fn put(batch: &mut sled::Batch, key: &[u8], value: &[u8]) {
        let (head, rest) = value.split_at(value.len().min(CHUNK));
        let pieces = rest.chunks(CHUNK);
        let mut record = vec![VERSION];
        record.extend_from_slice(&u32::try_from(pieces.len()).unwrap_or(u32::MAX).to_be_bytes());
        record.extend_from_slice(head);
        for (index, piece) in (0..).zip(pieces) {
            batch.insert(piece_key(key, index), piece);
        }
        batch.insert(record_key(key), record);
    }

    /// Writes a batch; when this returns, it survives a power loss.
    pub(super) fn commit(&self, batch: sled::Batch) -> Result<(), Error> {
        self.db.apply_batch(batch).map_err(|error| Error::new(&self.path, error))?;
        crash::at(Point::Written);
        self.db.flush().map_err(|error| Error::new(&self.path, error))?;
        self.file.sync_data().map_err(|error| Error::new(&self.path, error))
    }
}

fn record_key(key: &[u8]) -> Vec<u8> {
    [&[RECORD], key].concat()
}

fn piece_key(key: &[u8], index: u32) -> Vec<u8> {
    [&[PIECE], key, &index.to_be_bytes()].concat()
}
