//! The channel to the dispatcher, which alone receives from it.

use tokio::sync::{mpsc, oneshot};

use crate::job::admitted_job::AdmittedJob;
use crate::queue::QueueReading;

/// An event for the dispatcher.
#[derive(Debug)]
pub(crate) enum DispatchEvent {
    /// A job, for its first or its next call.
    Job(Box<AdmittedJob>),
    /// Give back the jobs of this reading that were never called, then answer.
    GiveBack(QueueReading, oneshot::Sender<()>),
}

/// The dispatcher's end of the channel.
pub(crate) type Inbox = mpsc::UnboundedReceiver<DispatchEvent>;

/// Sends events to the dispatcher.
#[derive(Debug, Clone)]
pub(crate) struct DispatcherHandle {
    events: mpsc::UnboundedSender<DispatchEvent>,
}

impl DispatcherHandle {
    /// A handle, and the dispatcher's end.
    pub(crate) fn new() -> (Self, Inbox) {
        let (events, inbox) = mpsc::unbounded_channel();
        (Self { events }, inbox)
    }

    /// Hands over a job, for its first or its next call.
    ///
    /// # Errors
    /// With the job, if the dispatcher has ended: the process ends too, and the delivery comes again.
    pub(crate) fn take(&self, admitted: AdmittedJob) -> Result<(), Box<AdmittedJob>> {
        match self.events.send(DispatchEvent::Job(Box::new(admitted))) {
            Err(mpsc::error::SendError(DispatchEvent::Job(admitted))) => Err(admitted),
            _ => Ok(()),
        }
    }

    /// Gives back the jobs of `reading` that were never called. Returns false if the dispatcher has ended.
    pub(crate) async fn give_back(&self, reading: QueueReading) -> bool {
        let (done, given_back) = oneshot::channel();
        let sent = self.events.send(DispatchEvent::GiveBack(reading, done));
        sent.is_ok() && given_back.await.is_ok()
    }
}
