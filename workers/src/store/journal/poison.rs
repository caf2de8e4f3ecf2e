//! Finds poison pills: messages whose own bytes end the process.
//!
//! # Why
//!
//! A message that crashes its reader is redelivered after the restart and crashes the next process, for ever. No
//! other message makes progress any more. The message that is at fault must be found among all that were in flight.
//!
//! # How
//!
//! Only the steps that depend on a job's own bytes are marked: reading it, estimating its cost, and encoding and
//! decoding its call. The mark is a slot in a file: one byte for the step, one for the length of the message's name,
//! and the name. It is written before the step and erased after it. Marks are not synced, because they have to
//! outlive the process, not the machine.
//!
//! A process that starts reads the marks that the process before left, and counts an end for each of their messages.
//! A message with an end is suspected. It is processed while no other message is, so that its neighbours are not
//! blamed. A message with [`MOST`] ends at one step is set aside.
//!
//! # Invariants
//!
//! - While a call is in flight, its message is not marked. A process that is killed then does not blame the message.
//! - A panic counts as an end of the process.
//! - The ends of a finished message are deleted.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

/// The file of the marks of jobs that are processed.
const FILE: &str = "working";
/// The size of a slot in that file, in bytes.
const SLOT: usize = 128;
/// The file of the number of ends of the process for each message.
const ENDS: &str = "ends.json";
/// The file that replaces [`ENDS`] at a rewrite.
const ENDS_ANEW: &str = "ends.json.new";
/// The number of ends at one step at which a job is set aside.
const MOST: u32 = 2;

/// A step that processes a job's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkStep {
    /// The message is read.
    Reading,
    /// The job's cost is estimated, its call is encoded, or its answer is decoded.
    Calling,
}

/// The jobs that are processed, and those at which the process ended.
#[derive(Debug)]
pub(crate) struct PoisonPills {
    dir: PathBuf,
    file: File,
    free: Mutex<PoisonSlots>,
    ends: Mutex<HashMap<String, Ends>>,
    alone: RwLock<()>,
}

#[derive(Debug, Default)]
struct PoisonSlots {
    made: u64,
    free: Vec<u64>,
}

/// The number of ends of the process at each step of one message.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Ends {
    reading: u32,
    calling: u32,
}

impl Ends {
    fn of(&mut self, work: WorkStep) -> &mut u32 {
        match work {
            WorkStep::Reading => &mut self.reading,
            WorkStep::Calling => &mut self.calling,
        }
    }
}

/// A mark in the file. Dropping it erases the mark.
struct PoisonMark<'a> {
    pills: &'a PoisonPills,
    slot: u64,
    work: WorkStep,
    message: &'a str,
}

/// The right to process messages: alone for a suspect, shared with others otherwise. It ends when this is dropped.
enum PoisonTurn<'a> {
    Alone { _guard: RwLockWriteGuard<'a, ()> },
    Shared { _guard: RwLockReadGuard<'a, ()> },
}

impl PoisonPills {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut ends = match std::fs::read(dir.join(ENDS)) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(error),
        };
        let marked = match std::fs::read(dir.join(FILE)) {
            Ok(bytes) => marks(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        for (work, message) in &marked {
            warn!(
                message,
                ?work,
                "the process before this one ended while it worked on this message"
            );
            let ends: &mut Ends = ends.entry(message.clone()).or_default();
            *ends.of(*work) += 1;
        }
        if !marked.is_empty() {
            keep(dir, &ends)?;
        }
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join(FILE))?;
        let (free, alone) = (Mutex::default(), RwLock::new(()));
        Ok(Self {
            dir: dir.to_owned(),
            file,
            free,
            ends: Mutex::new(ends),
            alone,
        })
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<String, Ends>> {
        self.ends.lock()
    }

    /// Returns the step at which this message ended the process too often; the message is set aside then.
    pub(crate) fn poisoned_at(&self, message: &str) -> Option<WorkStep> {
        let mut ends = *self.ends().get(message)?;
        [WorkStep::Reading, WorkStep::Calling]
            .into_iter()
            .find(|work| *ends.of(*work) >= MOST)
    }

    /// Runs `act`, which processes a message's bytes. A panic counts as an end of the process.
    pub(crate) fn guarded<T>(&self, work: WorkStep, message: &str, act: impl FnOnce() -> T) -> T {
        self.guarded_all(work, [message], act)
    }

    /// Runs `act`, which processes the bytes of several messages at once.
    pub(crate) fn guarded_all<'a, T>(
        &'a self,
        work: WorkStep,
        messages: impl IntoIterator<Item = &'a str>,
        act: impl FnOnce() -> T,
    ) -> T {
        let messages: Vec<_> = messages.into_iter().collect();
        let _turn = self.take_turn(&messages);
        let _marks: Vec<_> = messages
            .into_iter()
            .map(|message| self.mark(work, message))
            .collect();
        act()
    }

    /// Returns true if the process ended at this message before.
    pub(crate) fn is_suspect(&self, message: &str) -> bool {
        self.ends().contains_key(message)
    }

    fn take_turn(&self, messages: &[&str]) -> PoisonTurn<'_> {
        // The check precedes the wait for the turn, because the holder of the turn may check too.
        match messages.iter().any(|message| self.is_suspect(message)) {
            true => PoisonTurn::Alone {
                _guard: self.alone.write(),
            },
            false => PoisonTurn::Shared {
                _guard: self.alone.read(),
            },
        }
    }

    fn mark<'a>(&'a self, work: WorkStep, message: &'a str) -> PoisonMark<'a> {
        let slot = {
            let mut slots = self.free.lock();
            slots.free.pop().unwrap_or_else(|| {
                slots.made += 1;
                slots.made - 1
            })
        };
        let name = &message.as_bytes()[..message.len().min(SLOT - 2)];
        let kind = match work {
            WorkStep::Reading => b'r',
            WorkStep::Calling => b'c',
        };
        let mut bytes = vec![kind, u8::try_from(name.len()).unwrap_or_default()];
        bytes.extend_from_slice(name);
        self.write(slot, &bytes);
        PoisonMark {
            pills: self,
            slot,
            work,
            message,
        }
    }

    fn write(&self, slot: u64, bytes: &[u8]) {
        if let Err(error) = self.file.write_all_at(bytes, slot * SLOT as u64) {
            warn!(%error, "it cannot be marked which job is worked on");
        }
    }

    /// Deletes the ends of a finished message.
    pub(crate) fn forget(&self, message: &str) {
        let mut ends = self.ends();
        if ends.remove(message).is_some() {
            self.keep(&ends);
        }
    }

    fn keep(&self, ends: &HashMap<String, Ends>) {
        if let Err(error) = keep(&self.dir, ends) {
            warn!(%error, "it cannot be kept over which jobs the process ended");
        }
    }
}

impl Drop for PoisonMark<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(message = self.message, work = ?self.work, "a panic while this message was worked on");
            let mut ends = self.pills.ends();
            let of_message = ends.entry(self.message.to_owned()).or_default();
            *of_message.of(self.work) += 1;
            self.pills.keep(&ends);
        }
        self.pills.write(self.slot, &[0]);
        let mut slots = self.pills.free.lock();
        slots.free.push(self.slot);
    }
}

/// Parses the marks of a file.
fn marks(bytes: &[u8]) -> Vec<(WorkStep, String)> {
    bytes.chunks(SLOT).filter_map(mark).collect()
}

/// Parses the mark of a slot, if it holds one.
fn mark(slot: &[u8]) -> Option<(WorkStep, String)> {
    let [kind, length, name @ ..] = slot else {
        return None;
    };
    let work = match kind {
        b'r' => WorkStep::Reading,
        b'c' => WorkStep::Calling,
        _ => return None,
    };
    let name = name.get(..usize::from(*length))?;
    Some((work, String::from_utf8_lossy(name).into_owned()))
}

fn keep(dir: &Path, ends: &HashMap<String, Ends>) -> io::Result<()> {
    std::fs::write(dir.join(ENDS_ANEW), serde_json::to_vec(ends)?)?;
    std::fs::rename(dir.join(ENDS_ANEW), dir.join(ENDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens the marks again after a process that ended amid `worked`.
    fn end_amid(dir: &Path, worked: &[(WorkStep, &'static str)]) -> PoisonPills {
        let pills = PoisonPills::open(dir).expect("opened");
        // Each mark stays in the file, as at an end of the process.
        worked.iter().for_each(|(work, message)| {
            let mark = pills.mark(*work, message);
            std::mem::forget(mark);
        });
        drop(pills);
        PoisonPills::open(dir).expect("opened")
    }

    #[test]
    fn a_message_over_which_the_process_ended_twice_is_a_poison_pill() {
        let dir = tempfile::tempdir().expect("a directory");
        let both = [(WorkStep::Calling, "bad"), (WorkStep::Calling, "beside it")];
        let pills = end_amid(dir.path(), &both);
        assert_eq!(pills.poisoned_at("bad"), None);
        let pills = end_amid(dir.path(), &both[..1]);
        assert_eq!(pills.poisoned_at("bad"), Some(WorkStep::Calling));
        assert_eq!(pills.poisoned_at("beside it"), None);
        pills.forget("bad");
        drop(pills);
        assert_eq!(
            PoisonPills::open(dir.path())
                .expect("opened")
                .poisoned_at("bad"),
            None
        );
    }

    #[test]
    fn work_that_is_done_blames_nobody_and_its_place_is_used_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let pills = PoisonPills::open(dir.path()).expect("opened");
        for _ in 0..100 {
            assert_eq!(pills.guarded(WorkStep::Reading, "good", || 7), 7);
        }
        drop(pills);
        assert!(
            std::fs::metadata(dir.path().join(FILE))
                .expect("there")
                .len()
                <= SLOT as u64
        );
        let pills = PoisonPills::open(dir.path()).expect("opened");
        assert!(pills.ends().is_empty());
    }

    #[test]
    fn a_panic_counts_and_the_next_message_is_worked_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let pills = PoisonPills::open(dir.path()).expect("opened");
        for _ in 0..MOST {
            let panics = std::panic::AssertUnwindSafe(|| {
                pills.guarded(WorkStep::Reading, "bad", || panic!("on purpose"));
            });
            assert!(std::panic::catch_unwind(panics).is_err());
        }
        assert_eq!(pills.poisoned_at("bad"), Some(WorkStep::Reading));
        assert_eq!(pills.guarded(WorkStep::Reading, "good", || 7), 7);
        drop(pills);
        assert_eq!(
            PoisonPills::open(dir.path())
                .expect("opened")
                .poisoned_at("bad"),
            Some(WorkStep::Reading)
        );
    }

    #[test]
    fn a_suspect_is_worked_on_while_no_other_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let pills = end_amid(dir.path(), &[(WorkStep::Calling, "suspect")]);
        pills.guarded(WorkStep::Calling, "suspect", || {
            assert!(pills.alone.try_read().is_none())
        });
        pills.guarded(WorkStep::Calling, "other", || {
            assert!(pills.alone.try_read().is_some())
        });
    }

    #[test]
    fn work_beside_a_suspect_may_ask_about_suspects() {
        use std::sync::{Arc, mpsc};

        let dir = tempfile::tempdir().expect("a directory");
        let pills = Arc::new(end_amid(dir.path(), &[(WorkStep::Calling, "suspect")]));
        let ((begin, begun), (end, ended)) = (mpsc::channel(), mpsc::channel());
        let beside = Arc::clone(&pills);
        std::thread::spawn(move || {
            beside.guarded(WorkStep::Reading, "other", || {
                begin.send(()).expect("somebody waits");
                // The other thread waits for the suspect's turn meanwhile.
                (0..10_000).for_each(|_| {
                    beside.poisoned_at("other");
                    std::thread::yield_now();
                });
            });
        });
        std::thread::spawn(move || {
            begun.recv().expect("it begins");
            pills.guarded(WorkStep::Calling, "suspect", || ());
            end.send(()).expect("somebody waits");
        });
        ended
            .recv_timeout(std::time::Duration::from_secs(30))
            .expect("neither waits for ever");
    }
}
