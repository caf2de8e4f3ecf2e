//! Retries work that must be done until it is done.
//!
//! While NATS or a disk fails, thousands of jobs wait for it. Of each kind of work one job reports its failures, so that the
//! log stays readable. When it succeeds or goes, the next one that fails reports.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{debug, warn};

/// The pause before the first retry of the store or of NATS. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a retry of the store or of NATS.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The kinds of work of which a job reports its failures now.
static REPORTED: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// The retries of one piece of work.
#[derive(Debug)]
pub(crate) struct Retries {
    /// The kind of work, as the subject of a sentence.
    work: &'static str,
    pause: Duration,
    is_reporting: bool,
}

impl Retries {
    pub(crate) fn of(work: &'static str) -> Self {
        Self {
            work,
            pause: FIRST_PAUSE,
            is_reporting: false,
        }
    }

    /// Reports a failure, and returns when the work should be tried again.
    pub(crate) async fn wait_after(&mut self, error: impl Display) {
        let Self { work, pause, .. } = *self;
        if self.reports() {
            warn!(%error, "{work} failed, trying again in {pause:?}");
        } else {
            debug!(%error, "{work} failed, trying again in {pause:?}");
        }
        tokio::time::sleep(pause).await;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
    }

    /// Returns true if no other job reports the failures of this kind of work.
    fn reports(&mut self) -> bool {
        if !self.is_reporting {
            self.is_reporting = REPORTED.lock().insert(self.work);
        }
        self.is_reporting
    }
}

impl Drop for Retries {
    fn drop(&mut self) {
        if self.is_reporting {
            REPORTED.lock().remove(self.work);
        }
    }
}

/// Runs `act` until it succeeds, and returns its value. Held deliveries are not acked meanwhile, so nothing is lost.
pub(crate) async fn retry_until_done<T, E, F>(work: &'static str, mut act: impl FnMut() -> F) -> T
where
    E: Display,
    F: Future<Output = Result<T, E>>,
{
    let mut retries = Retries::of(work);
    loop {
        match act().await {
            Ok(value) => return value,
            Err(error) => retries.wait_after(error).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_jobs_reports_the_failures_of_their_work() {
        let mut jobs = [(); 3].map(|()| Retries::of("testing"));
        for _ in 0..2 {
            let reporting = jobs.each_mut().map(Retries::reports);
            assert_eq!(reporting, [true, false, false]);
        }
        let [first, mut second, third] = jobs;
        assert!(Retries::of("testing other work").reports());
        drop(third);
        assert!(!second.reports(), "the first still reports");
        drop(first);
        assert!(second.reports());
    }
}
