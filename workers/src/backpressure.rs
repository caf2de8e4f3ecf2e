//! Stops calls while their answers cannot be kept: results cannot be stored, or completions cannot be published.
//!
//! # Why
//!
//! The answers of calls that are made while NATS is away exist on one disk alone, and wait in memory. So few calls may be
//! made into an outage. An outage is known late: a server that is silent is noticed by what it does not acknowledge.
//!
//! # How
//!
//! Each completion is noted here from its first publish until the server has it. It is late after a quarter of a second,
//! or once the server refuses it, and at once while the connection is lost. Calls stop in three cases:
//!
//! - A result cannot be stored.
//! - [`MAX_LATE`] completions are late.
//! - A completion is late, none was acknowledged since it came, and [`MAX_LATE`] more jobs are called and
//!   not acknowledged than at the last acknowledgement.
//!
//! Nothing runs for a completion while it waits: the dispatcher asks before each call.
//!
//! # Invariants
//!
//! - A completion that cannot be published for a reason of its own stops no calls while others are acknowledged.
//! - Jobs that are not called any more do not count, so calls that stopped always go on when the late completions end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::large::LARGE;

/// Number of late completions, and of jobs that are called without a sign of the server, from which all calls stop.
const MAX_LATE: u64 = 64;
/// Time after which a completion that is not acknowledged is late. A large one has as much for each MiB.
const LATE_AFTER: Duration = Duration::from_millis(250);

/// The results that cannot be stored and the completions that are not acknowledged, each of which holds a guard.
#[derive(Debug)]
pub(crate) struct StoreBackpressure {
    unstored: AtomicUsize,
    publications: Mutex<Publications>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Publications {
    /// When each completion was first published, by the time from which it is late. The number keeps those of one time
    /// apart.
    pending: BTreeMap<(Instant, u64), Instant>,
    last: u64,
    /// The last acknowledgement, and the number of jobs that were called and not acknowledged then.
    acknowledged: Option<(Instant, u64)>,
    /// True if calls were stopped when the dispatcher last asked.
    stopping: bool,
    /// How often calls were stopped.
    stops: u64,
}

/// The connection to NATS and the calls, as they are when the dispatcher asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublishingState {
    pub(crate) now: Instant,
    pub(crate) is_connected: bool,
    /// Jobs that are called and whose completion is not published yet.
    pub(crate) unpublished: u64,
}

/// The guard of one result that cannot be stored.
#[derive(Debug)]
pub(crate) struct UnstoredGuard<'a>(&'a StoreBackpressure);

/// The guard of one completion that is not acknowledged.
#[derive(Debug)]
pub(crate) struct PublicationGuard<'a> {
    backpressure: &'a StoreBackpressure,
    key: (Instant, u64),
}

impl Default for StoreBackpressure {
    fn default() -> Self {
        Self {
            unstored: AtomicUsize::new(0),
            publications: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl StoreBackpressure {
    /// Stops calls: a result cannot be stored.
    pub(crate) fn cannot_store(&self, error: &dyn std::fmt::Display) -> UnstoredGuard<'_> {
        if self.unstored.fetch_add(1, Ordering::AcqRel) == 0 {
            warn!(%error, "a result cannot be stored; no call is made until it can be");
        }
        UnstoredGuard(self)
    }

    /// Notes a completion of `size` bytes that is published now.
    pub(crate) fn publishing(&self, size: usize) -> PublicationGuard<'_> {
        let (now, parts) = (Instant::now(), u32::try_from(size / LARGE));
        let patience = LATE_AFTER.saturating_mul(parts.unwrap_or(u32::MAX).saturating_add(1));
        let mut publications = self.publications.lock();
        publications.last += 1;
        let key = (now + patience, publications.last);
        publications.pending.insert(key, now);
        PublicationGuard {
            backpressure: self,
            key,
        }
    }

    /// Returns true if no call may be made.
    pub(crate) fn is_on(&self, publishing: PublishingState) -> bool {
        let mut publications = self.publications.lock();
        let stops = publications.stop_calls(publishing);
        if stops && !publications.stopping {
            publications.stops += 1;
            let unacknowledged = publications.pending.len();
            warn!(
                unacknowledged,
                "no call is made until NATS acknowledges completions"
            );
        } else if !stops && publications.stopping {
            info!("NATS acknowledges completions, calls go on");
        }
        publications.stopping = stops;
        stops || self.unstored.load(Ordering::Acquire) > 0
    }

    /// Returns how often completions that are not acknowledged have stopped calls.
    pub(crate) fn stops(&self) -> u64 {
        self.publications.lock().stops
    }

    /// Returns a receiver that is notified when calls may be made again.
    pub(crate) fn releases(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Publications {
    /// Returns true if no call may be made for what is not acknowledged.
    fn stop_calls(&self, publishing: PublishingState) -> bool {
        let PublishingState {
            now, is_connected, ..
        } = publishing;
        let (mut late, mut is_silent) = (0, !is_connected);
        for ((late_at, _), began) in &self.pending {
            if late == MAX_LATE || (is_connected && *late_at > now) {
                break;
            }
            late += 1;
            is_silent |= self.acknowledged.is_none_or(|(at, _)| at <= *began);
        }
        let before = self.acknowledged.map_or(0, |(_, unpublished)| unpublished);
        late == MAX_LATE || (is_silent && publishing.unpublished >= before + MAX_LATE)
    }
}

impl PublicationGuard<'_> {
    /// Notes that the server did not take the completion: it is late from now on.
    pub(crate) fn refused(&mut self) {
        let mut publications = self.backpressure.publications.lock();
        let late_at = self.key.0.min(Instant::now());
        if let Some(began) = publications.pending.remove(&self.key) {
            self.key.0 = late_at;
            publications.pending.insert(self.key, began);
        }
    }

    /// Notes that the server has the completion, while so many others are called and not acknowledged.
    pub(crate) fn acknowledged(self, unpublished: u64) {
        let mut publications = self.backpressure.publications.lock();
        publications.acknowledged = Some((Instant::now(), unpublished));
    }
}

impl Drop for PublicationGuard<'_> {
    fn drop(&mut self) {
        let mut publications = self.backpressure.publications.lock();
        publications.pending.remove(&self.key);
        if publications.stopping {
            self.backpressure.changed.send_replace(());
        }
    }
}

impl Drop for UnstoredGuard<'_> {
    fn drop(&mut self) {
        let Self(backpressure) = self;
        if backpressure.unstored.fetch_sub(1, Ordering::AcqRel) == 1 {
            info!("all results are stored, calls go on");
            backpressure.changed.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unpublished: u64, is_connected: bool) -> PublishingState {
        PublishingState {
            now: Instant::now(),
            is_connected,
            unpublished,
        }
    }

    fn publishing(backpressure: &StoreBackpressure, count: u64) -> Vec<PublicationGuard<'_>> {
        (0..count).map(|_| backpressure.publishing(0)).collect()
    }

    #[test]
    fn one_result_that_cannot_be_stored_stops_calls() {
        let backpressure = StoreBackpressure::default();
        let released = backpressure.releases();
        let unstored = backpressure.cannot_store(&"the disk is full");
        assert!(backpressure.is_on(at(0, true)));
        drop(unstored);
        assert!(!backpressure.is_on(at(0, true)) && released.has_changed().expect("open"));
        assert_eq!(backpressure.stops(), 0, "the store has an error of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn many_late_completions_stop_calls_also_beside_others_that_are_acknowledged() {
        let backpressure = StoreBackpressure::default();
        let mut late = publishing(&backpressure, MAX_LATE);
        tokio::time::advance(LATE_AFTER - Duration::from_millis(1)).await;
        assert!(!backpressure.is_on(at(1_000, true)), "none is late yet");
        tokio::time::advance(Duration::from_millis(1)).await;
        backpressure.publishing(0).acknowledged(1_000);
        assert!(backpressure.is_on(at(0, true)));
        let released = backpressure.releases();
        late.pop();
        assert!(!backpressure.is_on(at(0, true)) && released.has_changed().expect("open"));
        assert_eq!(backpressure.stops(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_told_from_one_completion_that_it_does_not_take() {
        let backpressure = StoreBackpressure::default();
        backpressure.publishing(0).acknowledged(100);
        let mut refused = backpressure.publishing(0);
        refused.refused();
        assert!(!backpressure.is_on(at(100 + MAX_LATE - 1, true)));
        assert!(backpressure.is_on(at(100 + MAX_LATE, true)), "silent");
        tokio::time::advance(Duration::from_millis(1)).await;
        backpressure.publishing(0).acknowledged(100);
        assert!(!backpressure.is_on(at(100 + MAX_LATE, true)), "one alone");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_connection_every_completion_is_late_and_a_large_one_has_time_with_it() {
        let backpressure = StoreBackpressure::default();
        let _large = backpressure.publishing(10 * LARGE);
        tokio::time::advance(10 * LATE_AFTER).await;
        assert!(!backpressure.is_on(at(MAX_LATE, true)));
        assert!(backpressure.is_on(at(MAX_LATE, false)));
        let _others = publishing(&backpressure, MAX_LATE - 1);
        assert!(backpressure.is_on(at(0, false)) && !backpressure.is_on(at(0, true)));
    }
}
