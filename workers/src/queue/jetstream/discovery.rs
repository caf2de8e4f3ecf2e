//! Finds what there is to read. The server announces the subject of each new job. Its list of subjects is read at the
//! start and in intervals, because announcements can be missed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tracing::warn;

use super::{JetStreamQueue, unavailable};
use crate::queue::{ActiveReadings, Error, QueueReading};

/// Time between two reads of the list of subjects.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(15);
/// Limit of subjects whose readings are cached.
const MAX_KNOWN_SUBJECTS: usize = 10_000;

pub(super) async fn start(
    queue: JetStreamQueue,
    readings: Arc<ActiveReadings>,
) -> Result<mpsc::UnboundedReceiver<QueueReading>, Error> {
    let (client, names) = (&queue.client, &queue.names);
    let jobs = client.subscribe(names.all_seen()).await;
    let jobs = jobs.map_err(unavailable)?;
    let due = client.subscribe(names.all_seen_due()).await;
    let due = due.map_err(unavailable)?;
    let marked = |due: bool| move |message: Message| (message, due);
    let announced = stream::select(jobs.map(marked(false)), due.map(marked(true)));
    let mut announced =
        announced.filter(|(message, _)| std::future::ready(is_announcement(message)));
    let (sender, found) = mpsc::unbounded_channel();
    let mut finder = QueueFinder {
        queue,
        known: HashMap::new(),
        readings,
        sender,
    };
    finder.read_all().await?;
    finder.read_consumers().await?;
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(DISCOVERY_INTERVAL);
        while !finder.sender.is_closed() {
            tokio::select! {
                message = announced.next() => match message {
                    Some((message, due)) => finder.see(&message.subject, due),
                    None => break,
                },
                _ = interval.tick() => if let Err(error) = finder.read_all().await {
                    warn!(%error, "the subjects of waiting jobs cannot be read");
                },
            }
        }
    });
    Ok(found)
}

/// Returns true if the server republished a stored message. The acknowledgement of a publish, which its publisher can aim
/// at any subject, has no headers.
fn is_announcement(message: &Message) -> bool {
    let headers = message.headers.as_ref();
    headers.is_some_and(|headers| headers.get("Nats-Stream").is_some())
}

struct QueueFinder {
    queue: JetStreamQueue,
    /// The reading of each subject that was seen; `None` for a subject that cannot be served. Nearly every announcement
    /// is of a subject that was seen before.
    known: HashMap<String, Option<QueueReading>>,
    readings: Arc<ActiveReadings>,
    sender: mpsc::UnboundedSender<QueueReading>,
}

impl QueueFinder {
    async fn read_all(&mut self) -> Result<(), Error> {
        let names = self.queue.names.clone();
        for (stream, filter, due) in [
            (names.jobs_stream(), names.all_jobs(), false),
            (names.scheduled_stream(), names.all_due(), true),
        ] {
            let stream = self.queue.stream(stream).await?;
            let listed = stream.info_with_subjects(filter).await;
            let mut listed = listed.map_err(unavailable)?;
            while let Some(entry) = listed.next().await {
                let (subject, _) = entry.map_err(unavailable)?;
                self.see(&subject, due);
            }
        }
        Ok(())
    }

    /// Finds the flows that have a consumer because they were read before. Those that are idle are closed later, which
    /// deletes their consumers.
    async fn read_consumers(&mut self) -> Result<(), Error> {
        let names = self.queue.names.clone();
        for (stream, due) in [
            (names.jobs_stream(), false),
            (names.scheduled_stream(), true),
        ] {
            let stream = self.queue.stream(stream).await?;
            let mut consumers = stream.consumers();
            while let Some(consumer) = consumers.next().await {
                let config = consumer.map_err(unavailable)?.config;
                let filter = config.filter_subjects.into_iter().next();
                self.see(&filter.unwrap_or(config.filter_subject), due);
            }
        }
        Ok(())
    }

    /// Notes that `subject` has jobs. The server accepts a publish to a literal `*`. No consumer could filter such a
    /// subject without taking the jobs of others, so its messages stay where they are.
    fn see(&mut self, subject: &str, due: bool) {
        if !self.known.contains_key(subject) {
            let flow = self.queue.names.flow_of(subject);
            if flow.is_none() {
                warn!(
                    subject,
                    "a job's subject holds a wildcard; its messages are not served, delete them"
                );
            }
            if self.known.len() == MAX_KNOWN_SUBJECTS {
                self.known.clear();
            }
            self.known.insert(
                subject.to_owned(),
                flow.map(|flow| QueueReading { flow, due }),
            );
        }
        let Some(reading) = &self.known[subject] else {
            return;
        };
        if self.readings.see(reading) {
            // The receiver is gone only when the process ends.
            let _ = self.sender.send(reading.clone());
        }
    }
}
