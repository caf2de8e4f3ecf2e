//! Stops calls while results cannot be stored, because the answers would be lost with the process. Stops them too while
//! many completions cannot be published, because they would fill the memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Number of completions that cannot be published from which all calls stop. One alone may have a reason of its own.
const STOPPING_WEIGHT: usize = 64;

/// The results that cannot be stored and the completions that cannot be published, each of which holds a guard.
#[derive(Debug)]
pub(crate) struct StoreBackpressure {
    weight: AtomicUsize,
    changed: watch::Sender<()>,
}

/// The guard of one result that cannot be stored, or one completion that cannot be published.
#[derive(Debug)]
pub(crate) struct BackpressureGuard<'a> {
    backpressure: &'a StoreBackpressure,
    weight: usize,
}

impl Default for StoreBackpressure {
    fn default() -> Self {
        Self {
            weight: AtomicUsize::new(0),
            changed: watch::Sender::new(()),
        }
    }
}

impl StoreBackpressure {
    /// Stops calls: a result cannot be stored.
    pub(crate) fn cannot_store(&self) -> BackpressureGuard<'_> {
        self.hold(STOPPING_WEIGHT)
    }

    /// Stops calls if there are many of these: a completion cannot be published.
    pub(crate) fn cannot_publish(&self) -> BackpressureGuard<'_> {
        self.hold(1)
    }

    fn hold(&self, weight: usize) -> BackpressureGuard<'_> {
        self.weight.fetch_add(weight, Ordering::AcqRel);
        BackpressureGuard {
            backpressure: self,
            weight,
        }
    }

    /// Returns true if no call may be made.
    pub(crate) fn is_on(&self) -> bool {
        self.weight.load(Ordering::Acquire) >= STOPPING_WEIGHT
    }

    /// Returns a receiver that is notified when calls may be made again.
    pub(crate) fn releases(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Drop for BackpressureGuard<'_> {
    fn drop(&mut self) {
        let StoreBackpressure { weight, changed } = self.backpressure;
        let before = weight.fetch_sub(self.weight, Ordering::AcqRel);
        if before >= STOPPING_WEIGHT && before - self.weight < STOPPING_WEIGHT {
            changed.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_result_or_many_completions_stop_calls() {
        let backpressure = StoreBackpressure::default();
        let mut released = backpressure.releases();
        let stored = backpressure.cannot_store();
        assert!(backpressure.is_on());
        drop(stored);
        assert!(!backpressure.is_on() && released.has_changed().expect("open"));
        released.mark_unchanged();
        let mut published: Vec<_> = (1..STOPPING_WEIGHT)
            .map(|_| backpressure.cannot_publish())
            .collect();
        assert!(!backpressure.is_on());
        published.push(backpressure.cannot_publish());
        assert!(backpressure.is_on());
        published.pop();
        assert!(!backpressure.is_on() && released.has_changed().expect("open"));
    }
}
