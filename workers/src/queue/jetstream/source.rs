//! Reads one flow, by pull requests as large as the open credit, on one long-lived inbox.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Client, Message, StatusCode, Subscriber};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{JetStreamQueue, text_of, unavailable};
use crate::queue::{Credit, Delivery, DeliveryReceipt, DeliverySource, Error, QueueReading};

/// Time for which the server holds a pull request that it cannot fill.
const EXPIRES: Duration = Duration::from_secs(30);
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
) -> DeliverySource {
    let (sender, deliveries) = mpsc::unbounded_channel();
    let connects = connects_of(&queue.client);
    let inbox = String::new();
    let feed = DeliveryFeed {
        queue,
        reading,
        inbox,
        credit,
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

struct DeliveryFeed {
    queue: JetStreamQueue,
    reading: QueueReading,
    inbox: String,
    credit: Credit,
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
            let wanted = self.credit.open;
            if self.requested * 2 <= wanted && wanted > self.requested {
                self.pull().await;
            }
            tokio::select! {
                () = deliveries.closed() => break,
                grows = self.credit.grows() => if !grows { break },
                message = subscriber.next() => match message {
                    Some(message) => self.take(message, &deliveries).await,
                    None => return self.credit,
                },
                _ = check.tick() => if self.has_lost_requests() {
                    // The requests on the old inbox count as lost; what it still gets is given back.
                    let fresh = self.listen().await;
                    let old = std::mem::replace(&mut subscriber, fresh);
                    self.requested = 0;
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

    async fn pull(&mut self) {
        let batch = self.credit.open - self.requested;
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            self.queue.stream_of(&self.reading),
            self.queue.consumer_name(&self.reading)
        );
        let request = format!(
            r#"{{"batch":{batch},"expires":{},"idle_heartbeat":{}}}"#,
            EXPIRES.as_nanos(),
            HEARTBEAT.as_nanos()
        );
        let inbox = self.inbox.clone();
        let client = &self.queue.client;
        let sent = client.publish_with_reply(subject, inbox, request.into());
        let sent = sent.await;
        if let Err(error) = sent {
            warn!(queue = %self.reading.flow, %error, "cannot ask for jobs");
        }
        self.requested = self.credit.open;
        self.last_heard = Instant::now();
    }

    async fn take(&mut self, message: Message, deliveries: &mpsc::UnboundedSender<Delivery>) {
        self.last_heard = Instant::now();
        let Some(status) = message.status else {
            self.requested = self.requested.saturating_sub(1);
            if self.credit.open == 0 {
                self.give_back(message).await;
                return;
            }
            let due = self.reading.due;
            let Some(delivery) = self.queue.delivery(message, due) else {
                return;
            };
            self.credit.open -= 1;
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
        let left = headers.and_then(|headers| text_of(headers, "Nats-Pending-Messages"));
        let left = left.and_then(|left| left.parse().ok());
        let left = left.unwrap_or(self.requested);
        self.requested = self.requested.saturating_sub(left);
        let description = message.description.as_deref();
        let is_deleted = description.is_some_and(|text| text.contains("Deleted"));
        if status == StatusCode::NO_RESPONDERS || is_deleted {
            self.restore().await;
        }
    }

    /// Creates the consumer again after it was deleted or the server lost it.
    async fn restore(&mut self) {
        warn!(queue = %self.reading.flow, "the consumer is gone, making it again");
        let restored = self.queue.consumer(&self.reading);
        match restored.await {
            Ok(()) => self.requested = 0,
            Err(error) => {
                warn!(queue = %self.reading.flow, %error, "the consumer cannot be made");
                // The next attempt waits until the request counts as lost.
                self.requested = self.credit.open;
            }
        }
    }
}
