//! The command `forebay dead`.

use serde_json::{Value, json};

use super::client::{ask, connect};
use super::{GlobalOptions, print};
use crate::config::Config;
use crate::control::dead_letters::{DeadLetterEntry, LetterFilter};
use crate::control::messages::{LetterRequest, ShownLetter};
use crate::nats::connection::{Connection, Error};

/// Show, replay and delete dead letters: jobs that were given up.
#[derive(Debug, clap::Subcommand)]
pub(super) enum DeadCommand {
    /// Show dead letters, the oldest first.
    List {
        #[command(flatten)]
        which: WhichLetters,
        /// Maximum number of letters.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Print a letter with all its metadata and its unchanged message, as JSON.
    Show {
        /// The letter's number.
        number: u64,
    },
    /// Call the jobs of letters again, each as the next revision of its identity.
    Replay {
        #[command(flatten)]
        chosen: ChosenLetters,
        /// The pool that serves them, instead of their own.
        #[arg(long, value_name = "POOL")]
        to: Option<String>,
    },
    /// Delete dead letters.
    Drop {
        #[command(flatten)]
        chosen: ChosenLetters,
    },
}

#[derive(Debug, Clone, clap::Args)]
pub(super) struct WhichLetters {
    /// Only letters of this pool.
    #[arg(long)]
    pool: Option<String>,
    /// Only letters of this team.
    #[arg(long)]
    team: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct ChosenLetters {
    /// The letters' numbers.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    numbers: Vec<u64>,
    /// All letters.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    which: WhichLetters,
}

pub(super) async fn dead(global: &GlobalOptions, command: DeadCommand) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    match command {
        DeadCommand::List { which, limit } => list(global, &connection, which, limit).await,
        DeadCommand::Show { number } => {
            let request = LetterRequest {
                sequence: number,
                pool: None,
            };
            let shown: ShownLetter = ask_for(&connection, "dead.show", &request).await?;
            let mut letter =
                serde_json::to_value(&shown.letter).map_err(|error| Error::Usage(error.into()))?;
            let message = match &shown.letter.object {
                Some(object) => object_text(&connection, object)
                    .await?
                    .unwrap_or(shown.message),
                None => shown.message,
            };
            letter["message"] = serde_json::from_str(&message).unwrap_or(Value::String(message));
            print::line(&serde_json::to_string_pretty(&letter).unwrap_or_default());
            Ok(0)
        }
        DeadCommand::Replay { chosen, to } => {
            apply_to_each(global, &connection, chosen, ("dead.replay", "replayed"), to).await
        }
        DeadCommand::Drop { chosen } => {
            apply_to_each(global, &connection, chosen, ("dead.drop", "dropped"), None).await
        }
    }
}

/// Returns the message that an object holds. `None` means that the object is gone.
async fn object_text(connection: &Connection, object: &str) -> Result<Option<String>, Error> {
    let bytes = connection
        .requests()
        .get(object)
        .await
        .map_err(|error| Error::Unreachable(error.into()))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

async fn ask_for<T: serde::de::DeserializeOwned>(
    connection: &Connection,
    verb: &str,
    request: &impl serde::Serialize,
) -> Result<T, Error> {
    let request = serde_json::to_vec(request).map_err(|error| Error::Usage(error.into()))?;
    ask(connection, verb, request).await
}

/// Returns the first `limit` letters, page by page.
async fn letters(
    connection: &Connection,
    which: &WhichLetters,
    limit: usize,
) -> Result<Vec<DeadLetterEntry>, Error> {
    let mut letters = Vec::<DeadLetterEntry>::new();
    loop {
        let filter = LetterFilter {
            pool: which.pool.clone(),
            team: which.team.clone(),
            after: letters.last().map_or(0, |letter| letter.sequence),
            limit: Some(limit - letters.len()),
        };
        let page: Vec<DeadLetterEntry> = ask_for(connection, "dead.list", &filter).await?;
        let is_last = page.is_empty();
        letters.extend(page);
        if is_last || letters.len() >= limit {
            return Ok(letters);
        }
    }
}

async fn list(
    global: &GlobalOptions,
    connection: &Connection,
    which: WhichLetters,
    limit: usize,
) -> Result<u8, Error> {
    let letters = letters(connection, &which, limit).await?;
    if global.json {
        print::json(&letters);
        return Ok(0);
    }

    let rows: Vec<_> = letters.iter().map(row).collect();
    print::table(
        &[
            "NUMBER",
            "GIVEN UP (UTC)",
            "POOL",
            "TEAM",
            "ID",
            "CALLS",
            "REASON",
        ],
        &rows,
    );
    if letters.len() == limit {
        print::note(&format!("the first {limit}; --limit shows more"));
    }
    Ok(0)
}

fn row(dead: &DeadLetterEntry) -> Vec<String> {
    let letter = &dead.letter;
    let reason = letter.reason();
    vec![
        dead.sequence.to_string(),
        dead.at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        letter.pool.clone(),
        letter.team.clone(),
        letter.id.clone(),
        letter.attempts.len().to_string(),
        reason.chars().take(100).collect(),
    ]
}

/// Sends a request for each chosen letter. A letter that is refused does not stop the others.
async fn apply_to_each(
    global: &GlobalOptions,
    connection: &Connection,
    chosen: ChosenLetters,
    (verb, done): (&str, &str),
    pool: Option<String>,
) -> Result<u8, Error> {
    let numbers = match chosen.all {
        true => {
            let all = letters(connection, &chosen.which, usize::MAX).await?;
            let sequence = |letter: DeadLetterEntry| letter.sequence;
            all.into_iter().map(sequence).collect()
        }
        false => chosen.numbers,
    };
    let (mut count, mut failed) = (0, 0);
    for sequence in numbers {
        let request = LetterRequest {
            sequence,
            pool: pool.clone(),
        };
        match ask_for::<DeadLetterEntry>(connection, verb, &request).await {
            Ok(_) => count += 1,
            Err(Error::Usage(problem)) => {
                print::error(&format!("{problem:#}"));
                failed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    match global.json {
        true => print::json(&json!({ done: count, "failed": failed })),
        false => {
            print::line(&format!("{count} {done}"));
        }
    }
    Ok(if failed > 0 { super::SOME_FAILED } else { 0 })
}
