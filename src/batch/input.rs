//! An OpenAI Batch input file: read and checked as a whole before anything is published.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use forebay_providers::WorkKind;
use forebay_schemas::flow::{pool_of_model, problem_of_name, problem_of_team};
use forebay_schemas::subjects::hex;
use forebay_schemas::{Identity, Job};
use sha2::{Digest, Sha256};

/// Problems that are printed; the rest is counted.
const SHOWN: usize = 10;

/// A batch, ready to be published.
#[derive(Debug)]
pub struct Batch {
    /// Its name: what makes a second run of the same file the same batch.
    pub name: String,
    /// The team that it belongs to.
    pub team: String,
    /// Its lines, in order.
    pub lines: Vec<BatchLine>,
}

/// A line of a batch.
#[derive(Debug, Clone)]
pub struct BatchLine {
    /// Where it stands in the file, 1 for the first line.
    number: usize,
    /// Its job's id.
    pub id: String,
    /// The pool that it is for.
    pub pool: String,
    /// The model that it names.
    model: Option<String>,
    /// The line as it stands in the file.
    text: Bytes,
}

impl BatchLine {
    /// The model that it asks for, if it names one.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Why none of the pools that there are can serve it.
    fn no_pool(&self, known: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
        let Some(models) = known.get(&self.pool) else {
            return Some(match &self.model {
                Some(model) if known.is_empty() => nobody_has(model),
                _ => format!("{}; name one with --pool", unknown_pool(&self.pool, known)),
            });
        };
        // The pool's own name stands for any of its models.
        let model = self.model.as_ref().filter(|model| **model != self.pool)?;
        if models.is_empty() || models.contains(model) {
            return None;
        }
        let models: Vec<_> = models.iter().map(String::as_str).collect();
        Some(format!(
            "pool `{}` has no model `{model}`; it has {}; name one of them, or with --pool none",
            self.pool,
            models.join(", ")
        ))
    }

    /// Bytes of its job.
    pub fn size(&self) -> usize {
        self.text.len()
    }
}

/// What is wrong with an input file.
#[derive(Debug)]
pub struct InputProblems {
    file: PathBuf,
    all: Vec<(usize, String)>,
}

impl fmt::Display for InputProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = if self.all.len() == 1 { "line" } else { "lines" };
        write!(
            f,
            "{}: {} {lines} cannot be sent, so nothing was published:",
            self.file.display(),
            self.all.len()
        )?;
        for (number, problem) in self.all.iter().take(SHOWN) {
            write!(f, "\n  line {number}: {problem}")?;
        }
        if self.all.len() > SHOWN {
            write!(f, "\n  … and {} more", self.all.len() - SHOWN)?;
        }
        Ok(())
    }
}

impl std::error::Error for InputProblems {}

/// What of a batch is chosen on the command line.
#[derive(Debug, Clone, Default)]
pub struct BatchChoices {
    /// The pool of all lines; else that of each line's model.
    pub pool: Option<String>,
    /// The team.
    pub team: String,
    /// The batch's name; else made from file, pool and team.
    pub name: Option<String>,
}

impl Batch {
    /// Reads `path`.
    ///
    /// # Errors
    /// When the file cannot be read, or with all lines that cannot be sent.
    pub fn read(path: &Path, choices: &BatchChoices) -> anyhow::Result<Self> {
        let text =
            std::fs::read(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        Self::parse(path, text.into(), choices)
    }

    /// Reads the text of `path`.
    ///
    /// # Errors
    /// With all lines that cannot be sent.
    pub fn parse(path: &Path, text: Bytes, choices: &BatchChoices) -> anyhow::Result<Self> {
        let name = choices
            .name
            .clone()
            .unwrap_or_else(|| name_of(&text, choices));
        let problem = problem_of_name("batch", &name)
            .or_else(|| problem_of_team(&choices.team))
            .or_else(|| problem_of_name("pool", choices.pool.as_ref()?));
        if let Some(problem) = problem {
            anyhow::bail!(problem);
        }
        let mut problems = Vec::new();
        let mut lines = Vec::new();
        let mut seen = HashMap::new();
        for (number, line) in (1..).zip(without_bom(&text).split(|byte| *byte == b'\n')) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match read_line(line, choices.pool.as_deref()) {
                Ok(Read {
                    id,
                    custom_id,
                    pool,
                    model,
                }) => {
                    let names = [
                        ("custom_id", custom_id.as_ref().unwrap_or(&id)),
                        ("id", &id),
                    ];
                    let twice = names.into_iter().find_map(|(field, name)| {
                        Some((field, name, seen.get(&(field, name.clone()))?))
                    });
                    if let Some((field, name, first)) = twice {
                        problems.push((
                            number,
                            format!("{field} `{name}` is that of line {first} too"),
                        ));
                    }
                    for (field, name) in names {
                        seen.entry((field, name.clone())).or_insert(number);
                    }
                    lines.push(BatchLine {
                        number,
                        id,
                        pool,
                        model,
                        text: text.slice_ref(line.trim_ascii()),
                    });
                }
                Err(problem) => problems.push((number, problem)),
            }
        }
        if lines.is_empty() && problems.is_empty() {
            anyhow::bail!("{}: there is no line in this file", path.display());
        }
        if problems.is_empty() {
            return Ok(Self {
                name,
                team: choices.team.clone(),
                lines,
            });
        }
        Err(InputProblems {
            file: path.to_owned(),
            all: problems,
        }
        .into())
    }

    /// Refuses lines whose pool is not among `known`, lines whose model is none of their pool's, where those are
    /// known, and lines that are too large to be called. Where pools are made as they are asked for, none need be known.
    ///
    /// # Errors
    /// With all those lines.
    pub fn check(
        &self,
        path: &Path,
        known: Option<&BTreeMap<String, BTreeSet<String>>>,
        max_request: usize,
    ) -> anyhow::Result<()> {
        let mut problems = Vec::new();
        for line in &self.lines {
            let too_large = || {
                let size = line.size();
                let problem =
                    format!("{size} bytes are more than max_request of {max_request} in [call]");
                (size > max_request).then_some(problem)
            };
            let problem = known
                .and_then(|known| line.no_pool(known))
                .or_else(too_large);
            problems.extend(problem.map(|problem| (line.number, problem)));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(InputProblems {
                file: path.to_owned(),
                all: problems,
            }
            .into())
        }
    }

    /// The pool and the job of each line.
    pub fn jobs(&self) -> impl Iterator<Item = (String, Job)> {
        // The lines were read before.
        self.lines
            .iter()
            .filter_map(|line| Some((line.pool.clone(), Job::parse(&line.text).ok()?)))
    }

    /// The identity of a line's job.
    pub fn identity(&self, line: &BatchLine) -> Identity {
        Identity {
            team: self.team.clone(),
            batch: Some(self.name.clone()),
            id: line.id.clone(),
        }
    }

    /// The message of a line's job.
    pub fn message(&self, line: &BatchLine) -> Bytes {
        // The line was read before, and a job that was read can be written.
        let mut job = match Job::parse(&line.text) {
            Ok(job) => job,
            Err(_) => return line.text.clone(),
        };
        job.batch = Some(self.name.clone());
        serde_json::to_vec(&job).map_or_else(|_| line.text.clone(), Bytes::from)
    }

    /// Which request a line is.
    pub fn fingerprint(&self, line: &BatchLine) -> Option<String> {
        Job::parse(&line.text)
            .ok()
            .map(|job| job.fingerprint(&line.pool))
    }

    /// How many lines each pool has.
    pub fn pools(&self) -> BTreeMap<&str, usize> {
        self.lines.iter().fold(BTreeMap::new(), |mut pools, line| {
            *pools.entry(line.pool.as_str()).or_default() += 1;
            pools
        })
    }
}

/// What a line is found and published by.
struct Read {
    id: String,
    custom_id: Option<String>,
    pool: String,
    model: Option<String>,
}

fn read_line(line: &[u8], pool: Option<&str>) -> Result<Read, String> {
    let job = Job::parse(line).map_err(|error| error.to_string())?;
    check_url(&job)?;
    let id = job
        .own_id()
        .ok_or("has no custom_id, which its answer is found by")?
        .to_owned();
    let model = job.model();
    let pool = match (pool, &model) {
        (Some(pool), _) => pool.to_owned(),
        (None, Some(model)) => pool_of_model(model),
        (None, None) => {
            return Err("has no body.model, so its pool is not known; name one with --pool".into());
        }
    };
    Ok(Read {
        id,
        custom_id: job.custom_id,
        pool,
        model,
    })
}

/// What is said of a model that nobody serves, where pools are made for models.
fn nobody_has(model: &str) -> String {
    format!(
        "no account is known to have the model `{model}`, or its pool is another than --pool says; to have it called all \
         the same, give it a pool in the configuration"
    )
}

/// What is said of a pool that is not among `known`.
pub fn unknown_pool<T>(pool: &str, known: &BTreeMap<String, T>) -> String {
    let known: Vec<_> = known.keys().map(String::as_str).collect();
    if known.is_empty() {
        return format!(
            "there is no pool `{pool}`, and no account is known to have a model that it is named after"
        );
    }
    format!(
        "there is no pool `{pool}`; known pools: {}",
        known.join(", ")
    )
}

/// Refuses a job whose `url` no provider has.
///
/// # Errors
/// With the urls that there are.
pub fn check_url(job: &Job) -> Result<(), String> {
    if WorkKind::of(&job.url).is_some() {
        return Ok(());
    }
    let known: Vec<_> = WorkKind::ALL.into_iter().map(WorkKind::url).collect();
    Err(format!(
        "field `url`: no provider has `{}`, use one of {}",
        job.url,
        known.join(", ")
    ))
}

/// A text without the mark that some programs begin it with.
pub fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
}

/// 16 hex digits of the SHA-256 of file, pool and team.
fn name_of(text: &[u8], choices: &BatchChoices) -> String {
    let mut hash = Sha256::new();
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
    for part in [choices.pool.as_deref().unwrap_or_default(), &choices.team] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, choices: &BatchChoices) -> anyhow::Result<Batch> {
        Batch::parse(
            Path::new("in.jsonl"),
            Bytes::copy_from_slice(text.as_bytes()),
            choices,
        )
    }

    fn choices() -> BatchChoices {
        BatchChoices {
            team: "default".to_owned(),
            ..BatchChoices::default()
        }
    }

    const LINE: &str = r#"{"custom_id":"a","body":{"model":"gpt-4.1","messages":[]}}"#;

    #[test]
    fn a_lines_model_names_its_pool_and_the_file_names_the_batch() {
        let batch = parse(&format!("\u{feff}{LINE}\r\n\n"), &choices()).expect("a batch");
        assert_eq!(
            (batch.lines.len(), batch.lines[0].pool.as_str()),
            (1, "gpt-4_1")
        );
        assert_eq!(batch.name.len(), 16);
        let other = BatchChoices {
            pool: Some("chat".to_owned()),
            ..choices()
        };
        assert_ne!(
            parse(LINE, &other).expect("a batch").name,
            parse(LINE, &choices()).expect("a batch").name
        );
        let message = batch.message(&batch.lines[0]);
        assert_eq!(Job::parse(&message).expect("a job").batch, Some(batch.name));
    }

    #[test]
    fn all_lines_that_cannot_be_sent_are_told_with_their_numbers() {
        let other = r#"{"id":"z","custom_id":"a","body":{"model":"gpt-4.1"}}"#;
        let elsewhere = r#"{"id":"y","url":"/v1/nonsense","body":{"model":"gpt-4.1"}}"#;
        let text = format!(
            "{LINE}\nnot json\n{{\"custom_id\":\"b\"}}\n{LINE}\n{{\"body\":{{\"model\":\"m\"}}}}\n{other}\n{elsewhere}"
        );
        let error = parse(&text, &choices())
            .expect_err("six mistakes")
            .to_string();
        for expected in [
            "6 lines",
            "line 2: not a job",
            "line 3: not a job: missing field `body`",
            "line 4: custom_id `a` is that of line 1",
            "line 5: has no custom_id",
            "line 6: custom_id `a` is that of line 1",
            "line 7: field `url`: no provider has `/v1/nonsense`, use one of /v1/chat/completions, ",
        ] {
            assert!(error.contains(expected), "{expected} not in {error}");
        }
    }

    #[test]
    fn lines_of_unknown_pools_and_models_and_oversize_lines_are_refused() {
        let batch = parse(&format!("\n\n{LINE}"), &choices()).expect("a batch");
        let path = Path::new("in.jsonl");
        let known = |pool: &str, models: &[&str]| {
            let models = models.iter().copied().map(str::to_owned).collect();
            BTreeMap::from([(pool.to_owned(), models)])
        };
        let error = batch
            .check(path, Some(&known("chat", &[])), 1 << 20)
            .expect_err("no such pool")
            .to_string();
        assert!(
            error.contains("line 3")
                && error.contains("gpt-4_1")
                && error.contains("known pools: chat"),
            "{error}"
        );
        let error = batch
            .check(path, Some(&known("gpt-4_1", &[])), 10)
            .expect_err("too large")
            .to_string();
        assert!(error.contains("more than max_request of 10 "), "{error}");
        let other = known("gpt-4_1", &["gpt-4.1-mini", "gpt-4.1-nano"]);
        let error = batch
            .check(path, Some(&other), 1 << 20)
            .expect_err("no such model")
            .to_string();
        assert!(
            error.contains("has no model `gpt-4.1`; it has gpt-4.1-mini, gpt-4.1-nano;"),
            "{error}"
        );
        let own = known("gpt-4_1", &["gpt-4.1-mini", "gpt-4.1"]);
        batch
            .check(path, Some(&own), 1 << 20)
            .expect("a target's model");
        // The pool's name, or none, is any of its models.
        let chat = BatchChoices {
            pool: Some("chat".to_owned()),
            ..choices()
        };
        for line in [
            LINE.replace("gpt-4.1", "chat"),
            LINE.replace(r#""model":"gpt-4.1","#, ""),
        ] {
            let batch = parse(&line, &chat).expect("a batch");
            batch
                .check(path, Some(&known("chat", &["gpt-4.1-mini"])), 1 << 20)
                .expect("any model");
        }
    }
}
