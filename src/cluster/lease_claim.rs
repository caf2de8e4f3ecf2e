//! Decides when a process may take the worker's lease, by what it has seen of other holders.

use std::time::Duration;

use tokio::time::Instant;

use super::lease_holder::LeaseHolder;
use crate::nats::bucket::BucketEntry;

/// The next step of a process that wants the lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClaimStep {
    /// It may take the lease at the revision that it sees.
    Take,
    /// It cannot know yet.
    Wait,
    /// A living process holds the lease.
    Held,
}

/// The knowledge of other holders that a process has when it writes the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// It has waited for so long that none can call.
    Waited,
    /// It has seen none. The holder of a lost lease may still call.
    Unknown,
}

/// The signs of a holder that a process saw which wants the lease.
#[derive(Debug)]
pub(super) struct LeaseClaim {
    /// The time to live of the lease.
    ttl: Duration,
    /// The time without a sign of a holder after which a key that still exists is taken over.
    timeout: Duration,
    /// The last revision of a holder's value that was seen.
    seen: Option<u64>,
    /// When the last sign of a holder, or the first foreign value, was seen.
    since: Option<Instant>,
}

impl LeaseClaim {
    pub(super) fn new(ttl: Duration, timeout: Duration) -> Self {
        Self {
            ttl,
            timeout,
            seen: None,
            since: None,
        }
    }

    /// Decides by the entry that is seen now.
    pub(super) fn judge(&mut self, entry: &BucketEntry) -> ClaimStep {
        match entry {
            // Its holder released it.
            BucketEntry::Missing { revision: 1.. } => ClaimStep::Take,
            // Its time to live is over, or the store was lost and its holder puts it back.
            BucketEntry::Missing { .. } if self.since.is_none() => ClaimStep::Take,
            BucketEntry::Missing { .. } => self.take_after(self.ttl),
            BucketEntry::Ours { .. } if holder(entry).is_some_and(|by| by.has_ended()) => {
                ClaimStep::Take
            }
            BucketEntry::Ours { revision, .. } => match self.seen.replace(*revision) {
                Some(seen) if seen == *revision => self.take_after(self.timeout),
                before => {
                    self.since = Some(Instant::now());
                    if before.is_some() {
                        ClaimStep::Held
                    } else {
                        ClaimStep::Wait
                    }
                }
            },
            BucketEntry::Foreign { .. } => {
                self.since.get_or_insert_with(Instant::now);
                self.take_after(self.timeout)
            }
        }
    }

    /// Returns what the process knows of other holders when it may take the lease.
    pub(super) fn others(&self) -> Others {
        match self.since {
            Some(_) => Others::Waited,
            None => Others::Unknown,
        }
    }

    fn take_after(&self, wait: Duration) -> ClaimStep {
        match self.since {
            Some(since) if since.elapsed() > wait => ClaimStep::Take,
            _ => ClaimStep::Wait,
        }
    }
}

/// Returns the holder that an entry names.
pub(super) fn holder(entry: &BucketEntry) -> Option<LeaseHolder> {
    match entry {
        BucketEntry::Ours { value, .. } => serde_json::from_slice(value).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(6);
    const TIMEOUT: Duration = Duration::from_secs(8);

    fn held(revision: u64) -> BucketEntry {
        let value = br#"{"host":"h","pid":1,"nonce":1}"#.to_vec().into();
        BucketEntry::Ours { value, revision }
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_nobody_holds_is_taken_at_once() {
        for revision in [0, 7] {
            let mut claim = LeaseClaim::new(TTL, TIMEOUT);
            let entry = BucketEntry::Missing { revision };
            assert_eq!(claim.judge(&entry), ClaimStep::Take);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_is_held_and_one_without_renewal_is_taken_after_a_while() {
        let mut claim = LeaseClaim::new(TTL, TIMEOUT);
        assert_eq!(claim.judge(&held(1)), ClaimStep::Wait);
        assert_eq!(claim.judge(&held(2)), ClaimStep::Held);
        pass(8).await;
        assert_eq!(claim.judge(&held(2)), ClaimStep::Wait);
        pass(1).await;
        assert_eq!(claim.judge(&held(2)), ClaimStep::Take);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_vanishes_is_taken_a_time_to_live_after_its_last_renewal() {
        let mut claim = LeaseClaim::new(TTL, TIMEOUT);
        claim.judge(&held(1));
        let gone = BucketEntry::Missing { revision: 0 };
        assert_eq!(claim.judge(&gone), ClaimStep::Wait);
        pass(7).await;
        assert_eq!(claim.judge(&gone), ClaimStep::Take);
        let mut claim = LeaseClaim::new(TTL, TIMEOUT);
        claim.judge(&held(1));
        let released = BucketEntry::Missing { revision: 2 };
        assert_eq!(claim.judge(&released), ClaimStep::Take);
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreign_value_is_waited_for_without_a_sign_of_a_holder() {
        let mut claim = LeaseClaim::new(TTL, TIMEOUT);
        for revision in 1..9 {
            let foreign = BucketEntry::Foreign { revision };
            assert_eq!(claim.judge(&foreign), ClaimStep::Wait);
            pass(1).await;
        }
        pass(1).await;
        assert_eq!(
            claim.judge(&BucketEntry::Foreign { revision: 9 }),
            ClaimStep::Take
        );
    }
}
