//! The examples that need nothing but this program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use forebay_schemas::completion::OutputLine;
use forebay_simulator::Vendor;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::program;

/// Where the example's simulated provider listens.
const PORT: &str = "9001";

#[tokio::test(flavor = "multi_thread")]
async fn every_simulated_provider_answers_the_example() {
    let shown = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/simulated-providers");
    let dir = tempfile::tempdir().expect("a directory");
    // Any free port, so that it runs beside other tests.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener
        .local_addr()
        .expect("an address")
        .port()
        .to_string();
    drop(listener);
    for name in ["run.sh", "forebay.toml", "jobs.jsonl"] {
        let text = fs::read_to_string(shown.join(name)).expect("text");
        fs::write(dir.path().join(name), text.replace(PORT, &port)).expect("written");
    }
    let mut command = Command::new("bash");
    command
        .arg("run.sh")
        .current_dir(dir.path())
        .env("FOREBAY", env!("CARGO_BIN_EXE_forebay"));
    command
        .env_remove("FOREBAY_CONFIG")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = program::finish(&mut command).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let lines = output.stdout.lines().filter(|line| line.starts_with('{'));
    let answers: Vec<OutputLine> = lines
        .map(|line| serde_json::from_str(line).expect("a line"))
        .collect();
    for answer in &answers {
        let body = answer.response.as_ref().expect("an answer").body.get();
        assert!(
            body.contains(&format!("You said: Hello, {}.", answer.custom_id)),
            "{body}"
        );
    }
    let answered: BTreeSet<_> = answers
        .iter()
        .map(|answer| answer.custom_id.as_str())
        .collect();
    assert_eq!(
        answered,
        Vendor::ALL.iter().map(|vendor| vendor.name()).collect()
    );
}
