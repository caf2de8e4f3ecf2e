//! OUT and ERR: in input order, under another name until they are whole.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use forebay_schemas::completion::output_line_id;
use forebay_schemas::{Completion, Status};
use serde::Deserialize;

use crate::batch::Batch;

/// Where the lines go.
#[derive(Debug, Clone)]
pub struct Files {
    /// Succeeded lines.
    pub output: PathBuf,
    /// All others.
    pub errors: PathBuf,
}

impl Files {
    /// `errors` is `OUT.errors.jsonl` where none is named: `out.errors.jsonl` beside `out.jsonl`.
    pub fn new(output: PathBuf, errors: Option<PathBuf>) -> Self {
        let errors = errors.unwrap_or_else(|| {
            let name = output.file_name().unwrap_or_default().to_string_lossy();
            let stem = name.strip_suffix(".jsonl").unwrap_or(&name);
            output.with_file_name(format!("{stem}.errors.jsonl"))
        });
        Self { output, errors }
    }
}

/// The files as they are written.
#[derive(Debug)]
pub struct Output {
    files: Files,
    output: BufWriter<File>,
    errors: BufWriter<File>,
    failed: usize,
    /// The place whose line is written next.
    next: usize,
    /// Lines that came before their turn.
    early: BTreeMap<usize, (Status, Vec<u8>)>,
}

impl Output {
    /// Opens the partial files; what an earlier run left in them is written again from the stream.
    ///
    /// # Errors
    /// When a file cannot be written, or OUT is there and is not this batch's.
    pub fn open(files: Files, batch: &Batch, force: bool) -> anyhow::Result<Self> {
        if files.output == files.errors {
            bail!("--output and --errors are the same file");
        }
        if !force {
            refuse_foreign(&files.output, batch)?;
        }
        let create = |path: &Path| {
            let path = partial(path);
            File::create(&path)
                .map(BufWriter::new)
                .with_context(|| format!("{} cannot be written", path.display()))
        };
        let (output, errors) = (create(&files.output)?, create(&files.errors)?);
        Ok(Self { files, output, errors, failed: 0, next: 0, early: BTreeMap::new() })
    }

    /// Takes the completion of the line at `place`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn take(&mut self, place: usize, completion: &Completion) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&completion.output_line())?;
        line.push(b'\n');
        self.early.insert(place, (completion.status, line));
        while let Some((status, line)) = self.early.remove(&self.next) {
            self.next += 1;
            if status == Status::Succeeded {
                self.output.write_all(&line).context("the output cannot be written")?;
            } else {
                self.failed += 1;
                self.errors.write_all(&line).context("the errors cannot be written")?;
            }
        }
        Ok(())
    }

    /// Gives the whole files their names. ERR exists only where something failed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn finish(self) -> anyhow::Result<()> {
        let keep = |file: BufWriter<File>, path: &Path| {
            let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            file.sync_all()?;
            fs::rename(partial(path), path)
        };
        keep(self.output, &self.files.output).context("the output cannot be written")?;
        if self.failed > 0 {
            return keep(self.errors, &self.files.errors).context("the errors cannot be written");
        }
        fs::remove_file(partial(&self.files.errors)).context("an empty file of errors cannot be deleted")?;
        match fs::remove_file(&self.files.errors) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("errors of an earlier run cannot be deleted")
            }
            _ => Ok(()),
        }
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

/// A file that is there is ours if every line of it is the answer to a line of this batch.
fn refuse_foreign(path: &Path, batch: &Batch) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    let ours: HashSet<_> = batch.lines.iter().map(|line| output_line_id(&batch.identity(line))).collect();
    for line in BufReader::new(file).lines() {
        let named = line.ok().and_then(|line| serde_json::from_str::<Named>(&line).ok());
        if !named.is_some_and(|named| ours.contains(&named.id)) {
            bail!(
                "{} is there and is not this batch's output; name another file, or overwrite it with --force",
                path.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stand_beside_the_output() {
        let files = |output: &str| Files::new(output.into(), None).errors;
        assert_eq!(files("a/out.jsonl"), Path::new("a/out.errors.jsonl"));
        assert_eq!(files("out"), Path::new("out.errors.jsonl"));
        assert_eq!(partial(Path::new("a/out.jsonl")), Path::new("a/out.jsonl.partial"));
    }
}
