//! The orders of operators: pools, accounts and teams that are paused, and jobs that are cancelled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use forebay_schemas::{Flow, Identity};
use jiff::Timestamp;
use parking_lot::{RwLock, RwLockReadGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A target of a pause: no new call is made for it, and calls under way continue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "lowercase")]
pub enum PauseTarget {
    /// A pool, by its name.
    Pool(String),
    /// An account, by its name.
    Account(String),
    /// A team, by its name.
    Team(String),
}

/// The jobs that one order cancels, if they were published before it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CancelledJobs {
    /// The team.
    pub team: String,
    /// The batch; `None` for a job without a batch.
    pub batch: Option<String>,
    /// The id of the job; `None` for all jobs of the batch.
    pub id: Option<String>,
}

/// The orders of operators. Clones share them.
#[derive(Debug, Clone)]
pub struct WorkerControls {
    inner: Arc<RwLock<ControlsState>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct ControlsState {
    paused: HashSet<PauseTarget>,
    cancelled: HashMap<CancelledJobs, Timestamp>,
}

impl Default for WorkerControls {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl WorkerControls {
    fn inner(&self) -> RwLockReadGuard<'_, ControlsState> {
        self.inner.read()
    }

    fn change(&self, act: impl FnOnce(&mut ControlsState)) {
        act(&mut self.inner.write());
        self.changed.send_replace(());
    }

    /// Returns a receiver that is notified of every order that is given or withdrawn.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Pauses `what`: no call is made for it until it is resumed.
    pub fn pause(&self, what: PauseTarget) {
        self.change(|inner| {
            inner.paused.insert(what);
        });
    }

    /// Resumes `what`: calls are made for it again.
    pub fn resume(&self, what: &PauseTarget) {
        self.change(|inner| {
            inner.paused.remove(what);
        });
    }

    /// Returns the targets that are paused, in order.
    pub fn paused(&self) -> Vec<PauseTarget> {
        let inner = self.inner();
        let paused = &inner.paused;
        let mut paused: Vec<_> = paused.iter().cloned().collect();
        paused.sort();
        paused
    }

    /// Returns true if no call may be made for a flow's jobs.
    pub(crate) fn pauses(&self, flow: &Flow) -> bool {
        let inner = self.inner();
        let paused = &inner.paused;
        if paused.is_empty() {
            return false;
        }
        let pool = PauseTarget::Pool(flow.pool.clone());
        let team = PauseTarget::Team(flow.team.clone());
        paused.contains(&pool) || paused.contains(&team)
    }

    /// Returns true if no call may be made through an account.
    pub(crate) fn pauses_account(&self, account: &str) -> bool {
        let inner = self.inner();
        let paused = &inner.paused;
        !paused.is_empty() && paused.contains(&PauseTarget::Account(account.to_owned()))
    }

    /// Cancels the jobs of `what` that were published until `at`.
    pub fn cancel(&self, what: CancelledJobs, at: Timestamp) {
        self.change(|inner| {
            let latest = inner.cancelled.entry(what).or_insert(at);
            *latest = at.max(*latest);
        });
    }

    /// Returns the cancellations, each with the time until which jobs of it were published.
    pub fn cancelled(&self) -> Vec<(CancelledJobs, Timestamp)> {
        let inner = self.inner();
        let cancelled = inner.cancelled.iter();
        cancelled.map(|(what, at)| (what.clone(), *at)).collect()
    }

    /// Returns true if a job that was published at `published` is cancelled.
    pub(crate) fn cancels(&self, identity: &Identity, published: Timestamp) -> bool {
        let inner = self.inner();
        if inner.cancelled.is_empty() {
            return false;
        }
        let Identity { team, batch, id } = identity;
        let cancels = |id: Option<String>| {
            let (team, batch) = (team.clone(), batch.clone());
            let until = inner.cancelled.get(&CancelledJobs { team, batch, id });
            until.is_some_and(|until| published <= *until)
        };
        let cancels_batch = batch.is_some() && cancels(None);
        cancels_batch || cancels(Some(id.clone()))
    }
}

#[cfg(test)]
mod tests {
    use forebay_schemas::Lane;

    use super::*;

    fn identity(batch: Option<&str>, id: &str) -> Identity {
        Identity {
            team: "acme".to_owned(),
            batch: batch.map(str::to_owned),
            id: id.to_owned(),
        }
    }

    fn cancelled(batch: Option<&str>, id: Option<&str>) -> CancelledJobs {
        let (batch, id) = (batch.map(str::to_owned), id.map(str::to_owned));
        CancelledJobs {
            team: "acme".to_owned(),
            batch,
            id,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn what_was_published_before_is_cancelled_and_what_comes_after_is_not() {
        let controls = WorkerControls::default();
        controls.cancel(cancelled(Some("b"), None), at(10));
        assert!(controls.cancels(&identity(Some("b"), "1"), at(10)));
        assert!(
            !controls.cancels(&identity(Some("b"), "1"), at(11)),
            "it was published again"
        );
        assert!(!controls.cancels(&identity(Some("c"), "1"), at(10)));
        assert!(!controls.cancels(&identity(None, "b"), at(10)));
        controls.cancel(cancelled(Some("b"), None), at(5));
        assert!(
            controls.cancels(&identity(Some("b"), "1"), at(10)),
            "an earlier order takes nothing back"
        );
    }

    #[test]
    fn one_job_can_be_cancelled_alone() {
        let controls = WorkerControls::default();
        controls.cancel(cancelled(None, Some("1")), at(10));
        assert!(controls.cancels(&identity(None, "1"), at(10)));
        assert!(!controls.cancels(&identity(None, "2"), at(10)));
        assert!(
            !controls.cancels(&identity(Some("b"), "1"), at(10)),
            "that one is of a batch"
        );
    }

    #[test]
    fn a_flow_pauses_with_its_pool_and_with_its_team() {
        let controls = WorkerControls::default();
        let flow = Flow {
            pool: "chat".to_owned(),
            team: "acme".to_owned(),
            lane: Lane::Normal,
        };
        for what in [
            PauseTarget::Pool("chat".to_owned()),
            PauseTarget::Team("acme".to_owned()),
        ] {
            controls.pause(what.clone());
            assert!(controls.pauses(&flow));
            assert!(!controls.pauses_account("chat"));
            controls.resume(&what);
            assert!(!controls.pauses(&flow));
        }
        controls.pause(PauseTarget::Account("one".to_owned()));
        assert!(controls.pauses_account("one") && !controls.pauses(&flow));
    }
}
