//! Finding flows: the server announces each new job's subject, and its list of subjects is read at
//! the start and now and then, for announcements that were missed.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::Stream;
use forebay_schemas::{Flow, subjects};
use futures::StreamExt;
use tokio::sync::mpsc;
use tracing::warn;

use super::{JetStreamQueue, unavailable};
use crate::queue::{DeadLetter, Error, Queue};

/// How often the list of subjects is read again.
const AGAIN: Duration = Duration::from_secs(15);

pub(super) async fn start(queue: JetStreamQueue) -> Result<mpsc::UnboundedReceiver<Flow>, Error> {
    let mut announced = queue.client.subscribe(queue.names.all_seen()).await.map_err(unavailable)?;
    let (sender, flows) = mpsc::unbounded_channel();
    let mut finder = Finder { queue, subjects: HashSet::new(), flows: HashSet::new(), sender };
    finder.read_all().await?;
    tokio::spawn(async move {
        let mut again = tokio::time::interval(AGAIN);
        loop {
            let open = tokio::select! {
                message = announced.next() => match message {
                    Some(message) => finder.see(&message.subject).await,
                    None => false,
                },
                _ = again.tick() => match finder.read_all().await {
                    Ok(open) => open,
                    Err(error) => {
                        warn!(%error, "the subjects of waiting jobs cannot be read");
                        true
                    }
                }
            };
            if !open {
                break;
            }
        }
    });
    Ok(flows)
}

struct Finder {
    queue: JetStreamQueue,
    /// Subjects that were looked at already: nearly every announcement is one of these.
    subjects: HashSet<String>,
    flows: HashSet<Flow>,
    sender: mpsc::UnboundedSender<Flow>,
}

impl Finder {
    async fn read_all(&mut self) -> Result<bool, Error> {
        let names = self.queue.names.clone();
        for (stream, filter) in
            [(names.jobs_stream(), names.all_jobs()), (names.later_stream(), names.all_due())]
        {
            let stream = self.queue.stream(stream).await?;
            let mut listed = stream.info_with_subjects(filter).await.map_err(unavailable)?;
            while let Some(entry) = listed.next().await {
                let (subject, _) = entry.map_err(unavailable)?;
                if !self.see(&subject).await {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Looks at a subject; false when nobody wants flows any more.
    async fn see(&mut self, subject: &str) -> bool {
        if self.subjects.contains(subject) {
            return !self.sender.is_closed();
        }
        match self.queue.names.flow_of(subject) {
            Some(flow) => {
                self.subjects.insert(subject.to_owned());
                if self.flows.insert(flow.clone()) {
                    return self.sender.send(flow).is_ok();
                }
            }
            None => {
                let jobs = subject.replacen(".seen.", ".jobs.", 1);
                if let Err(error) = bury_all(&self.queue, &jobs).await {
                    warn!(%error, "messages on a subject that names no flow cannot be set aside");
                }
            }
        }
        !self.sender.is_closed()
    }
}

/// Sets aside everything on a subject that the stream takes and that names no flow.
async fn bury_all(queue: &JetStreamQueue, subject: &str) -> Result<(), Error> {
    let stream: Stream<()> = queue.stream(queue.names.jobs_stream()).await?;
    let config = pull::Config {
        name: Some(format!("odd-{}", subjects::hex(&subject.bytes().take(40).collect::<Vec<_>>()))),
        ack_policy: AckPolicy::Explicit,
        filter_subject: subject.to_owned(),
        inactive_threshold: Duration::from_secs(5),
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(unavailable)?;
    let mut messages = consumer.fetch().max_messages(1_000).messages().await.map_err(unavailable)?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(unavailable)?;
        let Some(delivery) = queue.delivery(message.message, false) else { continue };
        warn!(subject, "a message on a subject that names no pool, team and lane is set aside");
        let receipt = delivery.receipt.clone();
        let letter = DeadLetter {
            pool: "unknown".to_owned(),
            team: subjects::DEFAULT_TEAM.to_owned(),
            reason: format!("the subject {subject} names no pool, team and lane"),
            attempts: 0,
            delivery,
        };
        queue.bury(letter).await?;
        queue.ack(receipt).await?;
    }
    Ok(())
}
