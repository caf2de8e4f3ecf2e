//! How long a job outlasts an outage of its provider or the network.

use std::time::Duration;

use forebay_schemas::Lane;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the jobs of each lane outlast an outage. A wait for a limit is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Of interactive jobs; 10 minutes by default.
    pub interactive: Duration,
    /// Of normal jobs; 24 hours by default.
    pub normal: Duration,
    /// Of bulk jobs; 24 hours by default.
    pub bulk: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            interactive: 10 * MINUTE,
            normal: DAY,
            bulk: DAY,
        }
    }
}

impl Patience {
    /// Returns how long a job of this lane outlasts an outage.
    pub fn of(self, lane: Lane) -> Duration {
        match lane {
            Lane::Interactive => self.interactive,
            Lane::Normal => self.normal,
            Lane::Bulk => self.bulk,
        }
    }
}
