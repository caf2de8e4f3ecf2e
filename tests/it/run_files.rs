//! `forebay run` with the files of other tools and with the standard streams.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use forebay_schemas::completion::OutputLine;
use forebay_simulator::Provider;
use serde_json::json;

use crate::program::{command, finish, run};
use crate::support::{Forebay, provider};

const LINES: usize = 3;

async fn configured() -> (tempfile::TempDir, Provider) {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::calling(&provider)
        .pool("fail-bad_request", "fail-bad_request", &["one"])
        .write();
    (dir, provider)
}

/// The lines of a file whose second one is refused.
fn lines() -> String {
    let line = |(index, model): (usize, &str)| {
        let messages = json!([{ "role": "user", "content": "hello" }]);
        json!({ "custom_id": format!("r-{index}"), "body": { "model": model, "messages": messages } })
            .to_string()
            + "\n"
    };
    let models = ["chat", "fail-bad_request", "chat"];
    models.into_iter().enumerate().map(line).collect()
}

fn ids(text: &str) -> Vec<String> {
    let line = |line| serde_json::from_str::<OutputLine>(line).expect("a line of a batch's output");
    text.lines().map(|text| line(text).custom_id).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_file_and_one_in_utf_16_are_run_as_the_same_batch() {
    let (dir, provider) = configured().await;
    let dir = dir.path();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(lines().as_bytes()).expect("compressed");
    fs::write(dir.join("in.jsonl.gz"), gzip.finish().expect("compressed")).expect("written");
    let units = lines().encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(dir.join("in.txt"), [vec![0xFF, 0xFE], units].concat()).expect("written");
    for file in ["in.jsonl.gz", "in.txt"] {
        let args = ["run", file, "--output", "out.jsonl"];
        let output = run(dir, &args).await;
        assert_eq!(output.code, Some(1), "{file}: {output:?}");
        let answers = fs::read_to_string(dir.join("out.jsonl")).expect("there");
        assert_eq!(ids(&answers), ["r-0", "r-2"], "{file}");
    }
    assert_eq!(provider.calls().len(), LINES, "no line is called again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_and_writes_the_standard_streams() {
    let (dir, _provider) = configured().await;
    let dir = dir.path();
    fs::write(dir.join("in.jsonl"), lines()).expect("written");
    for (errors, printed) in [
        (None, &["r-0", "r-1", "r-2"][..]),
        (Some("failed.jsonl"), &["r-0", "r-2"]),
    ] {
        let mut args = vec!["run", "-", "--output", "-"];
        args.extend(errors.iter().flat_map(|file| ["--errors", file]));
        let mut command = command(dir, &args);
        command.stdin(fs::File::open(dir.join("in.jsonl")).expect("there"));
        let output = finish(&mut command).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        assert_eq!(ids(&output.stdout), printed);
        assert!(
            output.stderr.contains("2 of 3 lines succeeded"),
            "{output:?}"
        );
        assert!(
            !names(dir).contains(&"-".to_owned()),
            "no file of that name"
        );
    }
    let failed = fs::read_to_string(dir.join("failed.jsonl")).expect("there");
    assert_eq!(ids(&failed), ["r-1"]);
}
