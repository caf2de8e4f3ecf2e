//! The way to the dispatcher, which alone has the channel's other end.

use tokio::sync::{mpsc, oneshot};

use crate::job::admitted_job::AdmittedJob;
use crate::queue::QueueReading;

/// What the dispatcher is told.
#[derive(Debug)]
pub(crate) enum DispatchEvent {
    /// A job, for its first or its next call.
    Job(Box<AdmittedJob>),
    /// What was read there and was never called is to be given back; it is answered when that is done.
    GiveBack(QueueReading, oneshot::Sender<()>),
}

/// What the dispatcher receives.
pub(crate) type Inbox = mpsc::UnboundedReceiver<DispatchEvent>;

/// Tells the dispatcher.
#[derive(Debug, Clone)]
pub(crate) struct DispatcherHandle {
    events: mpsc::UnboundedSender<DispatchEvent>,
}

impl DispatcherHandle {
    /// A handle, and what the dispatcher receives from it.
    pub(crate) fn new() -> (Self, Inbox) {
        let (events, inbox) = mpsc::unbounded_channel();
        (Self { events }, inbox)
    }

    /// Takes a job in, for its first or its next call.
    ///
    /// # Errors
    /// With the job, when the process ends and there is no dispatcher any more: its delivery comes again.
    pub(crate) fn take(&self, admitted: AdmittedJob) -> Result<(), Box<AdmittedJob>> {
        match self.events.send(DispatchEvent::Job(Box::new(admitted))) {
            Err(mpsc::error::SendError(DispatchEvent::Job(admitted))) => Err(admitted),
            _ => Ok(()),
        }
    }

    /// Gives back what was read there and was never called; false if there is no dispatcher any more.
    pub(crate) async fn give_back(&self, reading: QueueReading) -> bool {
        let (done, given_back) = oneshot::channel();
        let sent = self.events.send(DispatchEvent::GiveBack(reading, done));
        sent.is_ok() && given_back.await.is_ok()
    }
}
