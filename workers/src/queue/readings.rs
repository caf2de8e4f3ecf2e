//! Which readings are open, so that each is opened once, and again when something comes after its end.

use std::collections::HashMap;

use super::QueueReading;
use parking_lot::{Mutex, MutexGuard};

/// Which readings are open.
#[derive(Debug, Default)]
pub struct ActiveReadings {
    open: Mutex<HashMap<QueueReading, ReadingsState>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadingsState {
    Open,
    /// It will be closed unless something comes meanwhile.
    Closing,
}

impl ActiveReadings {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueueReading, ReadingsState>> {
        self.open.lock()
    }

    /// Notes that there is something to read; true if nobody reads it, who then must.
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

    /// All that are open.
    pub(crate) fn open(&self) -> Vec<QueueReading> {
        self.lock().keys().cloned().collect()
    }

    /// Whoever reads holds this: if that ends by a panic, somebody else may read.
    pub(crate) fn guard<'a>(&'a self, reading: &'a QueueReading) -> ReadingGuard<'a> {
        ReadingGuard {
            readings: self,
            reading,
        }
    }

    /// Says that a reading is about to close.
    pub(crate) fn closing(&self, reading: &QueueReading) {
        self.lock().insert(reading.clone(), ReadingsState::Closing);
    }

    /// Closes a reading, unless something came meanwhile: then it is false, and the reading goes on.
    pub(crate) fn close(&self, reading: &QueueReading) -> bool {
        let mut open = self.lock();
        let closes = open.get(reading) != Some(&ReadingsState::Open);
        if closes {
            open.remove(reading);
        }
        closes
    }
}

/// Ends a reading whose reader panics.
#[derive(Debug)]
pub(crate) struct ReadingGuard<'a> {
    readings: &'a ActiveReadings,
    reading: &'a QueueReading,
}

impl Drop for ReadingGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.readings.lock().remove(self.reading);
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
