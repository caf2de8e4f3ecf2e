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
//! - `waiting`: the fair queue; it may start as soon as an account grants a permit.
//! - `resting`: it may not start before a time that its publisher or a back-off set, or it is the first of a merged call
//!   that waits to be filled.
//! - `joining`: it will share the call of a job that is in `waiting`.
//! - `sharing`: it waits for the answer to the same request of another job.
//! - outside of this process: a wait of more than [`MAX_IN_MEMORY_DELAY`] is postponed to the queue, if the queue can
//!   take the job.
//!
//! Each turn of the loop takes in what has come, starts every job that may start, and sleeps until the next time at which
//! something can change. Calls, look-ups and the ends of jobs run as tasks: the loop itself never waits for the network or
//! the disk.
//!
//! # Invariants
//!
//! - A job is in exactly one of these places, or belongs to one task: of its call, of a look-up, or of its end.
//! - The wake-up for releases is armed before a pass, so that a permit that returns during the pass is not missed.
//! - At the end everything that waits here is given back to the queue.

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
use crate::dispatch::merger::{CallMerger, LINGER, MergeFit, leads};
use crate::dispatch::select::{MAX_COST_PER_TURN, TargetSelector};
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
pub(crate) const MAX_IN_MEMORY_DELAY: Duration = Duration::from_secs(5);
/// How often waiting jobs are looked through for passed deadlines.
const DEADLINES: Duration = Duration::from_secs(1);

/// Matches admitted jobs of all pools with accounts.
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
            DispatchEvent::Job(admitted) => self.accept(*admitted),
            DispatchEvent::GiveBack(reading, done) => {
                let unbegun = |admitted: &AdmittedJob| {
                    admitted.flow == reading.flow
                        && admitted.due == reading.due
                        && admitted.attempts.is_empty()
                };
                self.give_back_where(unbegun, Some(done));
            }
        }
    }

    fn accept(&mut self, mut admitted: AdmittedJob) {
        if admitted.is_cancelled(&self.engine.orders) {
            return self.end(admitted, JobResult::cancelled());
        }
        if admitted.is_late(self.engine.clock.now()) {
            return self.end(admitted, JobResult::expired());
        }
        let now = Instant::now();
        match admitted.not_before.filter(|at| *at > now) {
            Some(at)
                if at - now > MAX_IN_MEMORY_DELAY
                    && self
                        .engine
                        .queue
                        .can_postpone(admitted.delivery.payload.len()) =>
            {
                let engine = Arc::clone(&self.engine);
                self.tasks
                    .spawn(async move { postpone(&engine, admitted, at - now).await });
            }
            Some(at) => {
                if at - now > MAX_IN_MEMORY_DELAY
                    && let Some(share) = &mut admitted.share
                {
                    // Jobs that ask the same must not wait that long for it: another one leads them.
                    share.lead = None;
                }
                // It waits for itself: others of its flow must not wait for it.
                drop(admitted.claim.slot.take());
                self.rested += 1;
                self.resting.insert((at, self.rested), admitted);
            }
            None => self.queue(admitted),
        }
    }

    /// Returns a job that has to be called: it is the first that asks this. Whether an answer is kept for it is looked
    /// up beside this loop, which must not wait for the disk.
    fn share(&mut self, admitted: AdmittedJob) -> Option<AdmittedJob> {
        let Some(CoalesceRequest { within, lead: None }) = admitted.share else {
            return Some(admitted);
        };
        let admitted = self.sharing.meet(admitted)?;
        if within.is_zero() {
            return Some(admitted);
        }
        let engine = Arc::clone(&self.engine);
        self.tasks
            .spawn(async move { complete::answer_from_cache(&engine, admitted, within).await });
        None
    }

    /// What waited for the answer has it. Where there is none, each is called by itself if that was asked in vain, and
    /// one of them for the others if not.
    fn serve_others(&mut self, errand: &CoalesceKey, led: LeaderOutcome) {
        for mut admitted in self.sharing.led(errand) {
            match &led {
                LeaderOutcome::Answered(answer) if let Some(end) = JobResult::cached(answer) => {
                    self.end(admitted, end)
                }
                LeaderOutcome::Answered(_) | LeaderOutcome::Asked => {
                    admitted.share = None;
                    self.accept(admitted);
                }
                LeaderOutcome::Nowhere => self.accept(admitted),
            }
        }
    }

    /// Takes a job in that may go: it waits in line, or for company, or behind the one that it will travel with.
    fn queue(&mut self, admitted: AdmittedJob) {
        let Some(admitted) = self.share(admitted) else {
            return;
        };
        if admitted.join.is_none() || leads(&admitted) {
            return self.line_up(admitted);
        }
        let Some(first) = self.joining.meet(admitted) else {
            return;
        };
        if first.flow.lane == Lane::Interactive {
            return self.line_up(first);
        }
        self.rested += 1;
        self.resting
            .insert((Instant::now() + LINGER, self.rested), first);
    }

    fn line_up(&mut self, mut admitted: AdmittedJob) {
        admitted.here_since.get_or_insert_with(Instant::now);
        let tried = !admitted.attempts.is_empty();
        let weight = self.engine.team(&admitted.flow.team).weight;
        let (lane, team) = (admitted.flow.lane, admitted.flow.team.clone());
        self.waiting.push(lane, &team, weight, admitted, tried);
    }

    /// Starts every job that may start now; returns when the next may.
    fn round(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some(entry) = self.resting.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let admitted = entry.remove();
            self.queue(admitted);
        }
        self.engine.wake.listen();
        let mut round = TargetSelector::new(self.engine.pools.targets().count(), now);
        loop {
            let engine = &self.engine;
            let Some(admitted) = self.waiting.offer(|admitted| round.offer(engine, admitted))
            else {
                break;
            };
            match round.take_chosen() {
                Some((target, permit)) => self.start(admitted, target, permit, now),
                None => self.no_target_left(admitted),
            }
        }
        if !round.waits() {
            self.engine.wake.ignore();
        }
        let waiting =
            self.waiting.len() + self.resting.len() + self.joining.len() + self.sharing.len();
        self.engine
            .counters
            .prefetched
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
            .for_each(|admitted| drop(admitted.claim.slot.take()));
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
        let company = self.joining.company(first, |admitted| {
            let Some((join, cost)) = admitted
                .join
                .as_ref()
                .zip(admitted.choices.cost_at(target, now))
            else {
                return MergeFit::Stay;
            };
            if admitted.is_late(wall) || admitted.is_cancelled(&engine.orders) {
                return MergeFit::Stay;
            }
            let (all, all_tokens) = (
                inputs + join.inputs,
                tokens.saturating_add(admitted.cost.input_tokens),
            );
            if all > most || all_tokens > joins.tokens || !permit.take_on(&cost, now) {
                return MergeFit::Full;
            }
            (inputs, tokens) = (all, all_tokens);
            MergeFit::Take
        });
        let more = tokens - first.cost.input_tokens;
        self.waiting.charge(
            first.flow.lane,
            &first.flow.team,
            more.min(MAX_COST_PER_TURN),
        );
        company
    }

    /// The next of those behind it takes its place.
    fn leaves_line(&mut self, admitted: &mut AdmittedJob) {
        if let Some(next) = self.joining.next(admitted) {
            self.line_up(next);
        }
    }

    fn no_target_left(&mut self, mut admitted: AdmittedJob) {
        self.leaves_line(&mut admitted);
        let end = match admitted.last_error.take() {
            Some(error) => JobResult::failed(&error.code, error.message, error.class),
            None => {
                let message =
                    "no account of the pool can ever serve this: it is larger than their limits";
                JobResult::failed("no_target", message.to_owned(), Class::ExceedsLimit)
            }
        };
        self.end(admitted, end);
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
