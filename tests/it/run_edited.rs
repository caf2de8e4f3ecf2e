//! `forebay run` of a file that was edited since its last run: what is paid for, and what is said before.

use std::fs;
use std::path::Path;

use forebay_schemas::completion::OutputLine;
use forebay_simulator::Provider;
use serde_json::json;

use crate::program::{Output, run};
use crate::support::{Forebay, ForebayBuilder, provider};

const LINES: usize = 30;
const RUN: [&str; 4] = ["run", "in.jsonl", "--output", "out.jsonl"];

async fn configured() -> (tempfile::TempDir, Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    (configuration(&provider).write(), provider)
}

fn configuration(provider: &Provider) -> ForebayBuilder {
    Forebay::calling(provider)
}

fn line(id: usize, text: &str) -> String {
    let messages = json!([{ "role": "user", "content": format!("{text} {id}") }]);
    json!({ "custom_id": format!("r-{id}"), "body": { "model": "chat", "messages": messages } })
        .to_string()
}

fn lines(ids: impl IntoIterator<Item = usize>) -> Vec<String> {
    ids.into_iter().map(|id| line(id, "hello")).collect()
}

/// The `custom_id` and the body of each answer.
fn answers(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).expect("there");
    let answer = |line| {
        let line: OutputLine = serde_json::from_str(line).expect("a line of an output");
        let body = line.response.expect("an answer").body;
        (line.custom_id, body.get().to_owned())
    };
    text.lines().map(answer).collect()
}

/// Runs `text` as the file, and returns what was printed and the number of calls that it took.
async fn run_text(dir: &Path, provider: &Provider, text: &str, args: &[&str]) -> (Output, usize) {
    fs::write(dir.join("in.jsonl"), text).expect("written");
    let before = provider.calls().len();
    let output = run(dir, &[&RUN, args].concat()).await;
    (output, provider.calls().len() - before)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_pays_for_what_changed_alone() {
    let (dir, provider) = configured().await;
    let dir = dir.path();
    let first = lines(0..LINES);
    let (output, calls) = run_text(dir, &provider, &first.join("\n"), &[]).await;
    assert_eq!((output.code, calls), (Some(0), LINES), "{output:?}");
    let mut changed = first.clone();
    changed[7] = line(7, "changed");
    let reversed: Vec<_> = first.iter().rev().cloned().collect();
    for (what, text, new_calls, in_output) in [
        ("appended", lines(0..LINES + 1).join("\n"), 1, LINES + 1),
        ("removed", lines(5..LINES).join("\n"), 0, LINES - 5),
        ("reordered", reversed.join("\n"), 0, LINES),
        ("line ends", first.join("\r\n") + "\r\n", 0, LINES),
        ("blanks", first.join("\n").replace("\":", "\" : "), 0, LINES),
        ("changed", changed.join("\n"), 1, LINES),
    ] {
        let (output, calls) = run_text(dir, &provider, &text, &[]).await;
        assert_eq!(
            (output.code, calls),
            (Some(0), new_calls),
            "{what}: {output:?}"
        );
        let says_so = format!(
            "{} of {in_output} lines are answered already",
            in_output - new_calls
        );
        assert!(output.stderr.contains(&says_so), "{what}: {output:?}");
        let answers = answers(&dir.join("out.jsonl"));
        assert_eq!(answers.len(), in_output, "{what}");
        for ((id, body), line) in answers.iter().zip(text.lines()) {
            let is_its_answer = line.contains(id)
                && (id != "r-7" || what != "changed" || body.contains("changed 7"));
            assert!(is_its_answer, "{what}: {id} has {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_run_calls_all_lines_and_resumes_no_other() {
    let (dir, provider) = configured().await;
    let dir = dir.path();
    let text = lines(0..LINES).join("\n");
    run_text(dir, &provider, &text, &[]).await;
    let fresh = ["--fresh", "--force"];
    let (output, calls) = run_text(dir, &provider, &text, &fresh).await;
    assert_eq!((output.code, calls), (Some(0), LINES), "{output:?}");
    assert!(output.stdout.contains("-2: 30 of 30 lines"), "{output:?}");
    let (output, calls) = run_text(dir, &provider, &text, &["--force"]).await;
    assert_eq!((output.code, calls), (Some(0), 0), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_paid_for_again_without_a_word() {
    let (dir, provider) = configured().await;
    let dir = dir.path();
    let text = lines(0..LINES).join("\n");
    run_text(dir, &provider, &text, &[]).await;
    let before = fs::read(dir.join("out.jsonl")).expect("there");
    fs::remove_dir_all(dir.join("data")).expect("the answers are lost");
    let (output, calls) = run_text(dir, &provider, &text, &[]).await;
    assert_eq!((output.code, calls), (Some(2), 0), "{output:?}");
    for words in ["30 lines have answers in ", "out.jsonl", "--pay-again"] {
        assert!(output.stderr.contains(words), "{words}: {output:?}");
    }
    assert_eq!(fs::read(dir.join("out.jsonl")).expect("there"), before);
    let (output, calls) = run_text(dir, &provider, &text, &["--pay-again"]).await;
    assert_eq!((output.code, calls), (Some(0), LINES), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_of_another_file_is_not_overwritten() {
    let (dir, provider) = configured().await;
    let dir = dir.path();
    run_text(dir, &provider, &lines(0..LINES).join("\n"), &[]).await;
    let before = fs::read(dir.join("out.jsonl")).expect("there");
    let other: Vec<_> = (0..LINES).map(|id| line(id, "another")).collect();
    let (output, calls) = run_text(dir, &provider, &other.join("\n"), &[]).await;
    assert_eq!((output.code, calls), (Some(2), 0), "{output:?}");
    assert!(
        output.stderr.contains("not this batch's output"),
        "{output:?}"
    );
    assert_eq!(fs::read(dir.join("out.jsonl")).expect("there"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_line_of_a_named_batch_is_called_under_its_custom_id() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = configuration(&provider)
        .pool("fail-bad_request", "fail-bad_request", &["one"])
        .write();
    let dir = dir.path();
    let named = ["--batch", "nightly"];
    let wrong = line(1, "hello").replace("\"chat\"", "\"fail-bad_request\"");
    let text = |second: &str| [&line(0, "hello"), second].join("\n");
    let (output, calls) = run_text(dir, &provider, &text(&wrong), &named).await;
    assert_eq!((output.code, calls), (Some(1), 2), "{output:?}");
    assert!(output.stdout.contains("add --retry-failed"), "{output:?}");
    let corrected = text(&line(1, "hello"));
    let retry = ["--batch", "nightly", "--retry-failed"];
    let (output, calls) = run_text(dir, &provider, &corrected, &retry).await;
    assert_eq!((output.code, calls), (Some(0), 1), "{output:?}");
    assert_eq!(answers(&dir.join("out.jsonl")).len(), 2);
    // What succeeded keeps its identity.
    let (output, calls) = run_text(dir, &provider, &text(&line(1, "other")), &retry).await;
    assert_eq!((output.code, calls), (Some(2), 0), "{output:?}");
}
