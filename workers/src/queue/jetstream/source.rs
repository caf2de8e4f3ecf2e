//! Reads one flow, by pull requests as large as the open credit, on one long-lived inbox.
//!
//! # Why
//!
//! A server ends the connection of a client that lets too many bytes wait. A flow's large messages must not take more memory
//! than there is, either.
//!
//! # How
//!
//! A request is for as many messages as are wanted, and for [`SMALL_PULL`] bytes. The server ends it before a message that
//! does not fit, and reports how many bytes are left. If those are enough for a small message, the next one is large: then
//! the flow reserves memory and asks again, for bytes enough for any message, and returns the memory at the end of that
//! request. Each message takes its own memory as soon as it is here.
//!
//! # Invariants
//!
//! - A request for large messages is the only one of its flow, and there is memory for it.
//! - Small messages wait for no memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{JetStreamQueue, text_of, unavailable};
use crate::memory_budget::{COPIES, LARGE_JOB, MemoryBudget, MemoryGuard};
use crate::queue::{Credit, Delivery, DeliveryReceipt, DeliverySource, Error, QueueReading};

/// Time for which the server holds a pull request that it cannot fill.
const EXPIRES: Duration = Duration::from_secs(30);
/// The same for large messages: it keeps memory from other flows.
const LARGE_EXPIRES: Duration = Duration::from_secs(1);
/// Bytes of a request, as long as no large message is next.
const SMALL_PULL: usize = 1 << 20;
/// Bytes that a message may have beside its payload: its subjects.
const SUBJECTS_ROOM: usize = 64 << 10;
/// Time between two heartbeats of the server while it holds a pull request.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Time without any message of the server after which a pull request counts as lost.
const MAX_SILENCE: Duration = Duration::from_secs(11);
/// Time between two checks for a lost connection, which loses all requests.
const CONNECTION_CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn start(
    queue: JetStreamQueue,
    reading: QueueReading,
    credit: Credit,
    memory: Arc<MemoryBudget>,
) -> DeliverySource {
    let (sender, deliveries) = mpsc::unbounded_channel();
    let connects = connects_of(&queue.client);
    let inbox = String::new();
    let feed = DeliveryFeed {
        queue,
        reading,
        inbox,
        credit,
        memory,
        size: PullSize::Small,
        reserving: None,
        reserved: None,
        requested: 0,
        last_heard: Instant::now(),
        connects,
    };
    let feed = tokio::spawn(feed.run(sender));
    DeliverySource { deliveries, feed }
}

/// Returns the number of connections that the client has made.
fn connects_of(client: &Client) -> u64 {
    let statistics = client.statistics();
    statistics.connects.load(Ordering::Relaxed)
}

async fn inbox(queue: &JetStreamQueue) -> Result<(String, Subscriber), Error> {
    let inbox = queue.client.new_inbox();
    let subscriber = queue.client.subscribe(inbox.clone());
    let subscriber = subscriber.await.map_err(unavailable)?;
    Ok((inbox, subscriber))
}

/// The bytes that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PullSize {
    /// Small messages, up to [`SMALL_PULL`].
    Small,
    /// As many as the largest message that the server takes.
    Large,
    /// One message of any size: it came while the server took larger ones.
    Single,
}

struct DeliveryFeed {
    queue: JetStreamQueue,
    reading: QueueReading,
    inbox: String,
    credit: Credit,
    memory: Arc<MemoryBudget>,
    /// The next request.
    size: PullSize,
    /// Receives the memory for the next request, if it needs some.
    reserving: Option<oneshot::Receiver<MemoryGuard>>,
    /// The memory of a request for large messages.
    reserved: Option<MemoryGuard>,
    /// The part of the open credit for which there are pull requests at the server.
    requested: usize,
    /// The time of the server's last message, or of the last pull request.
    last_heard: Instant,
    /// The number of connections that the client had made when the requests were sent.
    connects: u64,
}

impl DeliveryFeed {
    async fn run(mut self, deliveries: mpsc::UnboundedSender<Delivery>) -> Credit {
        let mut subscriber = tokio::select! {
            subscriber = self.listen() => subscriber,
            () = deliveries.closed() => return self.credit,
        };
        let mut check = tokio::time::interval(CONNECTION_CHECK_INTERVAL);
        loop {
            if self.size == PullSize::Small {
                self.reserving = None;
                self.pull_small().await;
            } else if self.requested == 0 && self.credit.open > 0 && self.reserving.is_none() {
                let bytes = self.large_pull().saturating_mul(COPIES);
                self.reserving = Some(self.memory.reserve(&self.reading.flow, bytes));
            }
            tokio::select! {
                () = deliveries.closed() => break,
                grows = self.credit.grows() => if !grows { break },
                memory = reserved(&mut self.reserving) => {
                    self.reserved = Some(memory);
                    self.pull_large().await;
                }
                message = subscriber.next() => match message {
                    Some(message) => self.take(message, &deliveries).await,
                    None => return self.credit,
                },
                _ = check.tick() => if self.has_lost_requests() {
                    // The requests on the old inbox count as lost; what it still gets is given back.
                    let fresh = self.listen().await;
                    let old = std::mem::replace(&mut subscriber, fresh);
                    (self.requested, self.size) = (0, PullSize::Small);
                    self.reserved = None;
                    self.give_back_rest(old).await;
                },
            }
        }
        self.give_back_rest(subscriber).await;
        self.credit
    }

    /// Subscribes to a new inbox, and retries until that succeeds.
    async fn listen(&mut self) -> Subscriber {
        loop {
            match inbox(&self.queue).await {
                Ok((inbox, subscriber)) => {
                    self.inbox = inbox;
                    return subscriber;
                }
                Err(error) => warn!(queue = %self.reading.flow, %error, "cannot listen for jobs"),
            }
            tokio::time::sleep(CONNECTION_CHECK_INTERVAL).await;
        }
    }

    /// Returns true if requests are lost: with a connection, or because the server is silent.
    fn has_lost_requests(&mut self) -> bool {
        let connects = connects_of(&self.queue.client);
        let silent = self.requested > 0 && self.last_heard.elapsed() > MAX_SILENCE;
        let lost = std::mem::replace(&mut self.connects, connects) != connects || silent;
        if lost {
            debug!(queue = %self.reading.flow, "requests for jobs are lost, asking again");
        }
        lost
    }

    async fn give_back(&self, message: Message) {
        if let (None, Some(reply)) = (message.status, message.reply) {
            self.queue.nack(reply).await;
        }
    }

    /// Nacks what comes on an inbox that is not read any more. It is delivered again now, not after the ack wait.
    async fn give_back_rest(&self, mut subscriber: Subscriber) {
        let rest = async {
            // Messages on their way still come before the inbox closes; without a connection none do.
            let _ = subscriber.drain().await;
            while let Some(message) = subscriber.next().await {
                self.give_back(message).await;
            }
        };
        let _ = tokio::time::timeout(CONNECTION_CHECK_INTERVAL, rest).await;
    }

    /// Bytes of a request that any message fits.
    fn large_pull(&self) -> usize {
        self.queue.client.max_payload() + SUBJECTS_ROOM
    }

    /// Asks for small messages, once half of those that are wanted are not requested.
    async fn pull_small(&mut self) {
        let wanted = self.credit.open;
        if self.requested * 2 > wanted || wanted == self.requested {
            return;
        }
        let batch = wanted - self.requested;
        let (expires, heartbeat) = (EXPIRES.as_nanos(), HEARTBEAT.as_nanos());
        let request = format!(
            r#"{{"batch":{batch},"expires":{expires},"idle_heartbeat":{heartbeat},"max_bytes":{SMALL_PULL}}}"#
        );
        self.pull(batch, request).await;
    }

    /// Asks for large messages, for which memory is reserved.
    async fn pull_large(&mut self) {
        let expires = LARGE_EXPIRES.as_nanos();
        let (batch, max_bytes) = match self.size {
            PullSize::Single => (1, 0),
            PullSize::Small | PullSize::Large => (self.credit.open, self.large_pull()),
        };
        let request = format!(r#"{{"batch":{batch},"expires":{expires},"max_bytes":{max_bytes}}}"#);
        self.pull(batch, request).await;
    }

    async fn pull(&mut self, batch: usize, request: String) {
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            self.queue.stream_of(&self.reading),
            self.queue.consumer_name(&self.reading)
        );
        let inbox = self.inbox.clone();
        let client = &self.queue.client;
        let sent = client.publish_with_reply(subject, inbox, request.into());
        let sent = sent.await;
        if let Err(error) = sent {
            warn!(queue = %self.reading.flow, %error, "cannot ask for jobs");
        }
        self.requested += batch;
        self.last_heard = Instant::now();
    }

    async fn take(&mut self, message: Message, deliveries: &mpsc::UnboundedSender<Delivery>) {
        self.last_heard = Instant::now();
        let Some(status) = message.status else {
            if self.credit.open == 0 {
                self.end_of(1);
                self.give_back(message).await;
                return;
            }
            let due = self.reading.due;
            let Some(delivery) = self.queue.delivery(message, due) else {
                return self.end_of(1);
            };
            self.credit.open -= 1;
            if let Some(reserved) = &mut self.reserved {
                reserved.pass_on(delivery.payload.len().saturating_mul(COPIES));
            }
            self.end_of(1);
            if let Err(mpsc::error::SendError(delivery)) = deliveries.send(delivery) {
                // The turn ended just now. The credit passes to the next turn, which still wants the delivery.
                self.credit.open += 1;
                let DeliveryReceipt(reply) = delivery.receipt;
                self.queue.nack(reply).await;
            }
            return;
        };
        if status == StatusCode::IDLE_HEARTBEAT {
            return;
        }
        let headers = message.headers.as_ref();
        let number = |name| -> Option<usize> { text_of(headers?, name)?.parse().ok() };
        let description = message.description.as_deref().unwrap_or_default();
        let is_deleted = description.contains("Deleted");
        let bytes_left = number("Nats-Pending-Bytes").unwrap_or_default();
        let next_size = self.next_size(description.contains("Exceeds MaxBytes"), bytes_left);
        self.end_of(number("Nats-Pending-Messages").unwrap_or(self.requested));
        self.size = next_size;
        if status == StatusCode::NO_RESPONDERS || is_deleted {
            self.restore().await;
        }
    }

    /// The size of the request after one that has ended. `exceeds` is true if the next message was larger than what was left
    /// of the request's bytes.
    fn next_size(&self, exceeds: bool, bytes_left: usize) -> PullSize {
        match self.size {
            _ if !exceeds => PullSize::Small,
            PullSize::Small if bytes_left < LARGE_JOB => PullSize::Small,
            PullSize::Small => PullSize::Large,
            PullSize::Large if bytes_left == self.large_pull() => PullSize::Single,
            PullSize::Large | PullSize::Single => PullSize::Small,
        }
    }

    /// Counts `messages` as no longer requested: they have come, or their request has ended.
    fn end_of(&mut self, messages: usize) {
        self.requested = self.requested.saturating_sub(messages);
        if self.requested == 0 && self.reserved.take().is_some() {
            self.size = PullSize::Small;
        }
    }

    /// Creates the consumer again after it was deleted or the server lost it.
    async fn restore(&mut self) {
        warn!(queue = %self.reading.flow, "the consumer is gone, making it again");
        let restored = self.queue.consumer(&self.reading);
        match restored.await {
            Ok(()) => self.end_of(self.requested),
            Err(error) => {
                warn!(queue = %self.reading.flow, %error, "the consumer cannot be made");
                // The next attempt waits until the request counts as lost.
                self.requested = self.credit.open;
            }
        }
    }
}

/// Waits for memory, if some is being reserved.
async fn reserved(reserving: &mut Option<oneshot::Receiver<MemoryGuard>>) -> MemoryGuard {
    let Some(receiver) = reserving else {
        return std::future::pending().await;
    };
    let Ok(memory) = receiver.await else {
        return std::future::pending().await;
    };
    *reserving = None;
    memory
}
