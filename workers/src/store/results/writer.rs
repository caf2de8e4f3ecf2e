//! Group commit: one thread writes, and whatever has gathered while it synced becomes the next group.
//!
//! # Why
//!
//! A result must be on disk before its job is acked. A sync for each result would allow some hundred results a second on a
//! common disk. A sync for a group costs the same.
//!
//! # How
//!
//! Tasks hand their records to a channel and wait. The thread takes one record, adds what else is in the channel, up to
//! [`GROUP`] records, writes them as one batch for each day's database, and syncs once. All waiting tasks are told together.
//! There is no delay on purpose: a group is as large as the load makes it, and a single record is written at once.
//!
//! # Invariants
//!
//! - A task is told of success only after the sync of the batch that holds its record.
//! - Records of one batch are there together or not at all.
//! - If the thread is gone, the sender's `done` is dropped: the task then knows that nothing was written.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::sync::oneshot;

use crate::store::results::Error;
use crate::store::results::day::StoreDay;

/// The most records of one group.
const GROUP: usize = 512;

/// What is written of a record.
pub(crate) enum StoredValue {
    Record(Vec<u8>),
    /// The name of the file that holds it.
    InFile(String),
    /// Whose record answers the request of this key.
    Kept(Vec<u8>),
}

pub(crate) struct StoreWrite {
    pub(crate) day: Arc<StoreDay>,
    pub(crate) key: Vec<u8>,
    pub(crate) value: StoredValue,
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

    /// Hands a record over; if the thread is gone, `done` is dropped, which tells the sender.
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
    let result = day.commit(batch);
    for write in group {
        let result = result.as_ref().map(|&()| ()).map_err(|error| error.again());
        // A job whose task has ended does not wait for its write any more.
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
    day.commit(batch)
}
