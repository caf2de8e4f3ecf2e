//! Lines that were answered, and whose answers are no longer in the stream. Calling them costs a second time.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::bail;
use forebay_schemas::Status;
use futures::StreamExt;

use crate::batch::completions::FoundCompletion;
use crate::batch::input::{Batch, BatchLine};
use crate::control::messages::{ResultsReply, ResultsRequest};
use crate::nats::connection::Connection;

/// Limit of answers that are requested at once.
const MAX_REQUESTS: usize = 32;

/// Returns the answers to these lines that the worker still has in its store.
pub(crate) async fn stored_answers(
    connection: &Connection,
    batch: &Batch,
    lines: &[&BatchLine],
) -> Vec<FoundCompletion> {
    let answers = futures::stream::iter(lines)
        .map(|line| stored_answer(connection, batch, line))
        .buffer_unordered(MAX_REQUESTS);
    let answers: Vec<_> = answers.collect().await;
    answers.into_iter().flatten().collect()
}

async fn stored_answer(
    connection: &Connection,
    batch: &Batch,
    line: &BatchLine,
) -> Option<FoundCompletion> {
    let identity = batch.identity(line);
    let request = ResultsRequest {
        team: identity.team,
        batch: identity.batch,
        id: identity.id,
    };
    let request = serde_json::to_vec(&request).ok()?;
    let reply = connection.request_control("results", request.into()).await;
    let reply = reply.ok()?;
    let stored: ResultsReply = serde_json::from_slice(&reply.payload).ok()?;
    let payload = serde_json::to_vec(&stored?).ok()?;
    let opened = connection.open_completion(&payload, reply.headers.as_ref());
    let completion = opened.await.ok()?;
    (completion.status == Status::Succeeded).then_some(FoundCompletion {
        completion,
        fingerprint: None,
        sequence: 0,
        pending: 0,
        is_rejection: false,
    })
}

/// Asks a person at a terminal whether `lines` lines are called again.
///
/// # Errors
/// Returns an error without a terminal, or if the answer is no. It says why they would be paid for again.
pub(crate) async fn confirm(lines: usize, output: &str) -> anyhow::Result<()> {
    let what = match lines {
        1 => "1 line has an answer".to_owned(),
        _ => format!("{lines} lines have answers"),
    };
    let why = format!(
        "{what} in {output} that Forebay no longer keeps (see `[data] keep_days`; or another data directory has them): to call \
         them is to pay for them again"
    );
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        bail!("{why}; allow it with --pay-again, or name another --output");
    }
    let question = format!("{why}. Call them again? [y/N] ");
    let answer = tokio::task::spawn_blocking(move || ask(&question)).await??;
    if !answer.trim().eq_ignore_ascii_case("y") && !answer.trim().eq_ignore_ascii_case("yes") {
        bail!("nothing was called");
    }
    Ok(())
}

fn ask(question: &str) -> io::Result<String> {
    write!(io::stderr(), "{question}")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(answer)
}
