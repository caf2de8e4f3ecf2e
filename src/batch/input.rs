//! An OpenAI Batch input file. It is read and checked as a whole before anything is published.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use forebay_providers::WorkKind;
use forebay_schemas::flow::{pool_of_model, problem_of_name, problem_of_team};
use forebay_schemas::quoting::cut_name;
use forebay_schemas::subjects::hex;
use forebay_schemas::{Identity, Job};
use sha2::{Digest, Sha256};

use crate::batch::input_text::{display_name, read_text};

/// Number of problems, and of ranges of their lines, that are printed. The others are counted.
const MAX_SHOWN: usize = 10;

/// A batch that is ready to be published.
#[derive(Debug)]
pub struct Batch {
    /// Its name. A second run of the same file has the same name, and so is the same batch.
    pub name: String,
    /// True if the name is derived from the lines, so that the same name means the same requests.
    pub is_derived: bool,
    /// Its team.
    pub team: String,
    /// Its lines, in input order.
    pub lines: Vec<BatchLine>,
}

/// A line of a batch.
#[derive(Debug, Clone)]
pub struct BatchLine {
    /// Its line number in the file, from 1.
    number: usize,
    /// The id of its job.
    pub id: String,
    /// Its pool.
    pub pool: String,
    /// The model that it names.
    model: Option<String>,
    /// The text of the line.
    text: Bytes,
}

impl BatchLine {
    /// Returns the model that the line names, if any.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Returns why none of the known pools can serve the line.
    fn pool_problem(&self, known: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
        let Some(models) = known.get(&self.pool) else {
            return Some(match &self.model {
                Some(model) if known.is_empty() => unknown_model(model),
                _ => format!("{}; name one with --pool", unknown_pool(&self.pool, known)),
            });
        };
        // The pool's own name means any of its models.
        let model = self.model.as_ref()?;
        if *model == self.pool || models.is_empty() || models.contains(model) {
            return None;
        }
        let models: Vec<_> = models.iter().map(String::as_str).collect();
        Some(format!(
            "pool `{}` has no model `{model}`; it has {}; name one of them, or with --pool none",
            self.pool,
            models.join(", ")
        ))
    }

    /// Returns the job. `None` cannot happen: the line was parsed before.
    fn job(&self) -> Option<Job> {
        Job::parse(&self.text).ok()
    }

    fn pool_and_job(&self) -> Option<(String, Job)> {
        let job = self.job()?;
        Some((self.pool.clone(), job))
    }

    /// Returns the size of the job in bytes.
    pub fn size(&self) -> usize {
        self.text.len()
    }
}

/// The lines of an input file that cannot be sent, and why.
#[derive(Debug)]
pub struct InputProblems {
    file: PathBuf,
    all: Vec<(usize, String)>,
}

impl fmt::Display for InputProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wrong: BTreeSet<_> = self.all.iter().map(|(number, _)| number).collect();
        let lines = if wrong.len() == 1 { "line" } else { "lines" };
        write!(
            f,
            "{}: {} {lines} cannot be sent, so nothing was published:",
            display_name(&self.file),
            wrong.len()
        )?;
        let causes = self.by_cause();
        for cause in causes.iter().take(MAX_SHOWN) {
            write!(f, "\n  {}: {}", line_numbers(&cause.numbers), cause.problem)?;
            if let Some(column) = cause.column {
                write!(f, " (in line {} at column {column})", cause.numbers[0])?;
            }
        }
        if causes.len() > MAX_SHOWN {
            write!(f, "\n  … and {} other problems", causes.len() - MAX_SHOWN)?;
        }
        Ok(())
    }
}

/// A problem and its lines.
struct InputCause<'a> {
    problem: &'a str,
    /// The column in the first of them.
    column: Option<&'a str>,
    numbers: Vec<usize>,
}

impl InputProblems {
    /// Returns each problem with its lines, in the order of the file.
    fn by_cause(&self) -> Vec<InputCause<'_>> {
        let mut causes: Vec<InputCause<'_>> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (number, problem) in &self.all {
            let (problem, column) = match problem.rsplit_once(" at line 1 column ") {
                Some((problem, column)) => (problem, Some(column)),
                None => (&**problem, None),
            };
            let place = *places.entry(problem).or_insert(causes.len());
            match causes.get_mut(place) {
                Some(cause) => cause.numbers.push(*number),
                None => causes.push(InputCause {
                    problem,
                    column,
                    numbers: vec![*number],
                }),
            }
        }
        causes
    }
}

/// Formats ascending line numbers: `line 3`, or `lines 1-3, 7`. Beyond [`MAX_SHOWN`] ranges the rest is counted.
fn line_numbers(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let shown = ranges.iter().take(MAX_SHOWN);
    let shown: Vec<_> = shown
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    let rest: usize = ranges
        .iter()
        .skip(MAX_SHOWN)
        .map(|(first, last)| last - first + 1)
        .sum();
    let what = if numbers.len() == 1 { "line" } else { "lines" };
    match rest {
        0 => format!("{what} {}", shown.join(", ")),
        rest => format!("{what} {} and {rest} more", shown.join(", ")),
    }
}

impl std::error::Error for InputProblems {}

/// The choices for a batch on the command line.
#[derive(Debug, Clone, Default)]
pub struct BatchChoices {
    /// The pool of all lines. `None` means the pool of each line's model.
    pub pool: Option<String>,
    /// The team.
    pub team: String,
    /// The name of the batch. `None` means a name that is derived from file, pool and team.
    pub name: Option<String>,
}

impl Batch {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Returns an error when the file cannot be read, or one with all lines that cannot be sent.
    pub fn read(path: &Path, choices: &BatchChoices) -> anyhow::Result<Self> {
        Self::parse(path, read_text(path)?, choices)
    }

    /// Parses the text of the file at `path`.
    ///
    /// # Errors
    /// Returns an error with all lines that cannot be sent.
    pub fn parse(path: &Path, text: Bytes, choices: &BatchChoices) -> anyhow::Result<Self> {
        let name = choices
            .name
            .clone()
            .unwrap_or_else(|| derived_name(&text, choices));
        let problem = problem_of_name("batch", &name)
            .or_else(|| problem_of_team(&choices.team))
            .or_else(|| problem_of_name("pool", choices.pool.as_ref()?));
        if let Some(problem) = problem {
            anyhow::bail!(problem);
        }
        let mut problems = Vec::new();
        let mut lines = Vec::new();
        let mut seen = HashMap::new();
        for (number, line) in (1..).zip(lines_of(&text)) {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match read_line(line, choices.pool.as_deref()) {
                Ok(ParsedLine {
                    id,
                    custom_id,
                    pool,
                    model,
                }) => {
                    let names = [
                        ("custom_id", custom_id.as_ref().unwrap_or(&id)),
                        ("id", &id),
                    ];
                    let duplicate = names.into_iter().find_map(|(field, name)| {
                        Some((field, name, seen.get(&(field, name.clone()))?))
                    });
                    if let Some((field, name, first)) = duplicate {
                        problems.push((
                            number,
                            format!("{field} `{}` is that of line {first} too", cut_name(name)),
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
            anyhow::bail!("{}: there is no line in this file", display_name(path));
        }
        if problems.is_empty() {
            return Ok(Self {
                name,
                is_derived: choices.name.is_none(),
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

    /// Refuses lines whose pool is not in `known`, lines whose model is not served by their pool,
    /// and lines that are too large. A pool without models in `known` serves any model. Without
    /// `known`, only the size is checked.
    ///
    /// # Errors
    /// Returns an error with all refused lines.
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
                .and_then(|known| line.pool_problem(known))
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

    /// Returns the pool and the job of each line.
    pub fn jobs(&self) -> impl Iterator<Item = (String, Job)> {
        self.lines.iter().filter_map(BatchLine::pool_and_job)
    }

    /// Returns the identity of a line's job.
    pub fn identity(&self, line: &BatchLine) -> Identity {
        Identity {
            team: self.team.clone(),
            batch: Some(self.name.clone()),
            id: line.id.clone(),
        }
    }

    /// Returns the message of a line's job.
    pub fn message(&self, line: &BatchLine) -> Bytes {
        let Some(mut job) = line.job() else {
            return line.text.clone();
        };
        // A parsed job can be serialised.
        job.batch = Some(self.name.clone());
        serde_json::to_vec(&job).map_or_else(|_| line.text.clone(), Bytes::from)
    }

    /// Returns the fingerprint of a line's request.
    pub fn fingerprint(&self, line: &BatchLine) -> Option<String> {
        let job = line.job()?;
        Some(job.fingerprint(&line.pool))
    }

    /// Returns the number of lines of each pool.
    pub fn pools(&self) -> BTreeMap<&str, usize> {
        let mut pools = BTreeMap::new();
        for line in &self.lines {
            let pool = line.pool.as_str();
            *pools.entry(pool).or_default() += 1;
        }
        pools
    }
}

/// The fields of a line by which it is found and published.
struct ParsedLine {
    id: String,
    custom_id: Option<String>,
    pool: String,
    model: Option<String>,
}

fn read_line(line: &[u8], pool: Option<&str>) -> Result<ParsedLine, String> {
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
    Ok(ParsedLine {
        id,
        custom_id: job.custom_id,
        pool,
        model,
    })
}

/// Formats the problem of a model that no account serves, where pools are made on demand.
fn unknown_model(model: &str) -> String {
    format!(
        "no account is known to have the model `{model}`, or its pool is another than --pool says; to have it called all \
         the same, give it a pool in the configuration"
    )
}

/// Formats the problem of a pool that is not in `known`.
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

/// Refuses a job with an unknown `url`.
///
/// # Errors
/// Returns the problem, with all known values of `url`.
pub fn check_url(job: &Job) -> Result<(), String> {
    if WorkKind::of(&job.url).is_some() {
        return Ok(());
    }
    let known: Vec<_> = WorkKind::ALL.into_iter().map(WorkKind::url).collect();
    Err(format!(
        "field `url`: no provider has `{}`, use one of {}",
        cut_name(&job.url),
        known.join(", ")
    ))
}

/// Returns the lines of a text. They end with a line feed, or in a text without any with a carriage return.
fn lines_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = if text.contains(&b'\n') { b'\n' } else { b'\r' };
    text.split(move |byte| *byte == end)
}

/// Derives a batch's name: the first 16 hex digits of the SHA-256 of file, pool and team.
fn derived_name(text: &[u8], choices: &BatchChoices) -> String {
    let mut hash = Sha256::new();
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
    let pool = choices.pool.as_deref().unwrap_or_default();
    for part in [pool, &choices.team] {
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
        let batch = parse(&format!("{LINE}\r\n\n"), &choices()).expect("a batch");
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
    fn all_lines_that_cannot_be_sent_are_reported_with_their_numbers() {
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
            "lines 4, 6: custom_id `a` is that of line 1 too",
            "line 5: has no custom_id",
            "line 7: field `url`: no provider has `/v1/nonsense`, use one of /v1/chat/completions, ",
        ] {
            assert!(error.contains(expected), "{expected} not in {error}");
        }
    }

    #[test]
    fn a_problem_of_many_lines_is_told_once() {
        let wrong = r#"{"custom_id":1}"#;
        let cut_off = r#"{"custom_id":"#;
        let texts = [
            [wrong; 3].join("\n"),
            LINE.to_owned(),
            wrong.to_owned(),
            cut_off.to_owned(),
            [LINE, wrong].repeat(12).join("\n"),
        ];
        let text = texts.join("\n");
        let error = parse(&text, &choices()).expect_err("wrong").to_string();
        for expected in [
            "lines 1-3, 5, 8, 10, 12, 14, 16, 18, 20, 22 and 4 more: field `custom_id`: invalid type",
            "line 6: not a job: not valid JSON: EOF while parsing a value (in line 6 at column 13)",
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
        // The pool's name, or no name, means any of its models.
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
