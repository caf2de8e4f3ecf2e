//! How far a wait that a provider requests is believed: the one rule for headers, words in bodies and every status.
//!
//! # Why
//!
//! A refusal may request any wait, also one of years: by mistake, or because a clock or a unit is wrong. The provider is
//! often well again at once. Without a call nothing would show that.
//!
//! # How
//!
//! A wait that is no longer than the longest period of the account's limits is believed. Beyond it, a call probes after one
//! minute, then after two, four and so on up to sixty. That ends when a call is accepted or the wait is over.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait that is believed where no limit over a period is known.
const LONGEST_WITHOUT_PERIOD: Duration = Duration::from_secs(60 * 60);
/// The time until the first probe. It doubles with each further one.
const FIRST_PROBE: Duration = Duration::from_secs(60);
/// The longest time between two probes.
const LONGEST_BETWEEN_PROBES: Duration = Duration::from_secs(60 * 60);

/// The longest time until a call shows whether a saved wait is over. `longest_period` is as in [`RequestedWait::believe`].
pub(super) fn longest_believed(longest_period: Option<Duration>) -> Duration {
    let longest = longest_period.unwrap_or(LONGEST_WITHOUT_PERIOD);
    longest.max(LONGEST_BETWEEN_PROBES)
}

/// The wait that a provider requests of a key or a model.
#[derive(Debug, Default, Clone)]
pub(super) struct RequestedWait {
    /// The number of probes that were set in a row.
    probes: u32,
    /// The time at which the last of them was set.
    set_at: Option<Instant>,
    /// The end of a wait that is not believed.
    doubted_until: Option<Instant>,
}

impl RequestedWait {
    /// Returns how long a wait of `requested` is believed, which refused a call that was permitted at `granted`.
    /// `longest_period` is the longest one of the account's limits; `None` if there is none.
    pub(super) fn believe(
        &mut self,
        requested: Duration,
        longest_period: Option<Duration>,
        granted: Instant,
        now: Instant,
    ) -> Duration {
        if requested <= longest_period.unwrap_or(LONGEST_WITHOUT_PERIOD) {
            self.doubted_until = None;
            return requested;
        }
        // Calls that were under way together are refused together, which counts once.
        if self.set_at.is_none_or(|at| granted >= at) {
            self.probes += 1;
            self.set_at = Some(now);
        }
        let doublings = self.probes.saturating_sub(1);
        let probe = FIRST_PROBE.saturating_mul(2u32.saturating_pow(doublings));
        let probe = probe.min(LONGEST_BETWEEN_PROBES);
        self.doubted_until = (requested > probe).then(|| now + requested);
        requested.min(probe)
    }

    /// Notes that a call was accepted.
    pub(super) fn accepted(&mut self) {
        *self = Self::default();
    }

    /// Returns the end of the wait that the provider requested, if a probe is made before it.
    pub(super) fn doubted_until(&self) -> Option<Instant> {
        self.doubted_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    #[test]
    fn beyond_the_longest_period_a_probe_follows_after_1_2_4_and_up_to_60_minutes() {
        let mut now = Instant::now();
        let mut wait = RequestedWait::default();
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            let believed = wait.believe(YEAR, Some(MINUTE), now, now);
            assert_eq!(believed, minutes * MINUTE);
            assert_eq!(wait.doubted_until(), Some(now + YEAR));
            now += believed;
        }
        wait.accepted();
        assert_eq!(wait.believe(YEAR, None, now, now), MINUTE);
        assert_eq!(
            wait.believe(YEAR, None, now - MINUTE, now),
            MINUTE,
            "a call that was under way"
        );
    }

    #[test]
    fn a_wait_within_the_longest_period_is_believed() {
        let now = Instant::now();
        for (requested, period, believed) in [
            (60 * MINUTE, None, 60 * MINUTE),
            (61 * MINUTE, None, MINUTE),
            (23 * 60 * MINUTE, Some(24 * 60 * MINUTE), 23 * 60 * MINUTE),
            (25 * 60 * MINUTE, Some(24 * 60 * MINUTE), MINUTE),
            (MINUTE / 2, Some(MINUTE / 60), MINUTE / 2),
        ] {
            let mut wait = RequestedWait::default();
            assert_eq!(wait.believe(requested, period, now, now), believed);
        }
    }
}
