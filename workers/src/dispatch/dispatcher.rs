//! The only loop: admitted jobs meet accounts here.
//!
//! # Why
//!
//! Whether a job may start depends on all accounts and on all jobs ahead of it. One task owns the waiting jobs and makes
//! all decisions, one after the other, so no two decisions can contradict each other.
//!
//! # How
//!
//! A job comes in through the inbox, for its first or its next call, and waits in one of five places:
//!
//! - `ready`: the fair queue. It starts as soon as an account grants a permit.
//! - `delayed`: it may not start before a time that its publisher or a back-off set. The head of a merged call also waits
//!   here, until the call had time to fill.
//! - `merger`: it will share the call of a head that is in `ready` or `delayed`.
//! - `coalescer`: it waits for the answer to the same request of another job.
//! - outside of this process: a delay of more than [`MAX_IN_MEMORY_DELAY`] is postponed to the queue, if the queue can
//!   hold the job.
//!
//! Each turn of the loop takes in what has come and starts every job that may start. Then it sleeps until the next time at
//! which something can change. Calls, look-ups and the ends of jobs run as tasks: the loop itself never waits for the network or
//! the disk.
//!
//! # Invariants
//!
//! - A job is in exactly one of these places, or belongs to one task: of its call, of a look-up, or of its end.
//! - The wake-up for releases is armed before a pass, so that a permit that returns during the pass is not missed.
//! - At the end, every job that waits here is given back to the queue.

mod leave;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_schemas::Lane;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::accounts::Permit;
use crate::complete::complete;
use crate::complete::postpone::postpone;
use crate::dispatch::call_fill::CallFill;
use crate::dispatch::coalescer::Coalescer;
use crate::dispatch::fair_queue::FairQueue;
use crate::dispatch::merger::{CallMerger, LINGER, is_head};
use crate::dispatch::select::TargetSelector;
use crate::execute::execute::execute;
use crate::execute::merged_call::MergedCall;
use crate::job::admitted_job::AdmittedJob;
use crate::job::inbox::{DispatchEvent, Inbox};
use crate::job::share::{CoalesceKey, CoalesceRequest, LeaderOutcome};
use crate::outcome::end::JobResult;
use crate::queue::Queue;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// A job that may not start for longer than this waits outside of this process.
pub(crate) const MAX_IN_MEMORY_DELAY: Duration = Duration::from_secs(5);
/// How often the waiting jobs are searched for passed deadlines, and for memory that other jobs lack.
const WAITING_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Matches the admitted jobs of all pools with accounts.
pub(crate) struct Dispatcher<Q, U> {
    state: Arc<WorkerState<Q, U>>,
    inbox: Inbox,
    /// Jobs that start as soon as an account grants a permit.
    ready: FairQueue<AdmittedJob>,
    /// Jobs that may not start before the instant of their key. The number keeps jobs of one instant apart.
    delayed: BTreeMap<(Instant, u64), AdmittedJob>,
    /// The number of the last job that was delayed.
    last_delay: u64,
    /// Jobs that will share the call of a head.
    merger: CallMerger,
    /// Jobs that wait for the answer to another job.
    coalescer: Coalescer,
    /// Outcomes of the jobs that others wait for in the coalescer.
    leader_outcomes: mpsc::UnboundedReceiver<(CoalesceKey, LeaderOutcome)>,
    tasks: TaskTracker,
}

impl<Q: Queue, U: Upstream> Dispatcher<Q, U> {
    pub(crate) fn new(
        state: Arc<WorkerState<Q, U>>,
        inbox: Inbox,
        lane_weights: [(Lane, u64); 3],
        tasks: TaskTracker,
    ) -> Self {
        let (coalescer, leader_outcomes) = Coalescer::new();
        Self {
            state,
            inbox,
            ready: FairQueue::new(lane_weights),
            delayed: BTreeMap::new(),
            last_delay: 0,
            merger: CallMerger::default(),
            coalescer,
            leader_outcomes,
            tasks,
        }
    }

    /// Runs until `stop`, then has the waiting jobs given back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(WAITING_CHECK_INTERVAL);
        let mut controls = self.state.controls.changes();
        let mut releases = self.state.backpressure.releases();
        let mut openings = self.state.fence.openings();
        loop {
            self.drain_inbox();
            let next_start = self.run_pass();
            let state = Arc::clone(&self.state);
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.inbox.recv() => match event {
                    Some(event) => self.handle(event),
                    None => break,
                },
                Some((key, outcome)) = self.leader_outcomes.recv() => {
                    self.resolve_followers(&key, outcome);
                }
                () = state.wake.released() => {}
                () = sleep_until(next_start) => {}
                _ = ticks.tick() => {
                    self.expire();
                    self.yield_memory();
                }
                // It cannot fail: the sender lives in the worker's state.
                _ = controls.changed() => self.cancel(),
                _ = releases.changed() => {}
                _ = openings.changed() => {}
            }
        }
        self.give_back_all();
    }

    /// Handles every event that has come.
    fn drain_inbox(&mut self) {
        while let Ok(event) = self.inbox.try_recv() {
            self.handle(event);
        }
        while let Ok((key, outcome)) = self.leader_outcomes.try_recv() {
            self.resolve_followers(&key, outcome);
        }
    }

    fn handle(&mut self, event: DispatchEvent) {
        match event {
            DispatchEvent::Job(admitted) => self.accept(*admitted),
            DispatchEvent::GiveBack(reading, done) => {
                let is_uncalled = |admitted: &AdmittedJob| {
                    admitted.flow == reading.flow
                        && admitted.due == reading.due
                        && admitted.attempts.is_empty()
                };
                self.give_back_where(is_uncalled, Some(done));
            }
        }
    }

    fn accept(&mut self, mut admitted: AdmittedJob) {
        if admitted.is_cancelled(&self.state.controls) {
            return self.finish(admitted, JobResult::cancelled());
        }
        if admitted.is_late(self.state.now()) {
            return self.finish(admitted, JobResult::expired());
        }
        let now = Instant::now();
        admitted.uncalled_since.get_or_insert(now);
        match admitted.not_before.filter(|at| *at > now) {
            Some(at) => self.delay(admitted, at, now),
            None => self.make_ready(admitted),
        }
    }

    /// Lets a job wait until `at`: outside of this process if that is long and the queue can hold it, else here.
    fn delay(&mut self, mut admitted: AdmittedJob, at: Instant, now: Instant) {
        let wait = at - now;
        if wait > MAX_IN_MEMORY_DELAY {
            let size = admitted.delivery.payload.len();
            if self.state.queue.can_postpone(size) {
                let (state, span) = (Arc::clone(&self.state), admitted.span.clone());
                let postponed = async move { postpone(&state, admitted, wait).await };
                self.tasks.spawn(postponed.instrument(span));
                return;
            }
            if let Some(coalesce) = &mut admitted.coalesce {
                // Its followers must not wait that long. One of them becomes the leader instead.
                coalesce.leader = None;
            }
        }
        // The next jobs of its queue are read meanwhile.
        admitted.held.slot = None;
        self.insert_delayed(at, admitted);
    }

    fn insert_delayed(&mut self, at: Instant, admitted: AdmittedJob) {
        self.last_delay += 1;
        self.delayed.insert((at, self.last_delay), admitted);
    }

    /// Takes in a job that may start: it becomes ready, or waits for another job's answer or call.
    fn make_ready(&mut self, admitted: AdmittedJob) {
        let Some(admitted) = self.coalesce(admitted) else {
            return;
        };
        if admitted.merge.is_none() || is_head(&admitted) {
            return self.enqueue(admitted);
        }
        let Some(head) = self.merger.wait_behind(admitted) else {
            return;
        };
        if self.state.lane_of(&head.flow) == Lane::Interactive {
            return self.enqueue(head);
        }
        self.insert_delayed(Instant::now() + LINGER, head);
    }

    /// Returns the job if it must be called now. Otherwise it waits for the answer to the same request, or a task looks
    /// for a cached answer: the loop must not wait for the disk.
    fn coalesce(&mut self, admitted: AdmittedJob) -> Option<AdmittedJob> {
        let Some(CoalesceRequest {
            max_age,
            leader: None,
        }) = admitted.coalesce
        else {
            return Some(admitted);
        };
        let leader = self.coalescer.wait_behind(admitted)?;
        if max_age.is_zero() {
            return Some(leader);
        }
        let (state, span) = (Arc::clone(&self.state), leader.span.clone());
        let looked_up = async move { complete::answer_from_cache(&state, leader, max_age).await };
        self.tasks.spawn(looked_up.instrument(span));
        None
    }

    /// Delivers the leader's answer to its followers. If the leader failed, each follower makes its own call. If it was
    /// abandoned, the first follower becomes the next leader.
    fn resolve_followers(&mut self, key: &CoalesceKey, outcome: LeaderOutcome) {
        for mut admitted in self.coalescer.take_followers(key) {
            match &outcome {
                LeaderOutcome::Succeeded(answer) if let Some(end) = JobResult::cached(answer) => {
                    self.finish(admitted, end);
                }
                LeaderOutcome::Succeeded(_) | LeaderOutcome::Failed => {
                    admitted.coalesce = None;
                    self.accept(admitted);
                }
                LeaderOutcome::Abandoned => self.accept(admitted),
            }
        }
    }

    fn enqueue(&mut self, mut admitted: AdmittedJob) {
        admitted.first_queued_at.get_or_insert_with(Instant::now);
        // A job that a limit refused keeps its turn. One that failed may fail at any provider: the others come first.
        let goes_first = !admitted.attempts.is_empty() && !admitted.has_failed();
        let weight = self.state.team(&admitted.flow.team).weight;
        let lane = self.state.lane_of(&admitted.flow);
        let team = admitted.flow.team.clone();
        self.ready.push(lane, &team, weight, admitted, goes_first);
    }

    /// Starts every job that may start now. Returns when the next one may.
    fn run_pass(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.end_delays(now);
        // Before the first look: a permit that returns during the pass must wake the loop after it.
        self.state.wake.listen();
        let mut selector = TargetSelector::new(self.state.pools.targets().count(), now);
        while let Some(admitted) = self.next_ready(&mut selector) {
            match selector.take_chosen() {
                Some((target, permit)) => self.start(admitted, target, permit, now),
                None => self.finish_without_target(admitted),
            }
        }
        if !selector.waits_for_release() {
            self.state.wake.ignore();
        }
        let waiting =
            self.ready.len() + self.delayed.len() + self.merger.len() + self.coalescer.len();
        let prefetched = &self.state.counters.prefetched;
        prefetched.store(waiting as u64, Ordering::Relaxed);
        let first_delayed = self.delayed.first_key_value().map(|((at, _), _)| *at);
        selector.next_wake().into_iter().chain(first_delayed).min()
    }

    /// The next job in turn for which the selector found a target, or that no target can ever serve.
    fn next_ready(&mut self, selector: &mut TargetSelector) -> Option<AdmittedJob> {
        let state = &self.state;
        let next = self.ready.offer(|admitted| selector.offer(state, admitted));
        if next.is_some() || !selector.let_failed_jobs_probe() {
            return next;
        }
        self.ready.offer(|admitted| selector.offer(state, admitted))
    }

    fn end_delays(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            let admitted = first.remove();
            self.make_ready(admitted);
        }
    }

    fn start(&mut self, mut head: AdmittedJob, target: usize, permit: Permit, now: Instant) {
        let others = self.fill_call(&head, target, &permit, now);
        self.promote_next_head(&mut head);
        let mut call = MergedCall::of(head, others);
        for admitted in call.jobs_mut() {
            // The next jobs of its queue are read while it is called.
            admitted.held.slot = None;
            admitted.uncalled_since = None;
            admitted.unpublished = Some(self.state.counters.called());
        }
        let state = Arc::clone(&self.state);
        let in_flight = state.counters.in_flight(call.jobs().len());
        let span = call.jobs()[0].span.clone();
        let executed = async move {
            execute(state, call, target, permit).await;
            drop(in_flight);
        };
        self.tasks.spawn(executed.instrument(span));
    }

    /// Takes out the jobs that share the head's call: as many as the provider, the limits and the learned size allow.
    fn fill_call(
        &mut self,
        head: &AdmittedJob,
        target: usize,
        permit: &Permit,
        now: Instant,
    ) -> Vec<AdmittedJob> {
        let Some(mut fill) = CallFill::new(&self.state, head, target, permit, now) else {
            return Vec::new();
        };
        let others = self
            .merger
            .take_fitting(head, |admitted| fill.fit(admitted));
        let lane = self.state.lane_of(&head.flow);
        self.ready.charge(lane, &head.flow.team, fill.extra_cost());
        others
    }

    /// Queues the next job behind a head that leaves.
    fn promote_next_head(&mut self, head: &mut AdmittedJob) {
        if let Some(next) = self.merger.promote_next(head) {
            self.enqueue(next);
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
