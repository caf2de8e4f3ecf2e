//! The limits of one team, whichever accounts serve it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::accounts::limit::Limit;
use crate::accounts::meter::Meter;
use crate::accounts::{Denied, Wake};
use crate::clock::Clock;
use forebay_providers::cost::CallCost;

/// The limits of a team.
#[derive(Debug)]
pub struct TeamLimits {
    pub(super) limits: Vec<Limit>,
    inner: Mutex<TeamMeters>,
    pub(super) wake: Arc<Wake>,
}

#[derive(Debug)]
pub(super) struct TeamMeters {
    next_call: u64,
    pub(super) meters: Vec<Meter>,
}

/// The share that one call takes of its team's limits. Dropping it gives back the part that the call has not used.
#[derive(Debug)]
pub struct TeamShare {
    limits: Arc<TeamLimits>,
    call: u64,
    runs_until: Option<Instant>,
}

impl TeamLimits {
    /// Builds the limits of a team. They release `wake` whenever a call that had to wait might now start. A process
    /// before this one may have spent them up to `spent_at`.
    pub fn new(
        limits: &[Limit],
        wake: Arc<Wake>,
        spent_at: Option<Instant>,
        clock: &Arc<dyn Clock>,
    ) -> Arc<Self> {
        let now = Instant::now();
        let meter =
            |limit: &Limit| Meter::new(limit.amount.clone(), now, spent_at).with_clock(clock);
        let inner = TeamMeters {
            next_call: 0,
            meters: limits.iter().map(meter).collect(),
        };
        Arc::new(Self {
            limits: limits.to_vec(),
            inner: Mutex::new(inner),
            wake,
        })
    }

    /// Returns the configuration from which they were built.
    pub(crate) fn limits(&self) -> &[Limit] {
        &self.limits
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, TeamMeters> {
        self.inner.lock()
    }

    /// Applies `act` to the meter of each limit.
    pub(super) fn each_meter(&self, act: impl FnMut(&mut Meter)) {
        let mut inner = self.inner();
        inner.meters.iter_mut().for_each(act);
    }

    /// Checks that a call of this cost may start at `now`, and takes nothing.
    ///
    /// # Errors
    /// Returns what the call has to wait for.
    pub fn peek(&self, cost: &CallCost, now: Instant) -> Result<(), Denied> {
        for meter in &mut self.inner().meters {
            meter.peek(cost, now)?;
        }
        Ok(())
    }

    /// Takes a call's cost, which [`TeamLimits::peek`] allowed at the same moment.
    ///
    /// # Errors
    /// Returns the time at which the call may start, if its spacing does not allow it yet.
    pub fn take(self: &Arc<Self>, cost: &CallCost, now: Instant) -> Result<TeamShare, Denied> {
        let mut inner = self.inner();
        for meter in &mut inner.meters {
            meter.start(now).map_err(Denied::Until)?;
        }
        inner.next_call += 1;
        let call = inner.next_call;
        for meter in &mut inner.meters {
            meter.take(call, cost);
        }
        Ok(TeamShare {
            limits: Arc::clone(self),
            call,
            runs_until: None,
        })
    }

    /// Notes that the call left at `at`, `delay` after its permit.
    pub(super) fn sent(&self, call: u64, at: Instant, delay: Duration) {
        self.each_meter(|meter| meter.sent(call, at, delay));
    }
}

impl TeamShare {
    /// Returns the team's limits and the number of the call there.
    pub(super) fn send_marker(&self) -> (Arc<TeamLimits>, u64) {
        (Arc::clone(&self.limits), self.call)
    }

    /// Takes more tokens for the call, from all limits or from none. Returns true if they were free.
    pub(super) fn extend(&self, more: &CallCost, now: Instant) -> bool {
        let mut inner = self.limits.inner();
        let mut meters = inner.meters.iter_mut();
        let is_free = meters.all(|meter| meter.has_room_for(more, now));
        if is_free {
            for meter in &mut inner.meters {
                meter.extend(self.call, more);
            }
        }
        is_free
    }

    /// Corrects the tokens of the call, up or down: a team is charged what it used.
    pub(super) fn settle(&self, actual: &CallCost) {
        self.limits
            .each_meter(|meter| meter.correct(self.call, actual));
    }

    /// Notes that the call may run on at the provider until then.
    pub(super) fn abandoned(&mut self, until: Instant) {
        self.runs_until = Some(until);
    }
}

impl Drop for TeamShare {
    fn drop(&mut self) {
        let (call, until) = (self.call, self.runs_until);
        self.limits.each_meter(|meter| meter.release(call, until));
        self.limits.wake.release();
    }
}
