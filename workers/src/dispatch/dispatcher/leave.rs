//! Jobs that leave the dispatcher without a call: late, cancelled, given back.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Dispatcher;
use crate::complete::complete;
use crate::complete::release::give_back;
use crate::job::admitted_job::AdmittedJob;
use crate::job::in_flight::DuplicateDeliveries;
use crate::outcome::end::JobResult;
use crate::queue::Queue;
use crate::upstream::Upstream;

impl<Q: Queue, U: Upstream> Dispatcher<Q, U> {
    pub(super) fn expire(&mut self) {
        let now = self.engine.clock.now();
        for admitted in self.remove_where(|admitted| admitted.is_late(now)) {
            self.end(admitted, JobResult::expired());
        }
    }

    /// Ends waiting jobs that are cancelled. A running call is not aborted; if it is tried again, `accept` ends it.
    pub(super) fn cancel(&mut self) {
        let engine = Arc::clone(&self.engine);
        for admitted in self.remove_where(|admitted| admitted.is_cancelled(&engine.orders)) {
            self.end(admitted, JobResult::cancelled());
        }
    }

    pub(super) fn end(&self, admitted: AdmittedJob, end: JobResult) {
        let engine = Arc::clone(&self.engine);
        self.tasks
            .spawn(async move { complete::finish(&engine, admitted, end).await });
    }

    fn remove_where(&mut self, which: impl Fn(&AdmittedJob) -> bool) -> Vec<AdmittedJob> {
        let mut removed = self.waiting.remove_where(&which);
        let resting: Vec<_> = self
            .resting
            .iter()
            .filter(|(_, admitted)| which(admitted))
            .map(|(key, _)| *key)
            .collect();
        removed.extend(
            resting
                .into_iter()
                .filter_map(|key| self.resting.remove(&key)),
        );
        removed.extend(self.joining.remove_where(&which));
        removed.extend(self.sharing.remove_where(which));
        removed
            .iter_mut()
            .for_each(|admitted| self.leaves_line(admitted));
        removed
    }

    /// Gives jobs back and then says so, beside this loop: it must not wait for a server that is away.
    pub(super) fn give_back_where(
        &mut self,
        which: impl Fn(&AdmittedJob) -> bool,
        done: Option<oneshot::Sender<()>>,
    ) {
        let removed = self.remove_where(which);
        let engine = Arc::clone(&self.engine);
        self.tasks.spawn(async move {
            for mut admitted in removed {
                let DuplicateDeliveries { same, others } = admitted.entry.end();
                let claims = std::iter::once(admitted.claim).chain(same).chain(others);
                give_back(&engine, claims).await;
            }
            if let Some(done) = done {
                // Whoever asked may have ended.
                let _ = done.send(());
            }
        });
    }

    pub(super) fn give_back_all(&mut self) {
        self.inbox.close();
        self.take_all();
        self.give_back_where(|_| true, None);
    }
}
