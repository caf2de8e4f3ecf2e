//! The committed documents say what the types say, and the golden messages read and write back.

use std::path::Path;

use forebay_schemas::{Completion, Job, contract};
use serde_json::Value;

#[test]
fn the_committed_contract_is_the_one_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in contract::documents() {
        let path = root.join(path);
        if std::env::var_os("UPDATE_CONTRACT").is_some() {
            std::fs::write(&path, &text).expect("the contract can be written");
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} differs from the types; if that is meant, run UPDATE_CONTRACT=1 cargo test -p forebay-schemas",
            path.display()
        );
    }
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn same_json(left: &str, right: &str) {
    let parse = |text| serde_json::from_str::<Value>(text).expect("golden messages are JSON");
    assert_eq!(parse(left), parse(right));
}

#[test]
fn golden_jobs_read_and_write_back() {
    let text = golden("job.full.json");
    let job = Job::parse(text.as_bytes()).expect("the golden job is a job");
    same_json(&serde_json::to_string(&job).expect("a job is JSON"), &text);
    assert_eq!(job.fingerprint("chat"), "10ca445fc037e03cbf86982f701ab7b9");

    let line = golden("job.batch-line.json");
    let job = Job::parse(line.as_bytes()).expect("a line of an OpenAI Batch file is a job");
    assert_eq!(job.own_id(), Some("request-1"));
    assert_eq!(job.model().as_deref(), Some("gpt-4o-mini"));
}

#[test]
fn a_completion_of_format_1_is_written_in_the_words_of_today() {
    let completion: Completion =
        serde_json::from_str(&golden("completion.format-1.json")).expect("a completion");
    let written = serde_json::to_string(&completion).expect("a completion is JSON");
    let today = golden("completion.format-1.json")
        .replace("\"generation\"", "\"revision\"")
        .replace("\"quota\"", "\"account\"")
        .replace("\"took_ms\"", "\"duration_ms\"")
        .replace("\"reused\"", "\"cached_from\"")
        .replace("exceeds_key_limit", "exceeds_limit");
    same_json(&written, &today);
}

#[test]
fn golden_completions_read_and_write_back() {
    for (name, line) in [
        ("completion.succeeded.json", "output.succeeded.json"),
        ("completion.http-error.json", "output.http-error.json"),
        ("completion.expired.json", "output.expired.json"),
    ] {
        let text = golden(name);
        let completion: Completion = serde_json::from_str(&text).expect(name);
        same_json(
            &serde_json::to_string(&completion).expect("a completion is JSON"),
            &text,
        );
        let projected = serde_json::to_string(&completion.output_line()).expect("a line is JSON");
        same_json(&projected, &golden(line));
    }
}
