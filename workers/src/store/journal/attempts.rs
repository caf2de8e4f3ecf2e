//! The journal of calls: those in flight, and the earlier calls of the same unfinished jobs.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_schemas::{Attempt, Identity};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::attempt_record::AttemptRecord;

/// The file of the journal.
const FILE: &str = "attempts.jsonl";
/// The file that replaces [`FILE`] at a rewrite.
const NEW_FILE: &str = "attempts.jsonl.new";
/// The size in bytes up to which the file is not rewritten. A rewrite keeps unfinished jobs alone.
const LARGEST: u64 = 16 * 1024 * 1024;

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum JournalLine<'a> {
    /// A call is about to be made. The attempt has the outcome that it gets if no line follows.
    Begun {
        identity: Identity,
        fingerprint: String,
        #[serde(alias = "generation")]
        revision: u32,
        attempt: Cow<'a, Attempt>,
    },
    /// The call ended, and its job is not finished.
    Ended {
        identity: Identity,
        attempt: Cow<'a, Attempt>,
        counted: bool,
    },
    /// The call that was begun is not made.
    Withdrawn { identity: Identity },
    /// The job's result is stored, or its attempts are kept elsewhere.
    Over { identity: Identity },
}

/// The journal of the calls of unfinished jobs.
#[derive(Debug)]
pub(crate) struct AttemptJournal {
    dir: PathBuf,
    inner: Mutex<JournalState>,
}

#[derive(Debug)]
struct JournalState {
    file: Arc<File>,
    size: u64,
    /// The size of the file in bytes after its last rewrite.
    live: u64,
    /// True if the last line of the file may be cut off.
    torn: bool,
    jobs: HashMap<Identity, AttemptRecord>,
}

/// The attempts for a job before its redelivery.
#[derive(Debug)]
pub(crate) struct PriorAttempts {
    /// The attempts. The last one has no answer if it did not end.
    pub(crate) attempts: Vec<Attempt>,
    /// The number of attempts that count, without a last one that did not end.
    pub(crate) counted: u32,
    /// True if the last attempt did not end.
    pub(crate) unknown: bool,
}

impl AttemptJournal {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let jobs = read(&dir.join(FILE))?;
        let (file, size) = rewrite(dir, &jobs)?;
        Ok(Self {
            dir: dir.to_owned(),
            inner: Mutex::new(JournalState {
                file,
                size,
                live: size,
                torn: false,
                jobs,
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, JournalState> {
        self.inner.lock()
    }

    /// Records that a call is about to be made. `attempt` has the outcome that the call gets if its end is never
    /// recorded.
    ///
    /// # Errors
    /// Returns an error if the line cannot be written.
    pub(crate) fn begin(
        &self,
        identity: &Identity,
        (fingerprint, revision): (&str, u32),
        attempt: &Attempt,
    ) -> io::Result<()> {
        let line = JournalLine::Begun {
            identity: identity.clone(),
            fingerprint: fingerprint.to_owned(),
            revision,
            attempt: Cow::Borrowed(attempt),
        };
        let mut inner = self.inner();
        inner.write(&line)?;
        let job = inner.jobs.entry(identity.clone());
        let job = job.or_insert_with(|| AttemptRecord::new(fingerprint, revision));
        job.begin(fingerprint, revision, attempt.clone());
        self.make_small(&mut inner);
        Ok(())
    }

    /// Syncs the file, so that all writes so far survive a power loss.
    ///
    /// # Errors
    /// Returns an error if the file cannot be synced.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let file = Arc::clone(&self.inner().file);
        tokio::task::spawn_blocking(move || file.sync_data())
            .await
            .map_err(io::Error::other)?
    }

    /// Records that a call ended and its job is not finished.
    pub(crate) fn end(&self, identity: &Identity, attempt: &Attempt, counted: bool) {
        let mut inner = self.inner();
        let Some(job) = inner.jobs.get_mut(identity) else {
            return;
        };
        job.end(attempt.clone(), counted);
        let attempt = Cow::Borrowed(attempt);
        inner.write_or_warn(&JournalLine::Ended {
            identity: identity.clone(),
            attempt,
            counted,
        });
    }

    /// Records that the call that was begun is not made.
    pub(crate) fn withdraw(&self, identity: &Identity) {
        let mut inner = self.inner();
        let Some(job) = inner.jobs.get_mut(identity) else {
            return;
        };
        job.withdraw();
        inner.write_or_warn(&JournalLine::Withdrawn {
            identity: identity.clone(),
        });
    }

    /// Returns the calls for a job, if there are any.
    pub(crate) fn record(&self, identity: &Identity) -> Option<AttemptRecord> {
        self.inner().jobs.get(identity).cloned()
    }

    /// Takes over the calls that are recorded for a job, unless this journal knows the last of them: it then also knows
    /// how that one ended.
    pub(crate) fn adopt(&self, identity: &Identity, record: AttemptRecord) {
        let mut inner = self.inner();
        let known = inner.jobs.get(identity);
        if known.is_some_and(|known| known.has_last_of(&record)) {
            return;
        }
        inner.write_or_warn(&JournalLine::Over {
            identity: identity.clone(),
        });
        for line in lines_of(identity, &record) {
            inner.write_or_warn(&line);
        }
        inner.jobs.insert(identity.clone(), record);
    }

    /// Records that the job's result is stored, or that its attempts are kept elsewhere.
    pub(crate) fn over(&self, identity: &Identity) {
        let mut inner = self.inner();
        if inner.jobs.remove(identity).is_some() {
            inner.write_or_warn(&JournalLine::Over {
                identity: identity.clone(),
            });
            self.make_small(&mut inner);
        }
    }

    /// Returns the earlier attempts for this request in this revision, if there are any.
    pub(crate) fn recall(
        &self,
        identity: &Identity,
        fingerprint: &str,
        revision: u32,
    ) -> Option<PriorAttempts> {
        let inner = self.inner();
        let job = inner.jobs.get(identity)?;
        if !job.is_for(fingerprint, revision) {
            return None;
        }
        let ended = job.attempts.len() - usize::from(job.under_way);
        let ended = job.attempts[..ended].iter();
        let counted = ended.filter(|(_, counted)| *counted).count();
        let attempts = job.attempts.iter().map(|(attempt, _)| attempt.clone());
        Some(PriorAttempts {
            attempts: attempts.collect(),
            counted: u32::try_from(counted).unwrap_or(u32::MAX),
            unknown: job.under_way,
        })
    }

    /// Rewrites the file without finished jobs, if it is larger than [`LARGEST`] and than twice its size after the
    /// last rewrite.
    fn make_small(&self, inner: &mut JournalState) {
        if inner.size <= LARGEST.max(2 * inner.live) {
            return;
        }
        match rewrite(&self.dir, &inner.jobs) {
            Ok((file, size)) => inner.replace(file, size),
            Err(error) => warn!(%error, "the journal cannot be written anew"),
        }
    }
}

impl JournalState {
    /// Continues with a rewritten file of `size` bytes.
    fn replace(&mut self, file: Arc<File>, size: u64) {
        self.file = file;
        self.size = size;
        self.live = size;
        self.torn = false;
    }

    /// Writes a line that may be lost. Without it, the next process takes the outcome of a call for unknown.
    fn write_or_warn(&mut self, line: &JournalLine<'_>) {
        if let Err(error) = self.write(line) {
            warn!(%error, "the journal cannot be written");
        }
    }

    fn write(&mut self, line: &JournalLine<'_>) -> io::Result<()> {
        let mut text = Vec::with_capacity(512);
        if self.torn {
            text.push(b'\n');
        }
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
        self.torn = true;
        (&*self.file).write_all(&text)?;
        self.torn = false;
        self.size += text.len() as u64;
        Ok(())
    }
}

/// Reads a file, if it exists. A line that cannot be read is skipped, since the last one may be cut off.
fn read(path: &Path) -> io::Result<HashMap<Identity, AttemptRecord>> {
    let mut jobs = HashMap::<Identity, AttemptRecord>::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(jobs),
        Err(error) => return Err(error),
    };
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        match serde_json::from_slice(&line) {
            Ok(JournalLine::Begun {
                identity,
                fingerprint,
                revision,
                attempt,
            }) => {
                let job = jobs
                    .entry(identity)
                    .or_insert_with(|| AttemptRecord::new(&fingerprint, revision));
                job.begin(&fingerprint, revision, attempt.into_owned());
            }
            Ok(JournalLine::Ended {
                identity,
                attempt,
                counted,
            }) => {
                if let Some(job) = jobs.get_mut(&identity) {
                    job.end(attempt.into_owned(), counted);
                }
            }
            Ok(JournalLine::Withdrawn { identity }) => {
                if let Some(job) = jobs.get_mut(&identity) {
                    job.withdraw();
                }
            }
            Ok(JournalLine::Over { identity }) => drop(jobs.remove(&identity)),
            Err(_) if line.is_empty() => {}
            Err(error) => warn!(%error, "a line of the journal cannot be read"),
        }
    }
    Ok(jobs)
}

/// Returns the lines from which a reader gets this record.
fn lines_of<'a>(identity: &Identity, job: &'a AttemptRecord) -> Vec<JournalLine<'a>> {
    let mut lines = Vec::new();
    for (index, (attempt, counted)) in job.attempts.iter().enumerate() {
        // The reader ignores an end without its begin.
        lines.push(JournalLine::Begun {
            identity: identity.clone(),
            fingerprint: job.fingerprint.clone(),
            revision: job.revision,
            attempt: Cow::Borrowed(attempt),
        });
        let is_last = index + 1 == job.attempts.len();
        if !(is_last && job.under_way) {
            lines.push(JournalLine::Ended {
                identity: identity.clone(),
                attempt: Cow::Borrowed(attempt),
                counted: *counted,
            });
        }
    }
    lines
}

/// Writes a file with unfinished jobs alone, which replaces the file before.
fn rewrite(dir: &Path, jobs: &HashMap<Identity, AttemptRecord>) -> io::Result<(Arc<File>, u64)> {
    let mut text = Vec::new();
    for (identity, job) in jobs {
        for line in lines_of(identity, job) {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
    }
    let path = dir.join(NEW_FILE);
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)?;
    file.write_all(&text)?;
    file.sync_data()?;
    std::fs::rename(&path, dir.join(FILE))?;
    File::open(dir)?.sync_all()?;
    Ok((Arc::new(file), text.len() as u64))
}

#[cfg(test)]
mod tests {
    use forebay_schemas::completion::MOST_ATTEMPTS;

    use super::*;

    fn identity(id: &str) -> Identity {
        Identity {
            team: "acme".to_owned(),
            batch: None,
            id: id.to_owned(),
        }
    }

    fn attempt(outcome: &str) -> Attempt {
        Attempt {
            account: "one".to_owned(),
            key: "a".to_owned(),
            provider: "openai".to_owned(),
            model: "m".to_owned(),
            started_at: "2026-11-24T10:00:00Z".parse().expect("a time"),
            waited_ms: 1,
            duration_ms: 2,
            outcome: outcome.to_owned(),
            status_code: None,
            jobs: None,
        }
    }

    fn outcomes(past: &PriorAttempts) -> Vec<&str> {
        past.attempts
            .iter()
            .map(|attempt| attempt.outcome.as_str())
            .collect()
    }

    #[test]
    fn the_next_process_learns_what_ended_and_what_did_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let attempts = AttemptJournal::open(dir.path()).expect("opened");
        for id in ["under way", "resting", "over"] {
            attempts
                .begin(&identity(id), ("f", 1), &attempt("unknown"))
                .expect("written");
        }
        attempts.end(&identity("under way"), &attempt("server_error"), true);
        attempts.end(&identity("resting"), &attempt("rate_limited"), false);
        attempts
            .begin(&identity("under way"), ("f", 1), &attempt("unknown"))
            .expect("written");
        attempts.over(&identity("over"));
        assert!(
            attempts
                .recall(&identity("under way"), "f", 1)
                .expect("known")
                .unknown,
            "in this process too"
        );

        // Twice: what was not recalled is there again.
        for _ in 0..2 {
            let attempts = AttemptJournal::open(dir.path()).expect("opened");
            assert!(attempts.recall(&identity("over"), "f", 1).is_none());
            assert!(
                attempts.recall(&identity("resting"), "other", 1).is_none(),
                "another request"
            );
            let past = attempts
                .recall(&identity("resting"), "f", 1)
                .expect("known");
            assert_eq!(
                (outcomes(&past), past.counted, past.unknown),
                (vec!["rate_limited"], 0, false)
            );
            let past = attempts
                .recall(&identity("under way"), "f", 1)
                .expect("known");
            assert_eq!(outcomes(&past), ["server_error", "unknown"]);
            assert_eq!((past.counted, past.unknown), (1, true));
            assert!(
                attempts.recall(&identity("under way"), "f", 2).is_none(),
                "another answer is asked for"
            );
        }
    }

    #[test]
    fn a_call_that_was_not_made_is_no_unknown_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let attempts = AttemptJournal::open(dir.path()).expect("opened");
        let job = identity("withdrawn");
        for _ in 0..2 {
            let begun = attempts.begin(&job, ("f", 1), &attempt("unknown"));
            begun.expect("written");
            attempts.withdraw(&job);
        }
        for attempts in [attempts, AttemptJournal::open(dir.path()).expect("opened")] {
            let past = attempts.recall(&job, "f", 1).expect("known");
            assert_eq!((outcomes(&past).len(), past.unknown), (0, false));
        }
    }

    #[test]
    fn a_record_of_calls_that_the_journal_does_not_know_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let attempts = AttemptJournal::open(dir.path()).expect("opened");
        let job = identity("elsewhere");
        let begun = attempts.begin(&job, ("f", 1), &attempt("here"));
        begun.expect("written");
        let same = attempts.record(&job).expect("known");
        attempts.end(&job, &attempt("server_error"), true);
        attempts.adopt(&job, same.clone());
        let unknown = |attempts: &AttemptJournal| {
            let past = attempts.recall(&job, "f", 1).expect("known");
            past.unknown
        };
        assert!(!unknown(&attempts), "this process knows how it ended");
        // The clock of the other process may be behind.
        let mut later = same;
        later.attempts[0].0.started_at -= std::time::Duration::from_secs(1);
        attempts.adopt(&job, later);
        assert!(unknown(&attempts), "another process began another one");
        assert!(unknown(&AttemptJournal::open(dir.path()).expect("opened")));
    }

    #[test]
    fn a_line_that_is_cut_off_takes_no_other_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let attempts = AttemptJournal::open(dir.path()).expect("opened");
        attempts
            .begin(&identity("whole"), ("f", 1), &attempt("unknown"))
            .expect("written");
        attempts.inner().torn = true;
        (&*attempts.inner().file)
            .write_all(b"{\"event\":\"begun\",\"ident")
            .expect("written");
        attempts
            .begin(&identity("after"), ("f", 1), &attempt("unknown"))
            .expect("written");
        let attempts = AttemptJournal::open(dir.path()).expect("opened");
        assert!(attempts.recall(&identity("whole"), "f", 1).is_some());
        assert!(attempts.recall(&identity("after"), "f", 1).is_some());
    }

    #[test]
    fn the_file_does_not_grow_with_what_is_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let attempts = AttemptJournal::open(dir.path()).expect("opened");
        attempts
            .begin(&identity("stays"), ("f", 1), &attempt("unknown"))
            .expect("written");
        for _ in 0..60_000 {
            attempts
                .begin(&identity("goes"), ("f", 1), &attempt("unknown"))
                .expect("written");
            attempts.over(&identity("goes"));
        }
        for _ in 0..1_000 {
            attempts
                .begin(&identity("stays"), ("f", 1), &attempt("unknown"))
                .expect("written");
            attempts.end(&identity("stays"), &attempt("rate_limited"), false);
        }
        attempts
            .begin(&identity("stays"), ("f", 1), &attempt("unknown"))
            .expect("written");
        attempts
            .begin(&identity("stays"), ("f", 1), &attempt("unknown"))
            .expect("written");
        let size = std::fs::metadata(dir.path().join(FILE))
            .expect("there")
            .len();
        assert!(size < LARGEST, "{size}");
        let attempts = AttemptJournal::open(dir.path()).expect("opened");
        let stays = attempts.recall(&identity("stays"), "f", 1).expect("known");
        assert_eq!(
            (stays.attempts.len(), stays.counted),
            (MOST_ATTEMPTS, 0),
            "an interrupted one does not count"
        );
    }
}
