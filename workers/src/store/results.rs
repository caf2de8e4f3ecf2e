//! The store of results by identity: one sled database per day, one writer thread and group commit. Large results are
//! in files beside the database.
//!
//! sled's own flush is not safe against a power loss, because it calls `sync_file_range`. So the writer calls
//! `sync_data` on the database's file after it. `flush_async` can deadlock and is never called. Retention deletes a
//! day's directory, because sled never frees space. sled is never the only copy of a job that is not acked.

mod coverage;
mod day;
mod large;
mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_schemas::subjects::digest;
use forebay_schemas::{Completion, Identity};
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::{Span, info, warn};

use crate::large::{LARGE, run_blocking_if_large, size_of};
use crate::store::results::day::StoreDay;
use crate::store::results::writer::{StoreWrite, StoreWriter, StoredValue};

/// The reason why a result cannot be stored or read.
#[derive(Debug, thiserror::Error)]
#[error("store of results in {}: {problem}", path.display())]
pub struct Error {
    path: PathBuf,
    problem: String,
    /// True if the problem may pass by itself: too many open files, a full disk.
    passing: bool,
}

impl Error {
    /// Returns true if the problem may pass by itself.
    pub(crate) fn is_passing(&self) -> bool {
        self.passing
    }

    /// Returns a copy of the error for another task that waits for the same write.
    fn again(&self) -> Self {
        Self {
            path: self.path.clone(),
            problem: self.problem.clone(),
            passing: self.passing,
        }
    }

    fn new(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self {
            path: path.to_owned(),
            problem: problem.to_string(),
            passing: false,
        }
    }
}

/// A stored result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResultRecord {
    /// The fingerprint of the job's pool, url and body.
    pub fingerprint: String,
    /// The unique id of the message that the result answered, from [`Delivery::unique_id`](crate::queue::Delivery).
    /// `None` in records without one.
    #[serde(default)]
    pub message: Option<String>,
    /// The completion of the job.
    pub completion: Completion,
}

/// A request of a team, whose cached answer may serve an identical request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey {
    pub(crate) team: String,
    /// The fingerprint of pool, url and body.
    pub(crate) fingerprint: String,
}

/// The number of days for which results are stored and used.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// The days for which a result is kept, including today.
    pub keep_days: u16,
    /// The days for which an answered identity is not called again, including today.
    pub horizon_days: u16,
}

/// The store of results.
#[derive(Debug)]
pub struct ResultStore {
    dir: PathBuf,
    retention: Retention,
    days: Mutex<BTreeMap<Date, Arc<StoreDay>>>,
    /// The lock that is held while a day is opened, because sled refuses a database that is already open. Opening a
    /// large day takes seconds, and look-ups must not wait for it.
    opening: Mutex<()>,
    /// The writer thread; `None` if each task commits its own record at once.
    writer: Option<StoreWriter>,
}

/// The text between the date of a day that was set aside and the id of the process that did so.
const UNREADABLE: &str = ".unreadable-";

/// Returns the day, in UTC, under which a record of `now` is stored.
pub fn day_of(now: Timestamp) -> Date {
    now.to_zoned_datetime(TimeZone::UTC).date()
}

impl ResultStore {
    /// Opens the days within the horizon in `dir`, which is created if it is missing. Blocks.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created or read.
    pub fn open(dir: &Path, retention: Retention, now: Timestamp) -> Result<Self, Error> {
        let writer = StoreWriter::start().map_err(|error| Error::new(dir, error))?;
        Self::with_writer(dir, retention, now, Some(writer))
    }

    /// Opens a store without a writer thread, for runs under a paused clock. Such a clock jumps ahead while a task
    /// waits for another thread.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created or read.
    #[cfg(feature = "sim")]
    pub fn open_in_place(dir: &Path, retention: Retention, now: Timestamp) -> Result<Self, Error> {
        Self::with_writer(dir, retention, now, None)
    }

    fn with_writer(
        dir: &Path,
        retention: Retention,
        now: Timestamp,
        writer: Option<StoreWriter>,
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|error| Error::new(dir, error))?;
        let results = Self {
            dir: dir.to_owned(),
            retention,
            days: Mutex::default(),
            opening: Mutex::default(),
            writer,
        };

        results.forget_old(now)?;
        let first = day_of(results.horizon(now));
        let mut dates = results.stored_days()?;
        dates.retain(|date| *date >= first);
        for date in dates {
            results.day(date)?;
        }
        // The first result of today should not wait until its database is created.
        results.day(day_of(now))?;
        Ok(results)
    }

    /// Stores a record. When this returns, the record survives a power loss.
    ///
    /// # Errors
    /// Returns an error if the record could not be written. It may be stored all the same.
    pub async fn store(
        &self,
        identity: &Identity,
        record: &ResultRecord,
        now: Timestamp,
    ) -> Result<(), Error> {
        let day = self.day(day_of(now))?;
        let key = key_of(identity);
        let json =
            run_blocking_if_large(size_of(&record.completion), || serde_json::to_vec(record));
        let json = json.map_err(|error| Error::new(&self.dir, error))?;
        let value = if json.len() < LARGE || self.writer.is_none() {
            StoredValue::Record(json)
        } else {
            let (name, path) = (digest(&key), day.path().to_owned());
            let write = {
                let name = name.clone();
                move || large::write(&path, &name, &json)
            };
            let written = tokio::task::spawn_blocking(write).await;
            written.map_err(|error| Error::new(&self.dir, error))??;
            StoredValue::InFile(name)
        };
        self.write(day, key, value).await
    }

    async fn write(
        &self,
        day: Arc<StoreDay>,
        key: Vec<u8>,
        value: StoredValue,
    ) -> Result<(), Error> {
        let Some(writer) = &self.writer else {
            return writer::write_one(&day, &key, &value);
        };
        let (done, written) = oneshot::channel();
        writer.send(StoreWrite {
            day,
            key,
            value,
            span: Span::current(),
            done,
        });
        match written.await {
            Ok(result) => result,
            Err(_) => Err(Error::new(&self.dir, "the writer has stopped")),
        }
    }

    /// Caches the stored answer of a job for identical requests. A large answer is not cached, because each of these
    /// requests would store it again.
    ///
    /// # Errors
    /// Returns an error if the entry could not be written.
    pub(crate) async fn keep(
        &self,
        request: &RequestKey,
        answer: &Completion,
        now: Timestamp,
    ) -> Result<(), Error> {
        if size_of(answer) >= LARGE {
            return Ok(());
        }
        let kept = CachedAnswer {
            batch: answer.batch.clone(),
            id: answer.id.clone(),
            at: now,
        };
        let kept = serde_json::to_vec(&kept).map_err(|error| Error::new(&self.dir, error))?;
        let (day, key) = (self.day(day_of(now))?, key_of_request(request));
        self.write(day, key, StoredValue::Kept(kept)).await
    }

    /// Returns the identity whose answer serves a request, if an answer within the horizon was cached at `since` or
    /// later.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub(crate) fn kept(
        &self,
        request: &RequestKey,
        since: Timestamp,
    ) -> Result<Option<Identity>, Error> {
        let key = key_of_request(request);
        for day in self.days_since(day_of(since)) {
            let Some(kept) = day.kept(&key)? else {
                continue;
            };
            let CachedAnswer { batch, id, at } =
                serde_json::from_slice(&kept).map_err(|error| Error::new(day.path(), error))?;
            let team = request.team.clone();
            return Ok((at >= since).then_some(Identity { team, batch, id }));
        }
        Ok(None)
    }

    /// Returns the start of the horizon. Answers before it do not count any more. It is the start of a day, so that
    /// the horizon is never shorter than its days.
    pub fn horizon(&self, now: Timestamp) -> Timestamp {
        let first = back(day_of(now), self.retention.horizon_days + 1);
        let midnight = TimeZone::UTC.to_timestamp(first.at(0, 0, 0, 0));
        midnight.unwrap_or(Timestamp::MIN)
    }

    /// Returns the record of an identity that was answered within the horizon. A miss costs microseconds.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn answered(
        &self,
        identity: &Identity,
        now: Timestamp,
    ) -> Result<Option<ResultRecord>, Error> {
        self.newest(identity, day_of(self.horizon(now)))
    }

    /// Returns the record of an identity, as long as it is kept. Days beyond the horizon are opened and closed again,
    /// which blocks.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn get(&self, identity: &Identity) -> Result<Option<ResultRecord>, Error> {
        let _opening = self.opening.lock();
        for date in self.stored_days()?.into_iter().rev() {
            let found = match self.opened(date) {
                Some(day) => record_in(&day, identity)?,
                None => record_in(&StoreDay::open(&self.dir.join(date.to_string()))?, identity)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Returns the open days since `first`, the newest first.
    fn days_since(&self, first: Date) -> Vec<Arc<StoreDay>> {
        let days = self.days.lock();
        let days = days.range(first..).rev();
        days.map(|(_, day)| Arc::clone(day)).collect()
    }

    fn newest(&self, identity: &Identity, first: Date) -> Result<Option<ResultRecord>, Error> {
        for day in self.days_since(first) {
            if let Some(record) = record_in(&day, identity)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Opens the day of a future moment, so that its first result need not wait. Blocks.
    ///
    /// # Errors
    /// Returns an error if the database cannot be created.
    pub fn open_ahead(&self, at: Timestamp) -> Result<(), Error> {
        self.day(day_of(at)).map(|_| ())
    }

    /// Deletes the days that are no longer kept.
    ///
    /// # Errors
    /// Returns an error if a directory cannot be deleted.
    pub fn forget_old(&self, now: Timestamp) -> Result<(), Error> {
        let first = back(day_of(now), self.retention.keep_days);
        let mut dates = self.stored_days()?;
        dates.retain(|date| *date < first);
        for date in dates {
            self.days.lock().remove(&date);
            let path = self.dir.join(date.to_string());
            std::fs::remove_dir_all(&path).map_err(|error| Error::new(&path, error))?;
            info!(%date, "results of this day are no longer kept");
        }
        Ok(())
    }

    fn stored_days(&self) -> Result<Vec<Date>, Error> {
        let entries = std::fs::read_dir(&self.dir).map_err(|error| Error::new(&self.dir, error))?;
        let date = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse().ok()
        };
        let mut dates: Vec<Date> = entries.filter_map(date).collect();
        dates.sort();
        Ok(dates)
    }

    fn opened(&self, date: Date) -> Option<Arc<StoreDay>> {
        let days = self.days.lock();
        days.get(&date).cloned()
    }

    fn day(&self, date: Date) -> Result<Arc<StoreDay>, Error> {
        if let Some(day) = self.opened(date) {
            return Ok(day);
        }
        let _opening = self.opening.lock();
        if let Some(day) = self.opened(date) {
            return Ok(day);
        }
        let day = Arc::new(self.open_day(date)?);
        self.days.lock().insert(date, Arc::clone(&day));
        Ok(day)
    }

    /// Opens a day. A day that cannot be read is set aside, because completions are in the stream as well and a
    /// damaged day must not stop work. A passing problem of the system is no damage.
    fn open_day(&self, date: Date) -> Result<StoreDay, Error> {
        let path = self.dir.join(date.to_string());
        if !path.exists() {
            self.note_day(date)?;
        }
        let error = match StoreDay::open(&path) {
            Ok(day) => return Ok(day),
            Err(error) if error.passing => return Err(error),
            Err(error) => error,
        };
        let process = std::process::id();
        let aside = self.dir.join(format!("{date}{UNREADABLE}{process}"));
        warn!(%error, aside = %aside.display(), "a day of results cannot be opened and is set aside");
        std::fs::rename(&path, &aside).map_err(|_| error)?;
        StoreDay::open(&path)
    }
}

fn record_in(day: &StoreDay, identity: &Identity) -> Result<Option<ResultRecord>, Error> {
    let Some(json) = day.get(&key_of(identity))? else {
        return Ok(None);
    };
    serde_json::from_slice(&json)
        .map(Some)
        .map_err(|error| Error::new(day.path(), error))
}

/// Returns the first of the `days` days that end with `today`.
fn back(today: Date, days: u16) -> Date {
    today
        .checked_sub(i64::from(days.max(1) - 1).days())
        .unwrap_or(Date::MIN)
}

/// The cache entry of a request: the job whose answer serves it, and the time of the entry.
#[derive(Debug, Serialize, Deserialize)]
struct CachedAnswer {
    batch: Option<String>,
    id: String,
    at: Timestamp,
}

/// Returns the key of a request. The team is a name of at most 64 bytes, and the fingerprint after it has a fixed
/// length.
fn key_of_request(request: &RequestKey) -> Vec<u8> {
    [
        request.team.as_bytes(),
        b"/",
        request.fingerprint.as_bytes(),
    ]
    .concat()
}

/// Returns the key of an identity. Team and batch are names of at most 64 bytes, so that one length byte each
/// separates the parts.
fn key_of(identity: &Identity) -> Vec<u8> {
    let Identity { team, batch, id } = identity;
    let batch = batch.as_deref().unwrap_or_default();
    let mut key = Vec::with_capacity(2 + team.len() + batch.len() + id.len());
    for part in [team, batch] {
        key.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        key.extend_from_slice(part.as_bytes());
    }
    key.extend_from_slice(id.as_bytes());
    key
}

#[cfg(test)]
mod tests;
