//! Jobs that leave the dispatcher without a call: late, cancelled, given back.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Class;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

use super::Dispatcher;
use crate::complete::complete;
use crate::complete::release::give_back;
use crate::job::admitted_job::AdmittedJob;
use crate::job::in_flight::DuplicateDeliveries;
use crate::outcome::end::JobResult;
use crate::pools::PoolTarget;
use crate::queue::Queue;
use crate::upstream::Upstream;

/// How long a large job waits here for its call while jobs of other queues wait for memory.
const MAX_WAIT_WITH_MEMORY: Duration = Duration::from_secs(5);

impl<Q: Queue, U: Upstream> Dispatcher<Q, U> {
    /// Ends the waiting jobs whose deadline has passed.
    pub(super) fn expire(&mut self) {
        let now = self.state.now();
        for admitted in self.remove_where(|admitted| admitted.is_late(now)) {
            self.finish(admitted, JobResult::expired());
        }
    }

    /// Ends the waiting jobs that are cancelled. A running call is not aborted; if it is tried again, `accept` ends it.
    pub(super) fn cancel(&mut self) {
        let state = Arc::clone(&self.state);
        for admitted in self.remove_where(|admitted| admitted.is_cancelled(&state.controls)) {
            self.finish(admitted, JobResult::cancelled());
        }
    }

    /// Ends a job in a task of its own.
    pub(super) fn finish(&self, admitted: AdmittedJob, end: JobResult) {
        let (state, span) = (Arc::clone(&self.state), admitted.span.clone());
        let finished = async move { complete::finish(&state, admitted, end).await };
        self.tasks.spawn(finished.instrument(span));
    }

    /// Returns an account that may not use its model for the job, with the model.
    fn refusing_account(&self, admitted: &AdmittedJob) -> Option<(String, String)> {
        let now = Instant::now();
        admitted.candidates.left().iter().find_map(|candidate| {
            let PoolTarget { account, model, .. } = self.state.target(candidate.target);
            let refuses = account.refuses_model(model, now);
            refuses.then(|| (account.name().to_owned(), model.clone()))
        })
    }

    /// Ends a job that no target can serve.
    pub(super) fn finish_without_target(&mut self, mut admitted: AdmittedJob) {
        self.promote_next_head(&mut admitted);
        let end = match (admitted.last_error.take(), self.refusing_account(&admitted)) {
            (Some(error), _) => JobResult::failed(&error.code, error.message, error.class),
            (None, Some((account, model))) => {
                let class = Class::ModelNotAllowed;
                let message = format!(
                    "account `{account}` may not use the model `{model}`, or it has none of this name; once that is put \
                     right: forebay accounts enable {account}"
                );
                JobResult::failed(class.as_str(), message, class)
            }
            (None, None) => {
                let message =
                    "no account of the pool can ever serve this: it is larger than their limits";
                JobResult::failed("no_target", message.to_owned(), Class::ExceedsLimit)
            }
        };
        self.finish(admitted, end);
    }

    fn remove_where(&mut self, which: impl Fn(&AdmittedJob) -> bool) -> Vec<AdmittedJob> {
        let mut removed = self.ready.remove_where(&which);
        let delayed = self.delayed.extract_if(.., |_, admitted| which(admitted));
        removed.extend(delayed.map(|(_, admitted)| admitted));
        removed.extend(self.merger.remove_where(&which));
        removed.extend(self.coalescer.remove_where(which));
        for admitted in &mut removed {
            self.promote_next_head(admitted);
        }
        removed
    }

    /// Gives jobs back and then reports `done`, in a task: the loop must not wait for a server that is away.
    pub(super) fn give_back_where(
        &mut self,
        which: impl Fn(&AdmittedJob) -> bool,
        done: Option<oneshot::Sender<()>>,
    ) {
        let removed = self.remove_where(which);
        let state = Arc::clone(&self.state);
        self.tasks.spawn(async move {
            for mut admitted in removed {
                let DuplicateDeliveries { same, others } = admitted.registration.end();
                let deliveries = std::iter::once(admitted.held).chain(same).chain(others);
                give_back(&state, deliveries).await;
            }
            if let Some(done) = done {
                // The reader that asked may have ended.
                let _ = done.send(());
            }
        });
    }

    /// Gives large jobs back that wait long for their call, as far as jobs of other queues lack their memory. They come again,
    /// and the journal keeps their attempts.
    pub(super) fn yield_memory(&mut self) {
        let (state, now) = (Arc::clone(&self.state), Instant::now());
        let lacking = Cell::new(state.memory.lacking());
        if lacking.get() == 0 {
            return;
        }
        let waits_long = |admitted: &AdmittedJob| {
            let since = admitted.uncalled_since;
            since.is_some_and(|since| now - since >= MAX_WAIT_WITH_MEMORY)
        };
        let yields = |admitted: &AdmittedJob| {
            let bytes = admitted.held.large_bytes();
            let yields = bytes.min(lacking.get()) > 0
                && waits_long(admitted)
                && state.memory.is_wanted_beside(&admitted.flow);
            if yields {
                lacking.set(lacking.get().saturating_sub(bytes));
            }
            yields
        };
        self.give_back_where(yields, None);
    }

    /// Gives back every job that waits.
    pub(super) fn give_back_all(&mut self) {
        self.inbox.close();
        self.drain_inbox();
        self.give_back_where(|_| true, None);
    }
}
