//! A queue in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_schemas::{Completion, Flow, Format, Identity};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, watch};

use crate::attempt_record::AttemptRecord;
use crate::clock::Clock;
use crate::memory_budget::MemoryBudget;
use crate::queue::{
    ActiveReadings, CompletionPublication, Credit, DeadLetter, Delivery, DeliveryReceipt,
    DeliverySource, Error, ExistingCompletion, PostponedJob, PostponedState, PublishOutcome, Queue,
    QueueReading,
};

/// The way in which the server treats completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Publishing {
    /// It takes each.
    #[default]
    Taken,
    /// It refuses each at once, as without storage.
    Refused,
    /// It is silent until this changes.
    Silent,
    /// The connection is lost until this changes.
    Disconnected,
}

/// Time after which a publish to a silent server fails.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// A queue in memory; clones share it.
#[derive(Debug, Clone)]
pub struct SimQueue {
    shared: Arc<SimShared>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct SimShared {
    state: Mutex<SimQueueState>,
    /// Notified when a delivery begins to wait.
    waiting: Notify,
    ended: watch::Sender<usize>,
    publishing: watch::Sender<Publishing>,
}

#[derive(Debug, Default)]
struct SimQueueState {
    sequence: u64,
    flows: BTreeSet<Flow>,
    announce: Option<(Arc<ActiveReadings>, mpsc::UnboundedSender<QueueReading>)>,
    forgotten: usize,
    waiting: HashMap<Flow, VecDeque<Delivery>>,
    held: BTreeMap<String, (Flow, Delivery)>,
    completions: BTreeMap<Identity, (Completion, ExistingCompletion)>,
    attempts: BTreeMap<Identity, AttemptRecord>,
    copies: Vec<(String, Bytes)>,
    dead: Vec<DeadLetter>,
    acked: usize,
    postponed: usize,
}

impl SimQueueState {
    fn announce(&self, flow: &Flow) {
        let Some((readings, announce)) = &self.announce else {
            return;
        };
        // Postponed jobs return to their flow itself when they are due, so no reading is for due jobs.
        let reading = QueueReading {
            flow: flow.clone(),
            due: false,
        };
        if readings.see(&reading) {
            let _ = announce.send(reading);
        }
    }
}

impl SimQueue {
    /// Returns an empty queue.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let shared = SimShared {
            state: Mutex::default(),
            waiting: Notify::new(),
            ended: watch::Sender::new(0),
            publishing: watch::Sender::default(),
        };
        Self {
            shared: Arc::new(shared),
            clock,
        }
    }

    fn state(&self) -> MutexGuard<'_, SimQueueState> {
        self.shared.state.lock()
    }

    /// Sets what happens to completions from now on.
    pub fn set_publishing(&self, publishing: Publishing) {
        self.shared.publishing.send_replace(publishing);
    }

    /// Waits until the server takes a completion.
    ///
    /// # Errors
    /// Fails if it refuses it, or is silent for too long.
    async fn publishable(&self) -> Result<(), Error> {
        let mut publishing = self.shared.publishing.subscribe();
        if *publishing.borrow() == Publishing::Refused {
            return Err(Error("insufficient resources".to_owned()));
        }
        let taken = publishing.wait_for(|publishing| *publishing == Publishing::Taken);
        let in_time = tokio::time::timeout(PUBLISH_TIMEOUT, taken).await;
        in_time.map_or_else(|_| Err(Error("timed out".to_owned())), |_| Ok(()))
    }

    /// Publishes a job.
    pub fn publish(&self, flow: &Flow, payload: impl Into<Bytes>) {
        self.enqueue(flow, payload.into(), None);
    }

    fn enqueue(&self, flow: &Flow, payload: Bytes, known: Option<PostponedState>) {
        let mut state = self.state();
        state.sequence += 1;
        let name = state.sequence.to_string();
        let delivery = Delivery {
            payload,
            subject: format!("ai.jobs.{flow}"),
            message_id: None,
            reply_to: None,
            traceparent: None,
            object: None,
            revision: None,
            problem: None,
            format: Format::Two,
            unique_id: format!("s0-{name}"),
            published: self.clock.now(),
            redelivered: false,
            state: known,
            receipt: DeliveryReceipt(name),
        };
        let waiting = state.waiting.entry(flow.clone()).or_default();
        waiting.push_back(delivery);
        state.flows.insert(flow.clone());
        state.announce(flow);
        drop(state);
        self.shared.waiting.notify_waiters();
    }

    /// Waits until at least `count` identities have a completion.
    pub async fn completed(&self, count: usize) {
        let mut ended = self.shared.ended.subscribe();
        // The sender lives in this queue.
        let _ = ended.wait_for(|ended| *ended >= count).await;
    }

    /// Returns all completions.
    pub fn completions(&self) -> Vec<Completion> {
        let state = self.state();
        let completions = state.completions.values();
        completions
            .map(|(completion, _)| completion.clone())
            .collect()
    }

    /// Returns all dead letters.
    pub fn dead(&self) -> Vec<DeadLetter> {
        self.state().dead.clone()
    }

    /// Returns the number of acked deliveries.
    pub fn acked(&self) -> usize {
        self.state().acked
    }

    /// Returns the number of postponed deliveries. Each is acked and delivered again.
    pub fn postponed(&self) -> usize {
        self.state().postponed
    }

    /// Returns the number of deliveries that are neither acked nor nacked.
    pub fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Returns the number of times that a flow was forgotten.
    pub fn forgotten(&self) -> usize {
        self.state().forgotten
    }

    fn take(&self, flow: &Flow) -> Option<Delivery> {
        let mut state = self.state();
        let delivery = state.waiting.get_mut(flow)?.pop_front()?;
        let name = delivery.receipt.0.clone();
        let held = (flow.clone(), delivery.clone());
        state.held.insert(name, held);
        Some(delivery)
    }
}

impl Queue for SimQueue {
    fn is_connected(&self) -> bool {
        *self.shared.publishing.borrow() != Publishing::Disconnected
    }

    async fn find(
        &self,
        readings: Arc<ActiveReadings>,
    ) -> Result<mpsc::UnboundedReceiver<QueueReading>, Error> {
        let (announce, found) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.announce = Some((readings, announce));
        for flow in &state.flows {
            state.announce(flow);
        }
        Ok(found)
    }

    async fn prepare(&self, _: &QueueReading) -> Result<(), Error> {
        Ok(())
    }

    fn can_postpone(&self, _: usize) -> bool {
        true
    }

    async fn postpone(&self, job: PostponedJob) -> Result<bool, Error> {
        let now = self.clock.now();
        let wait = Duration::try_from(job.at.duration_since(now)).unwrap_or_default();
        self.state().postponed += 1;
        let queue = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let state = Some(job.state);
            queue.enqueue(&job.flow, job.payload, state);
        });
        Ok(true)
    }

    fn open(
        &self,
        reading: &QueueReading,
        mut credit: Credit,
        _: &Arc<MemoryBudget>,
    ) -> DeliverySource {
        let (sender, deliveries) = mpsc::unbounded_channel();
        let (queue, flow) = (self.clone(), reading.flow.clone());
        let feed = tokio::spawn(async move {
            loop {
                let waiting = queue.shared.waiting.notified();
                while credit.open > 0 {
                    let Some(delivery) = queue.take(&flow) else {
                        break;
                    };
                    credit.open -= 1;
                    if let Err(mpsc::error::SendError(delivery)) = sender.send(delivery) {
                        credit.open += 1;
                        queue.give_back(delivery.receipt).await;
                        return credit;
                    }
                }
                tokio::select! {
                    grows = credit.grows() => if !grows { return credit },
                    () = sender.closed() => return credit,
                    () = waiting => {}
                }
            }
        });
        DeliverySource { deliveries, feed }
    }

    async fn forget(&self, reading: &QueueReading) -> Result<bool, Error> {
        let mut state = self.state();
        let waiting = state.waiting.get(&reading.flow);
        let waits = waiting.is_some_and(|waiting| !waiting.is_empty());
        let mut held = state.held.values();
        let idle = !waits && held.all(|(flow, _)| *flow != reading.flow);
        state.forgotten += usize::from(idle);
        Ok(idle)
    }

    async fn leave(&self, _: &QueueReading) -> Result<(), Error> {
        Ok(())
    }

    async fn keep(&self, _: Vec<DeliveryReceipt>) {}

    async fn give_back(&self, receipt: DeliveryReceipt) {
        let mut state = self.state();
        if let Some((flow, mut delivery)) = state.held.remove(&receipt.0) {
            delivery.redelivered = true;
            let waiting = state.waiting.entry(flow).or_default();
            waiting.push_front(delivery);
        }
        drop(state);
        self.shared.waiting.notify_waiters();
    }

    async fn reject(&self, _: &Completion, _: Option<&str>) -> Result<(), Error> {
        self.publishable().await
    }

    async fn complete(
        &self,
        publication: CompletionPublication<'_>,
    ) -> Result<PublishOutcome, Error> {
        self.publishable().await?;
        let mut state = self.state();
        let identity = publication.completion.identity();
        if let Some((_, existing)) = state.completions.get(&identity)
            && existing.sequence != publication.replaces
        {
            return Ok(PublishOutcome::Already(Box::new(existing.clone())));
        }
        state.sequence += 1;
        let existing = ExistingCompletion {
            completion: Some(publication.completion.clone()),
            fingerprint: Some(publication.fingerprint.to_owned()),
            message: publication.message.map(str::to_owned),
            published: self.clock.now(),
            sequence: state.sequence,
        };
        state
            .completions
            .insert(identity, (publication.completion.clone(), existing));
        let count = state.completions.len();
        drop(state);
        self.shared.ended.send_replace(count);
        Ok(PublishOutcome::First)
    }

    async fn completion(&self, identity: &Identity) -> Result<Option<ExistingCompletion>, Error> {
        let state = self.state();
        let found = state.completions.get(identity);
        Ok(found.map(|(_, existing)| existing.clone()))
    }

    async fn record_attempts(
        &self,
        identity: &Identity,
        record: &AttemptRecord,
    ) -> Result<(), Error> {
        let attempts = &mut self.state().attempts;
        attempts.insert(identity.clone(), record.clone());
        Ok(())
    }

    async fn recorded_attempts(&self, identity: &Identity) -> Result<Option<AttemptRecord>, Error> {
        Ok(self.state().attempts.get(identity).cloned())
    }

    async fn forget_attempts(&self, identity: &Identity) -> Result<(), Error> {
        self.state().attempts.remove(identity);
        Ok(())
    }

    async fn copy(
        &self,
        subjects: BTreeSet<String>,
        completion: &Completion,
        _: Option<&str>,
    ) -> Result<(), Error> {
        let completion =
            serde_json::to_vec(completion).map_err(|error| Error(error.to_string()))?;
        let completion = Bytes::from(completion);
        let copies = subjects
            .into_iter()
            .map(|subject| (subject, completion.clone()));
        self.state().copies.extend(copies);
        Ok(())
    }

    /// Returns no size: every message in this queue holds its job itself.
    async fn object_size(&self, _: &str) -> Result<Option<usize>, Error> {
        Ok(None)
    }

    async fn object(&self, _: &str) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }

    async fn drop_object(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn publish_dead_letter(&self, letter: DeadLetter) -> Result<(), Error> {
        self.state().dead.push(letter);
        Ok(())
    }

    async fn ack(&self, receipt: DeliveryReceipt) -> Result<(), Error> {
        let mut state = self.state();
        if state.held.remove(&receipt.0).is_some() {
            state.acked += 1;
        }
        Ok(())
    }
}
