//! Whether the store holds all that was answered within the horizon. It does not after another worker's turn on
//! another machine, a loss, or a backup that was put back; then the stream of completions knows more.

use forebay_schemas::Identity;
use jiff::Timestamp;
use jiff::civil::Date;
use tracing::warn;

use super::{Error, Results, UNREADABLE, day_of};

/// The file that says until when answers were missed.
const NOTE: &str = "incomplete";

impl Results {
    /// Whether all that was answered within the horizon is here, given what was published last and when. Each
    /// result is stored before it is published, so that this one is here unless some are missing. Blocks.
    ///
    /// # Errors
    /// When the store cannot be read, or what it found cannot be noted.
    pub fn is_complete(&self, last: Option<(&Identity, Timestamp)>, now: Timestamp) -> Result<bool, Error> {
        let horizon = self.horizon(now);
        let note = self.dir.join(NOTE);
        let noted = std::fs::read_to_string(&note).ok();
        let noted: Option<Timestamp> = noted.and_then(|text| text.trim().parse().ok());
        let last = last.filter(|(_, published)| *published >= horizon).map(|(identity, _)| identity);
        let is_missing = match last {
            Some(identity) => self.answered(identity, now)?.is_none(),
            None => false,
        };
        if is_missing || self.has_damage_since(day_of(horizon)) {
            warn!("answers are missing from the store of results; the stream of completions is asked too");
            std::fs::write(&note, now.to_string()).map_err(|error| Error::new(&note, error))?;
            return Ok(false);
        }
        Ok(noted.is_none_or(|noted| noted < horizon))
    }

    /// Whether a day since `first` was set aside.
    fn has_damage_since(&self, first: Date) -> bool {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return true };
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let date = name.to_str().and_then(|name| name.split_once(UNREADABLE)?.0.parse::<Date>().ok());
            date.is_some_and(|date| date >= first)
        })
    }
}
