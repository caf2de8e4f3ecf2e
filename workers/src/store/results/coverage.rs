//! Whether the store holds all that was answered within the horizon. It does not after another worker's turn on
//! another machine, a loss, or a backup that was put back; then the stream of completions knows more.

use std::fs::File;
use std::io::{self, Write};

use forebay_schemas::Identity;
use jiff::Timestamp;
use jiff::civil::Date;
use tracing::warn;

use crate::store::results::{Error, ResultStore, UNREADABLE, day_of};

/// The file that names all days that there ever were.
const DAYS: &str = "days";
/// The file that says until when answers were missed.
const NOTE: &str = "incomplete";

impl ResultStore {
    /// Whether all that was answered within the horizon is here, given when something was published last, and what if that is known. Each
    /// result is stored before it is published, so that this one is here unless some are missing. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read, or what it found cannot be noted.
    pub fn is_complete(
        &self,
        last: Option<(Option<&Identity>, Timestamp)>,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let horizon = self.horizon(now);
        let note = self.dir.join(NOTE);
        let noted = std::fs::read_to_string(&note).ok();
        let noted: Option<Timestamp> = noted.and_then(|text| text.trim().parse().ok());
        let last = last
            .filter(|(_, published)| *published >= horizon)
            .map(|(identity, _)| identity);
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

    /// Notes that there is a day, before anything is stored in it.
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

    /// Whether a day that was there is not any more.
    fn lacks_a_day_since(&self, first: Date) -> Result<bool, Error> {
        let Ok(noted) = std::fs::read_to_string(self.dir.join(DAYS)) else {
            return Ok(false);
        };
        let stored = self.stored_days()?;
        let mut noted = noted.lines().filter_map(|line| line.parse::<Date>().ok());
        Ok(noted.any(|date| date >= first && !stored.contains(&date)))
    }

    /// Whether a day since `first` was set aside.
    fn has_damage_since(&self, first: Date) -> bool {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return true;
        };
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let date = name
                .to_str()
                .and_then(|name| name.split_once(UNREADABLE)?.0.parse::<Date>().ok());
            date.is_some_and(|date| date >= first)
        })
    }
}
