//! The readings that are open. Each is opened once, and once more when something comes after its end.

use std::collections::HashMap;

use super::QueueReading;
use parking_lot::{Mutex, MutexGuard};

/// The set of open readings.
#[derive(Debug, Default)]
pub struct ActiveReadings {
    open: Mutex<HashMap<QueueReading, ReadingsState>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadingsState {
    Open,
    /// The reading will be closed, unless something comes meanwhile.
    Closing,
}

impl ActiveReadings {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueueReading, ReadingsState>> {
        self.open.lock()
    }

    /// Notes that `reading` has something to read. Returns true if no task reads it; the caller must then start one.
    pub fn see(&self, reading: &QueueReading) -> bool {
        let mut open = self.lock();
        match open.get_mut(reading) {
            Some(state) => {
                *state = ReadingsState::Open;
                false
            }
            None => open.insert(reading.clone(), ReadingsState::Open).is_none(),
        }
    }

    /// Returns all open readings.
    pub(crate) fn open(&self) -> Vec<QueueReading> {
        let open = self.lock();
        open.keys().cloned().collect()
    }

    /// Returns a guard for the reading task. If the task panics, another task may open the reading.
    pub(crate) fn guard<'a>(&'a self, reading: &'a QueueReading) -> ReadingGuard<'a> {
        ReadingGuard {
            readings: self,
            reading,
        }
    }

    /// Marks a reading as about to close.
    pub(crate) fn closing(&self, reading: &QueueReading) {
        self.lock().insert(reading.clone(), ReadingsState::Closing);
    }

    /// Closes a reading and returns true, unless something came since [`ActiveReadings::closing`]. The reading must
    /// then continue.
    pub(crate) fn close(&self, reading: &QueueReading) -> bool {
        let mut open = self.lock();
        let closes = open.get(reading) != Some(&ReadingsState::Open);
        if closes {
            open.remove(reading);
        }
        closes
    }
}

/// Removes a reading when its task panics.
#[derive(Debug)]
pub(crate) struct ReadingGuard<'a> {
    readings: &'a ActiveReadings,
    reading: &'a QueueReading,
}

impl Drop for ReadingGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut open = self.readings.lock();
            open.remove(self.reading);
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_schemas::{Flow, Lane};

    use super::*;

    #[test]
    fn what_comes_while_a_reading_closes_is_read_by_it_and_what_comes_after_by_a_new_one() {
        let readings = ActiveReadings::default();
        let flow = Flow {
            pool: "p".to_owned(),
            team: "t".to_owned(),
            lane: Lane::Bulk,
        };
        let reading = QueueReading { flow, due: false };
        assert!(readings.see(&reading));
        assert!(!readings.see(&reading), "it is open");
        readings.closing(&reading);
        assert!(!readings.see(&reading), "whoever closes it goes on instead");
        assert!(!readings.close(&reading));
        readings.closing(&reading);
        assert!(readings.close(&reading));
        assert!(readings.see(&reading));
    }
}
