//! The only loop: admitted jobs meet accounts here.
//!
//! # Why
//!
//! Whether a job may start depends on all accounts and on all jobs ahead of it. One task owns that state, so no lock is
//! held while a decision is made and no two decisions can contradict each other.
//!
//! # How
//!
//! A job comes in through the inbox, for its first or its next call, and waits in one of five places:
//!
//! - `waiting`: the fair queue; it may start as soon as an account grants a permit.
//! - `resting`: it has a `not_before`, a back-off, or is the first of a merged call that waits to be filled.
//! - `joining`: it will share the call of a job that is in `waiting`.
//! - `sharing`: it waits for the answer to the same request of another job.
//! - outside of this process: a wait of more than [`LONGEST_REST`] is postponed to the queue.
//!
//! Each turn of the loop takes in what has come, starts every job that may start, and sleeps until the next time at which
//! something can change. Calls, look-ups and the ends of jobs run as tasks: the loop itself never waits for the network or
//! the disk.
//!
//! # Invariants
//!
//! - A job is in exactly one of these places, or belongs to the task of its call.
//! - The wake-up for releases is armed before a pass, so that a permit that returns during the pass is not missed.
//! - At the end everything that has not begun is given back to the queue.

mod leave;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_schemas::{Class, Lane};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::Permit;
use crate::complete::complete;
use crate::complete::postpone::postpone;
use crate::dispatch::coalescer::Coalescer;
use crate::dispatch::fair_queue::FairQueue;
use crate::dispatch::merger::{COMPANY, CallMerger, MergeFit, leads};
use crate::dispatch::select::{LARGEST_TURN, TargetSelector};
use crate::execute::execute::work;
use crate::execute::merged_call::MergedCall;
use crate::job::admitted_job::AdmittedJob;
use crate::job::inbox::{DispatchEvent, Inbox};
use crate::job::share::{CoalesceKey, CoalesceRequest, LeaderOutcome};
use crate::outcome::end::JobResult;
use crate::queue::Queue;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// A job that waits for itself for longer does so outside of this process.
pub(crate) const LONGEST_REST: Duration = Duration::from_secs(5);
/// How often waiting jobs are looked through for passed deadlines.
const DEADLINES: Duration = Duration::from_secs(1);

/// Matches staged jobs of all pools with accounts.
pub(crate) struct Dispatcher<Q, U> {
    engine: Arc<WorkerState<Q, U>>,
    inbox: Inbox,
    waiting: FairQueue<AdmittedJob>,
    /// Jobs that will travel with one of those.
    joining: CallMerger,
    /// Jobs that wait for the answer to another.
    sharing: Coalescer,
    /// What came of those that others waited for.
    led: mpsc::UnboundedReceiver<(CoalesceKey, LeaderOutcome)>,
    /// Jobs that wait for themselves, by when they may go.
    resting: BTreeMap<(Instant, u64), AdmittedJob>,
    rested: u64,
    tasks: TaskTracker,
}

impl<Q: Queue, U: Upstream> Dispatcher<Q, U> {
    pub(crate) fn new(
        engine: Arc<WorkerState<Q, U>>,
        inbox: Inbox,
        lane_weights: [(Lane, u64); 3],
        tasks: TaskTracker,
    ) -> Self {
        let (sharing, led) = Coalescer::new();
        Self {
            engine,
            inbox,
            waiting: FairQueue::new(lane_weights),
            joining: CallMerger::default(),
            sharing,
            led,
            resting: BTreeMap::new(),
            rested: 0,
            tasks,
        }
    }

    /// Runs until `stop`, then gives back what has not begun.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut deadlines = tokio::time::interval(DEADLINES);
        let mut orders = self.engine.orders.changes();
        let mut stored = self.engine.brake.releases();
        loop {
            self.take_all();
            let wake = self.round();
            let engine = Arc::clone(&self.engine);
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.inbox.recv() => match event {
                    Some(event) => self.take(event),
                    None => break,
                },
                Some((errand, led)) = self.led.recv() => self.serve_others(&errand, led),
                () = engine.wake.released() => {}
                () = sleep_until(wake) => {}
                _ = deadlines.tick() => self.expire(),
                // The sender lives in the engine.
                _ = orders.changed() => self.cancel(),
                _ = stored.changed() => {}
            }
        }
        self.give_back_all();
    }

    /// Takes in all that has come.
    fn take_all(&mut self) {
        while let Ok(event) = self.inbox.try_recv() {
            self.take(event);
        }
        while let Ok((errand, led)) = self.led.try_recv() {
            self.serve_others(&errand, led);
        }
    }

    fn take(&mut self, event: DispatchEvent) {
        match event {
            DispatchEvent::Job(staged) => self.accept(*staged),
            DispatchEvent::GiveBack(reading, done) => {
                let unbegun = |staged: &AdmittedJob| {
                    staged.flow == reading.flow
                        && staged.due == reading.due
                        && staged.attempts.is_empty()
                };
                self.give_back_where(unbegun, Some(done));
            }
        }
    }

    fn accept(&mut self, mut staged: AdmittedJob) {
        if staged.is_cancelled(&self.engine.orders) {
            return self.end(staged, JobResult::cancelled());
        }
        if staged.is_late(self.engine.clock.now()) {
            return self.end(staged, JobResult::expired());
        }
        let now = Instant::now();
        match staged.not_before.filter(|at| *at > now) {
            Some(at)
                if at - now > LONGEST_REST
                    && self
                        .engine
                        .queue
                        .can_postpone(staged.delivery.payload.len()) =>
            {
                let engine = Arc::clone(&self.engine);
                self.tasks
                    .spawn(async move { postpone(&engine, staged, at - now).await });
            }
            Some(at) => {
                if at - now > LONGEST_REST
                    && let Some(share) = &mut staged.share
                {
                    // Nor must others that ask the same.
                    share.lead = None;
                }
                // It waits for itself: others of its flow must not wait for it.
                drop(staged.claim.slot.take());
                self.rested += 1;
                self.resting.insert((at, self.rested), staged);
            }
            None => self.queue(staged),
        }
    }

    /// Returns a job that has to be called: it is the first that asks this. Whether an answer is kept for it is looked
    /// up beside this loop, which must not wait for the disk.
    fn share(&mut self, staged: AdmittedJob) -> Option<AdmittedJob> {
        let Some(CoalesceRequest { within, lead: None }) = staged.share else {
            return Some(staged);
        };
        let staged = self.sharing.meet(staged)?;
        if within.is_zero() {
            return Some(staged);
        }
        let engine = Arc::clone(&self.engine);
        self.tasks
            .spawn(async move { complete::answer_from_cache(&engine, staged, within).await });
        None
    }

    /// What waited for the answer has it. Where there is none, each is called by itself if that was asked in vain, and
    /// one of them for the others if not.
    fn serve_others(&mut self, errand: &CoalesceKey, led: LeaderOutcome) {
        for mut staged in self.sharing.led(errand) {
            match &led {
                LeaderOutcome::Answered(answer) if let Some(end) = JobResult::cached(answer) => {
                    self.end(staged, end)
                }
                LeaderOutcome::Answered(_) | LeaderOutcome::Asked => {
                    staged.share = None;
                    self.accept(staged);
                }
                LeaderOutcome::Nowhere => self.accept(staged),
            }
        }
    }

    /// Takes a job in that may go: it waits in line, or for company, or behind the one that it will travel with.
    fn queue(&mut self, staged: AdmittedJob) {
        let Some(staged) = self.share(staged) else {
            return;
        };
        if staged.join.is_none() || leads(&staged) {
            return self.line_up(staged);
        }
        let Some(first) = self.joining.meet(staged) else {
            return;
        };
        if first.flow.lane == Lane::Interactive {
            return self.line_up(first);
        }
        self.rested += 1;
        self.resting
            .insert((Instant::now() + COMPANY, self.rested), first);
    }

    fn line_up(&mut self, mut staged: AdmittedJob) {
        staged.here_since.get_or_insert_with(Instant::now);
        let tried = !staged.attempts.is_empty();
        let weight = self.engine.team(&staged.flow.team).weight;
        let (lane, team) = (staged.flow.lane, staged.flow.team.clone());
        self.waiting.push(lane, &team, weight, staged, tried);
    }

    /// Starts every job that may start now; returns when the next may.
    fn round(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some(entry) = self.resting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let staged = entry.remove();
            self.queue(staged);
        }
        self.engine.wake.listen();
        let mut round = TargetSelector::new(self.engine.pools.targets().count(), now);
        loop {
            let engine = &self.engine;
            let Some(staged) = self.waiting.offer(|staged| round.offer(engine, staged)) else {
                break;
            };
            match round.take_chosen() {
                Some((target, permit)) => self.start(staged, target, permit, now),
                None => self.no_target_left(staged),
            }
        }
        if !round.waits() {
            self.engine.wake.ignore();
        }
        let waiting =
            self.waiting.len() + self.resting.len() + self.joining.len() + self.sharing.len();
        self.engine
            .counters
            .staged
            .store(waiting as u64, Ordering::Relaxed);
        let resting = self.resting.first_key_value().map(|((at, _), _)| *at);
        round.wake().into_iter().chain(resting).min()
    }

    fn start(&mut self, mut first: AdmittedJob, target: usize, permit: Permit, now: Instant) {
        let company = self.company(&first, target, &permit, now);
        self.leaves_line(&mut first);
        let mut party = MergedCall::of(first, company);
        // The places in the stage are free: the flow fetches the next ones while these are called.
        party
            .members_mut()
            .iter_mut()
            .for_each(|staged| drop(staged.claim.slot.take()));
        let engine = Arc::clone(&self.engine);
        let in_flight = engine.counters.in_flight(party.members().len());
        self.tasks.spawn(async move {
            work(engine, party, target, permit).await;
            drop(in_flight);
        });
    }

    /// Those that travel with `first`, as many as the provider and the limits take in one call.
    fn company(
        &mut self,
        first: &AdmittedJob,
        target: usize,
        permit: &Permit,
        now: Instant,
    ) -> Vec<AdmittedJob> {
        let engine = &self.engine;
        let account = permit.account();
        let Some(join) = first
            .join
            .as_ref()
            .filter(|_| account.counts_calls(permit.model()))
        else {
            return Vec::new();
        };
        let joins = account.config().endpoint.provider.merges;
        let most = if join.part.is_some() {
            joins.inputs
        } else {
            engine.sizes.most(target, joins)
        };
        let (mut inputs, mut tokens, wall) =
            (join.inputs, first.cost.input_tokens, engine.clock.now());
        let company = self.joining.company(first, |staged| {
            let Some((join, cost)) = staged
                .join
                .as_ref()
                .zip(staged.choices.cost_at(target, now))
            else {
                return MergeFit::Stay;
            };
            if staged.is_late(wall) || staged.is_cancelled(&engine.orders) {
                return MergeFit::Stay;
            }
            let (all, all_tokens) = (
                inputs + join.inputs,
                tokens.saturating_add(staged.cost.input_tokens),
            );
            if all > most || all_tokens > joins.tokens || !permit.take_on(&cost, now) {
                return MergeFit::Full;
            }
            (inputs, tokens) = (all, all_tokens);
            MergeFit::Take
        });
        let more = tokens - first.cost.input_tokens;
        self.waiting
            .charge(first.flow.lane, &first.flow.team, more.min(LARGEST_TURN));
        company
    }

    /// The next of those behind it takes its place.
    fn leaves_line(&mut self, staged: &mut AdmittedJob) {
        if let Some(next) = self.joining.next(staged) {
            self.line_up(next);
        }
    }

    fn no_target_left(&mut self, mut staged: AdmittedJob) {
        self.leaves_line(&mut staged);
        let end = match staged.last_error.take() {
            Some(error) => JobResult::failed(&error.code, error.message, error.class),
            None => {
                let message =
                    "no account of the pool can ever serve this: it is larger than their limits";
                JobResult::failed("no_target", message.to_owned(), Class::ExceedsLimit)
            }
        };
        self.end(staged, end);
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
