//! The check that the store holds all answers within the horizon. It does not after another worker's turn on another
//! machine, after a loss, or after the restore of a backup. The stream of completions holds more then.

use std::fs::File;
use std::io::{self, Write};

use forebay_schemas::Identity;
use jiff::Timestamp;
use jiff::civil::Date;
use tracing::warn;

use crate::store::results::{Error, ResultStore, UNREADABLE, day_of};

/// The file that lists all days that ever existed.
const DAYS: &str = "days";
/// The file that holds the time until which answers were missing.
const NOTE: &str = "incomplete";

impl ResultStore {
    /// Returns true if the store holds all answers within the horizon. `last` is the identity of the last published
    /// completion, if it is known, and the time of its publication. Each result is stored before it is published, so
    /// the last one is here unless some are missing. Blocks.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read, or if the note about missing answers cannot be written.
    pub fn is_complete(
        &self,
        last: Option<(Option<&Identity>, Timestamp)>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let horizon = self.horizon(now);
        let note = self.dir.join(NOTE);
        let noted = std::fs::read_to_string(&note).unwrap_or_default();
        let noted: Option<Timestamp> = noted.trim().parse().ok();
        let last = last.filter(|(_, published)| *published >= horizon);
        let last = last.map(|(identity, _)| identity);
        let is_missing = match last {
            Some(Some(identity)) => self.answered(identity, now)?.is_none(),
            Some(None) => true,
            None => false,
        };
        let first = day_of(horizon);
        if is_missing || self.has_damage_since(first) || self.lacks_a_day_since(first)? {
            warn!(
                "answers are missing from the store of results; the stream of completions is asked too"
            );
            std::fs::write(&note, now.to_string()).map_err(|error| Error::new(&note, error))?;
            return Ok(false);
        }
        Ok(noted.is_none_or(|noted| noted < horizon))
    }

    /// Notes that a day exists, before its first record is stored.
    pub(crate) fn note_day(&self, date: Date) -> Result<(), Error> {
        let path = self.dir.join(DAYS);
        let noted = || {
            let mut days = File::options().append(true).create(true).open(&path)?;
            writeln!(days, "{date}")?;
            days.sync_all()
        };
        noted().map_err(|error: io::Error| Error {
            passing: true,
            ..Error::new(&path, error)
        })
    }

    /// Returns true if a day since `first` existed and is missing now.
    fn lacks_a_day_since(&self, first: Date) -> Result<bool, Error> {
        let Ok(noted) = std::fs::read_to_string(self.dir.join(DAYS)) else {
            return Ok(false);
        };
        let stored = self.stored_days()?;
        let mut dates = noted.lines().flat_map(str::parse::<Date>);
        Ok(dates.any(|date| date >= first && !stored.contains(&date)))
    }

    /// Returns true if a day since `first` was set aside, or if the directory cannot be read.
    fn has_damage_since(&self, first: Date) -> bool {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return true;
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut dates = names.filter_map(|name| damaged_day(name.to_str()?));
        dates.any(|date| date >= first)
    }
}

/// Returns the date of a day that was set aside under this name.
fn damaged_day(name: &str) -> Option<Date> {
    let (date, _) = name.split_once(UNREADABLE)?;
    date.parse().ok()
}
