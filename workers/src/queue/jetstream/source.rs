//! Reading one flow: pull requests as large as the credit that is open, on one long-lived inbox.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use forebay_schemas::Flow;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{JetStreamQueue, unavailable};
use crate::queue::{Delivery, Error, Source};

/// How long the server holds a pull request that it cannot fill.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it still holds one.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// After this without a word the request is taken to be lost.
const SILENCE: Duration = Duration::from_secs(11);

pub(super) async fn start(queue: JetStreamQueue, flow: Flow) -> Result<Source, Error> {
    let inbox = queue.client.new_inbox();
    let subscriber = queue.client.subscribe(inbox.clone()).await.map_err(unavailable)?;
    let (credit, credits) = mpsc::unbounded_channel();
    let (sender, deliveries) = mpsc::unbounded_channel();
    let feed = Feed { queue, flow, inbox, wanted: 0, asked: 0, heard: Instant::now() };
    tokio::spawn(feed.run(subscriber, credits, sender));
    Ok(Source { credit, deliveries })
}

struct Feed {
    queue: JetStreamQueue,
    flow: Flow,
    inbox: String,
    /// Credit that no delivery has used yet.
    wanted: usize,
    /// Of that, what a pull request at the server stands for.
    asked: usize,
    /// When the server last said something.
    heard: Instant,
}

impl Feed {
    async fn run(
        mut self,
        mut subscriber: Subscriber,
        mut credits: mpsc::UnboundedReceiver<usize>,
        deliveries: mpsc::UnboundedSender<Delivery>,
    ) {
        loop {
            if self.asked * 2 <= self.wanted && self.wanted > self.asked {
                self.pull().await;
            }
            tokio::select! {
                credit = credits.recv() => match credit {
                    Some(more) => {
                        self.wanted += more;
                        while let Ok(more) = credits.try_recv() {
                            self.wanted += more;
                        }
                    }
                    None => break,
                },
                message = subscriber.next() => match message {
                    Some(message) => self.take(message, &deliveries).await,
                    None => return,
                },
                () = tokio::time::sleep_until(self.heard + SILENCE), if self.asked > 0 => {
                    debug!(flow = %self.flow, "no word from the server on a pull request, asking again");
                    self.asked = 0;
                }
            }
        }
        // What comes after this was not wanted any more: give it back now, not after the ack wait.
        let _ = subscriber.unsubscribe().await;
        while let Some(message) = subscriber.next().await {
            if let (None, Some(reply)) = (message.status, message.reply) {
                let _ = self.queue.client.publish(reply, "-NAK".into()).await;
            }
        }
    }

    async fn pull(&mut self) {
        let batch = self.wanted - self.asked;
        let names = &self.queue.names;
        let subject =
            format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", names.jobs_stream(), names.consumer(&self.flow));
        let request = format!(
            r#"{{"batch":{batch},"expires":{},"idle_heartbeat":{}}}"#,
            EXPIRES.as_nanos(),
            HEARTBEAT.as_nanos()
        );
        let sent = self.queue.client.publish_with_reply(subject, self.inbox.clone(), request.into()).await;
        if let Err(error) = sent {
            warn!(flow = %self.flow, %error, "cannot ask for jobs");
        }
        self.asked = self.wanted;
        self.heard = Instant::now();
    }

    async fn take(&mut self, message: Message, deliveries: &mpsc::UnboundedSender<Delivery>) {
        self.heard = Instant::now();
        let Some(status) = message.status else {
            self.asked = self.asked.saturating_sub(1);
            self.wanted = self.wanted.saturating_sub(1);
            if let Some(delivery) = self.queue.delivery(message) {
                // The receiver is gone only when the process ends; the message then comes again.
                let _ = deliveries.send(delivery);
            }
            return;
        };
        if status == StatusCode::IDLE_HEARTBEAT {
            return;
        }
        let left = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages")?.as_str().parse().ok())
            .unwrap_or(self.asked);
        self.asked = self.asked.saturating_sub(left);
        let gone = status == StatusCode::NO_RESPONDERS
            || message.description.as_deref().is_some_and(|text| text.contains("Deleted"));
        if gone {
            self.restore().await;
        }
    }

    /// The consumer is gone: somebody deleted it, or the server lost it. It is made again.
    async fn restore(&mut self) {
        warn!(flow = %self.flow, "the consumer is gone, making it again");
        let names = &self.queue.names;
        let made = self.queue.consumer(&names.consumer(&self.flow), names.job_filters(&self.flow)).await;
        if let Err(error) = made {
            warn!(flow = %self.flow, %error, "the consumer cannot be made");
            // The next try waits until the request counts as lost.
            self.asked = self.wanted;
        } else {
            self.asked = 0;
        }
    }
}
