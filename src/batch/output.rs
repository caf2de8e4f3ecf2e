//! The two output files of a batch, OUT and ERR. Their lines are in input order, and they have
//! another name until they are complete. A line for the standard output is printed in its turn.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use forebay_schemas::{Completion, Status};
use rustix::fs::{FlockOperation, flock};

use crate::batch::input_text::STANDARD_STREAM;
use crate::batch::ownership::{OwnLines, refuse_other_files};
use crate::process::private_files;

/// The paths of the output files.
#[derive(Debug, Clone)]
pub struct OutputFiles {
    /// The file for succeeded lines.
    pub output: PathBuf,
    /// The file for all other lines.
    pub errors: PathBuf,
}

impl OutputFiles {
    /// Names the output files. Without `errors`, the file of errors is `out.errors.jsonl` beside
    /// `out.jsonl`, or the standard output too.
    pub fn new(output: PathBuf, errors: Option<PathBuf>) -> Self {
        let errors = errors.unwrap_or_else(|| usual_errors(&output));
        Self { output, errors }
    }

    /// Returns true if lines are printed on the standard output.
    pub fn use_standard_output(&self) -> bool {
        is_standard(&self.output) || is_standard(&self.errors)
    }
}

/// Returns the destination of failed lines beside `output`.
fn usual_errors(output: &Path) -> PathBuf {
    if is_standard(output) {
        return output.to_owned();
    }
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".jsonl").unwrap_or(&name);
    output.with_file_name(format!("{stem}.errors.jsonl"))
}

/// Returns true if the path stands for the standard output.
fn is_standard(path: &Path) -> bool {
    path == Path::new(STANDARD_STREAM)
}

/// The output files of a run. While this exists, no other run writes the same files.
#[derive(Debug)]
pub struct BatchOutput {
    output: OutputPart,
    errors: OutputPart,
    /// True if OUT and ERR may be overwritten whatever they have.
    force: bool,
    failed: usize,
    /// The index of the line that is written next.
    next: usize,
    /// Lines that completed before their turn, by index.
    early: BTreeMap<usize, (Status, Vec<u8>)>,
}

/// The destination of one kind of lines.
#[derive(Debug)]
enum OutputPart {
    Standard,
    File(PartialFile),
}

/// An output file under its partial name.
#[derive(Debug)]
struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    /// True once the file has its final name.
    is_renamed: bool,
}

impl BatchOutput {
    /// Opens the partial files and locks them. Nothing is written before [`BatchOutput::claim`].
    ///
    /// With `force`, OUT and ERR may be any plain files. A partial file is always one of a batch.
    ///
    /// # Errors
    /// Returns an error when a file cannot be written, is written by another run, is the input, or
    /// is no output of a batch.
    pub fn open(input: &Path, files: &OutputFiles, force: bool) -> anyhow::Result<Self> {
        let outputs = [&files.output, &files.errors].map(|path| match is_standard(path) {
            true => Ok(None),
            false => destination(path).map(Some),
        });
        let [output, errors] = outputs;
        let outputs = [output?, errors?];
        let mut paths = Vec::new();
        if !is_standard(input) {
            paths.push(destination(input)?);
        }
        for output in outputs.iter().flatten() {
            paths.extend([output.clone(), partial(output)]);
        }
        for (index, path) in paths.iter().enumerate() {
            if paths[..index].contains(path) {
                bail!(
                    "{} would be written although it is the input or another output; name other files",
                    path.display()
                );
            }
        }
        for output in outputs.iter().flatten() {
            if !force {
                refuse_other_files(output)?;
            }
            refuse_other_files(&partial(output))?;
        }
        let [output, errors] = outputs.map(|output| match output {
            Some(path) => PartialFile::open(path).map(OutputPart::File),
            None => Ok(OutputPart::Standard),
        });
        let (output, errors) = (output?, errors?);
        Ok(Self {
            output,
            errors,
            force,
            failed: 0,
            next: 0,
            early: BTreeMap::new(),
        })
    }

    /// Takes the files for a batch. The lines that an earlier run wrote into the partial files are
    /// written again. Returns the indices of the lines that succeeded in an earlier run.
    ///
    /// # Errors
    /// Returns an error when a file has lines of another batch or cannot be written. Nothing is
    /// changed then.
    pub(crate) fn claim(&self, lines: &OwnLines) -> anyhow::Result<HashSet<usize>> {
        let mut written = HashSet::new();
        for (part, has_answers) in [(&self.output, true), (&self.errors, false)] {
            let OutputPart::File(part) = part else {
                continue;
            };
            let whole = lines.of_file(&part.path);
            let whole = if self.force {
                whole.unwrap_or_default()
            } else {
                whole?
            };
            let partial = lines.of_file(&part.partial)?;
            if has_answers {
                written.extend(whole.into_iter().chain(partial));
            }
        }
        for part in [&self.output, &self.errors] {
            if let OutputPart::File(part) = part {
                let emptied = part.file.get_ref().set_len(0);
                emptied.with_context(|| format!("{} cannot be written", part.partial.display()))?;
            }
        }
        Ok(written)
    }

    /// Returns the name of OUT.
    pub(crate) fn name(&self) -> String {
        match &self.output {
            OutputPart::File(part) => part.path.display().to_string(),
            OutputPart::Standard => "the standard output".to_owned(),
        }
    }

    /// Takes the completion of the line with this index.
    ///
    /// # Errors
    /// Returns an error when a file cannot be written.
    pub fn take(&mut self, index: usize, completion: &Completion) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(&completion.output_line())?;
        line.push(b'\n');
        self.early.insert(index, (completion.status, line));
        while let Some((status, line)) = self.early.remove(&self.next) {
            self.next += 1;
            if status == Status::Succeeded {
                self.output
                    .write(&line)
                    .context("the output cannot be written")?;
            } else {
                self.failed += 1;
                self.errors
                    .write(&line)
                    .context("the errors cannot be written")?;
            }
        }
        Ok(())
    }

    /// Checks that the partial files still have their names. Otherwise all that is written goes to no file.
    ///
    /// # Errors
    /// Returns an error that names the file that was deleted or moved.
    pub fn check_place(&self) -> anyhow::Result<()> {
        for part in [&self.output, &self.errors] {
            let OutputPart::File(part) = part else {
                continue;
            };
            if !is_named(&part.partial, part.file.get_ref()) {
                bail!(
                    "{} was deleted or moved; make its directory again if that is gone, and run the same command again to go on",
                    part.partial.display()
                );
            }
        }
        Ok(())
    }

    /// Gives the complete files their names. ERR exists only if a line failed.
    ///
    /// # Errors
    /// Returns an error when a file cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.output
            .rename()
            .context("the output cannot be written")?;
        if self.failed > 0 {
            return self.errors.rename().context("the errors cannot be written");
        }
        let OutputPart::File(errors) = &self.errors else {
            return Ok(());
        };
        match fs::remove_file(&errors.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("errors of an earlier run cannot be deleted")
            }
            _ => Ok(()),
        }
    }
}

impl OutputPart {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            OutputPart::File(part) => part.file.write_all(line),
            OutputPart::Standard => {
                let mut out = io::stdout().lock();
                out.write_all(line)?;
                out.flush()
            }
        }
    }

    fn rename(&mut self) -> io::Result<()> {
        match self {
            OutputPart::File(part) => part.rename(),
            OutputPart::Standard => Ok(()),
        }
    }
}

impl PartialFile {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let partial = partial(&path);
        let failed = || format!("{} cannot be written", partial.display());
        // The file is not truncated until the lock shows that no other run writes it.
        let is_new = !partial.exists();
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial);
        let file = file.with_context(failed)?;
        if is_new {
            private_files::give_users_mode(&file).with_context(failed)?;
        }
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        // Another run may have renamed the file between the opening and the lock.
        if locked.is_err() || !is_named(&partial, &file) {
            bail!(
                "another run writes {}; wait for it or name another file",
                path.display()
            );
        }
        Ok(Self {
            path,
            partial,
            file: BufWriter::new(file),
            is_renamed: false,
        })
    }

    fn rename(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        self.is_renamed = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    /// Deletes an empty partial file: it is no partial result.
    fn drop(&mut self) {
        let flushed = self.file.flush();
        let metadata = self.file.get_ref().metadata();
        let is_empty = flushed.is_ok() && metadata.is_ok_and(|file| file.len() == 0);
        if !self.is_renamed && is_empty {
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Returns true if an open file has this name.
fn is_named(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(opened)) => named.ino() == opened.ino(),
        _ => false,
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}

/// Returns the absolute path of a plain file, with links resolved. The file need not exist.
fn destination(path: &Path) -> anyhow::Result<PathBuf> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {
            fs::canonicalize(path).with_context(|| format!("{} cannot be read", path.display()))
        }
        Ok(_) => bail!("{} is not a plain file", path.display()),
        Err(_) => {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")));
            let folder = folder
                .with_context(|| format!("the folder of {} cannot be read", path.display()))?;
            let name = path
                .file_name()
                .with_context(|| format!("{} names no file", path.display()))?;
            Ok(folder.join(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_stand_beside_the_output() {
        let files = |output: &str| OutputFiles::new(output.into(), None).errors;
        assert_eq!(files("a/out.jsonl"), Path::new("a/out.errors.jsonl"));
        assert_eq!(files("out"), Path::new("out.errors.jsonl"));
        assert_eq!(files("-"), Path::new("-"));
        assert_eq!(
            partial(Path::new("a/out.jsonl")),
            Path::new("a/out.jsonl.partial")
        );
    }
}
