//! The batch whose answers an output file has. A file of another batch is never overwritten.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, bail};
use forebay_schemas::completion::output_line_id;
use serde::Deserialize;

use crate::batch::completions::FoundCompletion;
use crate::batch::input::Batch;
use crate::batch::kept_answers::KeptAnswers;

/// The beginning of every line of an output.
const LINE_START: &[u8] = b"{\"id\":\"batch_req_";

/// A line of an output.
#[derive(Debug, Deserialize)]
struct NamedLine {
    id: String,
}

/// The lines that an output file of a batch may have.
#[derive(Debug)]
pub(crate) struct OwnLines {
    /// The index of each line of the batch, by the id that it has in an output.
    indices: HashMap<String, usize>,
    /// The ids of the answers of other batches that this one uses.
    kept: HashSet<String>,
}

impl OwnLines {
    /// Returns the lines of a batch, and those of other batches whose answers it uses.
    pub(crate) fn new(batch: &Batch, kept: &KeptAnswers) -> Self {
        let lines = batch.lines.iter().enumerate();
        let index = |(index, line)| (output_line_id(&batch.identity(line)), index);
        let answers = kept.answers.iter();
        let id = |found: &FoundCompletion| output_line_id(&found.completion.identity());
        Self {
            indices: lines.map(index).collect(),
            kept: answers.map(id).collect(),
        }
    }

    /// Returns the indices of the batch's lines that a file has. At least half of the file's lines must be of this batch or
    /// used by it: then it is the output of this file before it was edited.
    ///
    /// # Errors
    /// Returns an error when the file cannot be read or belongs to another batch.
    pub(crate) fn of_file(&self, path: &Path) -> anyhow::Result<HashSet<usize>> {
        let mut written = HashSet::new();
        let (mut known, mut others) = (0, 0);
        for line in lines(path)? {
            let line = line.with_context(|| format!("{} cannot be read", path.display()))?;
            match serde_json::from_slice::<NamedLine>(&line) {
                Ok(named) if self.kept.contains(&named.id) => known += 1,
                Ok(named) => match self.indices.get(&named.id) {
                    Some(index) => {
                        written.insert(*index);
                        known += 1;
                    }
                    None => others += 1,
                },
                // It was cut off.
                Err(_) if line.starts_with(LINE_START) => {}
                Err(_) => return foreign(path),
            }
        }
        if others > known {
            return foreign(path);
        }
        Ok(written)
    }
}

/// Refuses a file that is no output of any batch.
///
/// # Errors
/// Returns an error when the file cannot be read or has other lines.
pub(crate) fn refuse_other_files(path: &Path) -> anyhow::Result<()> {
    for line in lines(path)? {
        let line = line.with_context(|| format!("{} cannot be read", path.display()))?;
        if !line.starts_with(LINE_START) {
            return foreign(path);
        }
    }
    Ok(())
}

fn foreign<T>(path: &Path) -> anyhow::Result<T> {
    bail!(
        "{} is there and is not this batch's output; name another file, or overwrite an output with --force",
        path.display()
    )
}

/// Returns the lines of a plain file; none if it does not exist.
fn lines(path: &Path) -> anyhow::Result<impl Iterator<Item = io::Result<Vec<u8>>>> {
    let file = match fs::metadata(path) {
        Ok(found) if found.is_file() => Some(File::open(path)),
        Ok(_) => bail!("{} is not a plain file", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error)),
    };
    let file = file.transpose();
    let file = file.with_context(|| format!("{} cannot be read", path.display()))?;
    let lines = file.map(|file| BufReader::new(file).split(b'\n'));
    Ok(lines.into_iter().flatten())
}
