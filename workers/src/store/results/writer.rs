//! Group commit: one thread writes, and the records that arrive while it syncs form the next group.
//!
//! # Why
//!
//! A result must be on disk before its job is acked. One sync for each result would allow some hundred results a
//! second on a common disk. One sync for a group costs the same.
//!
//! # How
//!
//! Tasks send their records to a channel and wait. The thread takes one record and adds all others in the channel, up
//! to [`GROUP`] records. It writes them as one batch for each day's database, with one sync each. Then it reports the
//! result to all tasks of the batch. There is no deliberate delay: the load determines the size of a group, and a
//! single record is written at once.
//!
//! # Invariants
//!
//! - A task gets success only after the sync of the batch that holds its record.
//! - The records of one batch are stored together or not at all.
//! - If the thread has ended, the `done` of a record is dropped. Its task then returns an error.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::sync::oneshot;
use tracing::Span;

use crate::store::results::Error;
use crate::store::results::day::StoreDay;

/// The most records of one group.
const GROUP: usize = 512;

/// The value of one write.
pub(crate) enum StoredValue {
    Record(Vec<u8>),
    /// The name of the file that holds the record.
    InFile(String),
    /// The cache entry of a request, which names the job whose answer serves it.
    Kept(Vec<u8>),
}

pub(crate) struct StoreWrite {
    pub(crate) day: Arc<StoreDay>,
    pub(crate) key: Vec<u8>,
    pub(crate) value: StoredValue,
    /// The span of the job whose record it is.
    pub(crate) span: Span,
    pub(crate) done: oneshot::Sender<Result<(), Error>>,
}

#[derive(Debug)]
pub(crate) struct StoreWriter {
    sender: Option<mpsc::Sender<StoreWrite>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl StoreWriter {
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("results".to_owned())
            .spawn(move || run(&receiver))?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
        })
    }

    /// Sends a write to the thread. If the thread has ended, `done` is dropped, which the waiting task notices.
    pub(crate) fn send(&self, write: StoreWrite) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(write);
        }
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(receiver: &mpsc::Receiver<StoreWrite>) {
    while let Ok(first) = receiver.recv() {
        let mut group = vec![first];
        while group.len() < GROUP {
            let Ok(next) = receiver.try_recv() else { break };
            group.push(next);
        }
        while !group.is_empty() {
            let day = Arc::clone(&group[0].day);
            let (of_day, rest): (Vec<_>, Vec<_>) = group
                .into_iter()
                .partition(|write| Arc::ptr_eq(&write.day, &day));
            group = rest;
            commit(&day, of_day);
        }
    }
}

fn commit(day: &StoreDay, group: Vec<StoreWrite>) {
    let mut batch = sled::Batch::default();
    group
        .iter()
        .for_each(|write| put(&mut batch, &write.key, &write.value));
    let spans = group.iter().map(|write| &write.span);
    let result = day.commit(batch, spans);
    for write in group {
        let result = match &result {
            Ok(()) => Ok(()),
            Err(error) => Err(error.again()),
        };
        // A task that has ended does not wait for its write any more.
        let _ = write.done.send(result);
    }
}

fn put(batch: &mut sled::Batch, key: &[u8], value: &StoredValue) {
    match value {
        StoredValue::Record(record) => StoreDay::put(batch, key, record),
        StoredValue::InFile(name) => StoreDay::put_name(batch, key, name),
        StoredValue::Kept(record) => StoreDay::put_kept(batch, key, record),
    }
}

/// Commits one value by itself.
pub(crate) fn write_one(day: &StoreDay, key: &[u8], value: &StoredValue) -> Result<(), Error> {
    let mut batch = sled::Batch::default();
    put(&mut batch, key, value);
    day.commit(batch, [&Span::current()])
}
