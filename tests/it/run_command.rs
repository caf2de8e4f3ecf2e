//! `forebay run`: whole files, interrupted files, files that cannot be run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use forebay::batch::input::{Batch, BatchChoices};
use forebay_schemas::completion::OutputLine;
use forebay_simulator::Provider;
use forebay_simulator::fault::FaultPlan;
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::store::results::{ResultStore, Retention};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::program::{self, Serve, command, run};
use crate::support::{
    Account, Forebay, ForebayBuilder, provider, slow_provider, soon, until, wait_for_calls, within,
};

/// A directory with a configuration of two accounts of two calls at once each.
async fn configured() -> (tempfile::TempDir, Provider) {
    let provider = provider(&["name=one,key=sk-one", "name=two,key=sk-two"], "").await;
    (configuration(&provider).write(), provider)
}

fn configuration(provider: &Provider) -> ForebayBuilder {
    let limits = "{ concurrent = 2 }";
    Forebay::builder()
        .account(Account::at("one", provider).limits(limits))
        .account(Account::at("two", provider).limits(limits))
        .pool("gpt-4o-mini", "gpt-4o-mini", &["one", "two"])
}

fn input(dir: &Path, name: &str, lines: usize, text: &str) {
    let line = |index: usize| {
        let body = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": format!("{text} {index}") }] });
        json!({ "custom_id": format!("r-{index}"), "method": "POST", "url": "/v1/chat/completions", "body": body })
            .to_string()
    };
    let lines: Vec<_> = (0..lines).map(line).collect();
    fs::write(dir.join(name), lines.join("\n")).expect("written");
}

/// Every custom_id exactly once, in order, each answer its own.
fn whole(path: &Path, lines: usize, text: &str) {
    let output = fs::read_to_string(path).expect("there");
    let answers: Vec<OutputLine> = output
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line"))
        .collect();
    assert_eq!(answers.len(), lines);
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer.custom_id, format!("r-{index}"));
        let body = answer.response.as_ref().expect("an answer").body.get();
        assert!(
            body.contains(&format!("You said: {text} {index}\"")),
            "{body}"
        );
    }
}

const RUN: [&str; 4] = ["run", "in.jsonl", "--output", "out.jsonl"];

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_answered_in_order_and_its_failures_go_to_a_file_of_their_own() {
    let (dir, provider) = configured().await;
    input(dir.path(), "in.jsonl", 40, "hello");
    let bad = r#"{"custom_id":"bad","url":"/v1/chat/completions","body":{"model":"gpt-4o-mini","messages":[]}}"#;
    let text = fs::read_to_string(dir.path().join("in.jsonl")).expect("there");
    fs::write(dir.path().join("in.jsonl"), format!("{text}\n{bad}\n")).expect("written");
    let output = run(dir.path(), &RUN).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stdout.contains("40 of 41 lines succeeded"),
        "{output:?}"
    );
    assert!(
        output.stdout.contains("  1 × "),
        "the reason is told: {output:?}"
    );
    whole(&dir.path().join("out.jsonl"), 40, "hello");
    let errors = fs::read_to_string(dir.path().join("out.errors.jsonl")).expect("there");
    let error: OutputLine = serde_json::from_str(errors.trim()).expect("one line");
    assert_eq!(
        (
            error.custom_id.as_str(),
            error.response.expect("HTTP").status_code
        ),
        ("bad", 400)
    );
    assert!(error.error.is_none());
    assert!(!dir.path().join("out.jsonl.partial").exists());

    // Again: the same files, and no call.
    let before = fs::read(dir.path().join("out.jsonl")).expect("there");
    assert_eq!(run(dir.path(), &RUN).await.code, Some(1));
    assert_eq!(
        fs::read(dir.path().join("out.jsonl")).expect("there"),
        before
    );
    assert_eq!(provider.calls().len(), 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_refused_for_its_content_has_an_error_beside_the_providers_words() {
    let (dir, _provider) = configured().await;
    input(dir.path(), "in.jsonl", 1, "refuse hello");
    assert_eq!(run(dir.path(), &RUN).await.code, Some(1));
    let errors = fs::read_to_string(dir.path().join("out.errors.jsonl")).expect("there");
    let line: OutputLine = serde_json::from_str(errors.trim()).expect("one line");
    let response = line.response.expect("the provider's words");
    let error = line.error.expect("why it is no success");
    assert_eq!(
        (response.status_code, error.code.as_str()),
        (200, "content_filter")
    );
    assert!(
        !error.message.is_empty() && response.body.get().contains(&error.message),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_failed_calls_only_the_failed_lines_again() {
    let accounts = ["name=one,key=sk-one", "name=two,key=sk-two"];
    let provider = provider(&accounts, "error=0.4,malformed=0.4").await;
    let dir = configuration(&provider)
        .config("[call]\nattempts = 1\npatience = { normal = \"1ms\" }\n")
        .write();
    input(dir.path(), "in.jsonl", 10, "hello");
    let first = run(dir.path(), &RUN).await;
    assert_eq!(first.code, Some(1), "{first:?}");
    let failed = fs::read_to_string(dir.path().join("out.errors.jsonl"))
        .expect("there")
        .lines()
        .count();
    provider.fail(FaultPlan::default());
    let calls = provider.calls().len();
    assert_eq!(
        run(dir.path(), &RUN).await.code,
        Some(1),
        "without being asked to"
    );
    assert_eq!(provider.calls().len(), calls);
    let again = run(dir.path(), &[&RUN[..], &["--retry-failed"]].concat()).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(provider.calls().len(), calls + failed);
    whole(&dir.path().join("out.jsonl"), 10, "hello");
    assert!(
        !dir.path().join("out.errors.jsonl").exists(),
        "no line failed in the end"
    );
    // What stands is what the next run of the same file finds.
    assert_eq!(run(dir.path(), &RUN).await.code, Some(0));
    assert_eq!(provider.calls().len(), calls + failed);
}

/// How many lines of the batch in `in.jsonl` have a stored answer.
fn stored(dir: &Path, lines: usize) -> usize {
    let choices = BatchChoices {
        team: "default".to_owned(),
        ..BatchChoices::default()
    };
    let batch = Batch::read(&dir.join("in.jsonl"), &choices).expect("a batch");
    let retention = Retention {
        keep_days: 7,
        horizon_days: 2,
    };
    let results = ResultStore::open(&dir.join("data/results"), retention, SystemClock.now())
        .expect("a store");
    let answered = batch.lines.iter().filter(|line| {
        results
            .get(&batch.identity(line))
            .expect("readable")
            .is_some()
    });
    assert_eq!(batch.lines.len(), lines);
    answered.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_resumes_to_the_same_bytes() {
    const LINES: usize = 120;
    let (dir, provider) = configured().await;
    input(dir.path(), "in.jsonl", LINES, "hello");
    let mut in_flight = 0;
    for part in [LINES / 3, LINES * 2 / 3] {
        let mut child = command(dir.path(), &RUN).spawn().expect("it starts");
        wait_for_calls(&provider, part).await;
        child.kill().await.expect("killed");
        assert!(!dir.path().join("out.jsonl").exists());
        // Every call so far that has no stored answer: those in flight at this kill, and those that were
        // repeated because of the one before.
        in_flight = provider.calls().len() - stored(dir.path(), LINES);
    }
    let output = run(dir.path(), &RUN).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    whole(&dir.path().join("out.jsonl"), LINES, "hello");
    let calls = provider.calls().len();
    assert!(
        calls <= LINES + in_flight,
        "{in_flight} were in flight at the kills, {calls} calls"
    );

    let (other, _provider) = configured().await;
    input(other.path(), "in.jsonl", LINES, "hello");
    assert_eq!(run(other.path(), &RUN).await.code, Some(0));
    let bytes = |dir: &Path| fs::read(dir.join("out.jsonl")).expect("there");
    assert!(
        bytes(dir.path()) == bytes(other.path()),
        "as if it had never been killed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn files_with_the_same_custom_ids_get_their_own_answers_at_once_and_in_turn() {
    let (dir, provider) = configured().await;
    input(dir.path(), "a.jsonl", 60, "first");
    input(dir.path(), "b.jsonl", 60, "second");
    let serve = Serve::start(dir.path()).await;
    let (a, b) = tokio::join!(
        run(dir.path(), &["run", "a.jsonl", "--output", "a.out.jsonl"]),
        run(dir.path(), &["run", "b.jsonl", "--output", "b.out.jsonl"]),
    );
    assert_eq!((a.code, b.code), (Some(0), Some(0)), "{a:?} {b:?}");
    serve.terminate().await;
    whole(&dir.path().join("a.out.jsonl"), 60, "first");
    whole(&dir.path().join("b.out.jsonl"), 60, "second");
    let again = run(
        dir.path(),
        &[
            "run",
            "b.jsonl",
            "--output",
            "b2.out.jsonl",
            "--team",
            "acme",
        ],
    )
    .await;
    assert_eq!(again.code, Some(0), "{again:?}");
    whole(&dir.path().join("b2.out.jsonl"), 60, "second");
    assert_eq!(provider.calls().len(), 180);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_file_of_something_else_is_not_overwritten() {
    let (dir, _provider) = configured().await;
    input(dir.path(), "in.jsonl", 3, "hello");
    fs::write(dir.path().join("out.jsonl"), "my only copy\n").expect("written");
    let refused = run(dir.path(), &RUN).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--force"), "{refused:?}");
    assert_eq!(
        fs::read_to_string(dir.path().join("out.jsonl")).expect("there"),
        "my only copy\n"
    );
    let forced = run(
        dir.path(),
        &["run", "in.jsonl", "--output", "out.jsonl", "--force"],
    )
    .await;
    assert_eq!(forced.code, Some(0), "{forced:?}");
    whole(&dir.path().join("out.jsonl"), 3, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_or_a_closed_terminal_ends_the_run_and_the_same_command_resumes_it() {
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT] {
        let (dir, provider) = configured().await;
        input(dir.path(), "in.jsonl", 100, "hello");
        let mut child = command(dir.path(), &RUN).spawn().expect("it starts");
        wait_for_calls(&provider, 20).await;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("a process");
        kill_process(pid, signal).expect("sent");
        let status = soon("the end of the run", child.wait())
            .await
            .expect("it ended");
        assert_eq!(status.code(), Some(130), "{signal:?}");
        assert_eq!(run(dir.path(), &RUN).await.code, Some(0), "{signal:?}");
        whole(&dir.path().join("out.jsonl"), 100, "hello");
        assert_eq!(
            provider.calls().len(),
            100,
            "those in flight were waited for, so nothing was repeated"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_cannot_be_run_says_why_and_publishes_nothing() {
    let (dir, provider) = configured().await;
    let good = r#"{"custom_id":"a","body":{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x"}]}}"#;
    let cases: [(&str, String, &[&str]); 9] = [
        (
            "not JSON",
            format!("{good}\nnot json"),
            &["line 2", "expected"],
        ),
        (
            "no body",
            r#"{"custom_id":"a"}"#.to_owned(),
            &["line 1", "missing field `body`"],
        ),
        (
            "twice",
            format!("{good}\n{good}"),
            &["line 2", "custom_id `a`", "line 1"],
        ),
        (
            "unknown pool",
            good.replace("gpt-4o-mini", "gpt-9"),
            &["line 1", "no pool `gpt-9`", "gpt-4o-mini", "--pool"],
        ),
        (
            "no model",
            good.replace(r#""model":"gpt-4o-mini","#, ""),
            &["line 1", "no body.model", "--pool"],
        ),
        (
            "unknown url",
            format!(
                "{good}\n{}",
                good.replace(r#""a","#, r#""b","url":"/v1/nonsense","#)
            ),
            &[
                "in.jsonl",
                "line 2",
                "no provider has `/v1/nonsense`",
                "/v1/embeddings",
            ],
        ),
        ("empty", String::new(), &["no line in this file"]),
        (
            "an array",
            format!("[{good}]"),
            &["in.jsonl is a JSON array", "jq -c '.[]' in.jsonl"],
        ),
        (
            "a long id",
            good.replace(r#""a","#, &format!(r#""{}","#, "x".repeat(600))),
            &["line 1", "`custom_id`: has 600 bytes"],
        ),
    ];
    for (what, text, words) in cases {
        fs::write(dir.path().join("in.jsonl"), text).expect("written");
        let output = run(dir.path(), &RUN).await;
        assert_eq!(output.code, Some(2), "{what}: {output:?}");
        for word in words {
            assert!(
                output.stderr.contains(word),
                "{what}: {word} not in {}",
                output.stderr
            );
        }
    }
    fs::write(
        dir.path().join("in.jsonl"),
        good.replace("gpt-4o-mini", "gpt-9"),
    )
    .expect("written");
    let named = [&RUN[..], &["--pool", "gpt-4o-mini"]].concat();
    let wrong_model = async |args: &[&str]| {
        let output = run(dir.path(), &[&named[..], args].concat()).await;
        assert_eq!(output.code, Some(2), "{output:?}");
        let words = "line 1: pool `gpt-4o-mini` has no model `gpt-9`; it has gpt-4o-mini;";
        assert!(output.stderr.contains(words), "{output:?}");
    };
    wrong_model(&[]).await;
    // Where the configuration names no pools the worker is asked.
    let data = format!("[data]\ndir = {:?}\n", dir.path().join("data"));
    fs::write(dir.path().join("client.toml"), data).expect("written");
    let serve = Serve::start(dir.path()).await;
    wrong_model(&["--config", "client.toml"]).await;
    serve.terminate().await;
    let missing = run(
        dir.path(),
        &["run", "nowhere.jsonl", "--output", "out.jsonl"],
    )
    .await;
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.stderr.contains("nowhere.jsonl"), "{missing:?}");
    assert_eq!(provider.calls(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_keys_are_all_rejected_ends_the_run_with_the_reason() {
    let (dir, _provider) = configured().await;
    for key in ["one-0.key", "two-0.key"] {
        fs::write(dir.path().join(key), "sk-wrong").expect("written");
    }
    input(dir.path(), "in.jsonl", 5, "hello");
    let output = run(dir.path(), &RUN).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(
        output
            .stderr
            .contains("no account serves pool `gpt-4o-mini` any more (one/key-1: bad_key"),
        "{output:?}"
    );
    // Before that a worker says what is to be done.
    let serve = Serve::start(dir.path()).await;
    until("a key that is not accepted", async || {
        let told = run(dir.path(), &["accounts"]).await.stdout;
        told.contains("one: key key-1 is not accepted: put it right")
    })
    .await;
    serve.terminate().await;
    for key in ["one", "two"] {
        fs::write(dir.path().join(format!("{key}-0.key")), format!("sk-{key}")).expect("written");
    }
    assert_eq!(
        run(dir.path(), &RUN).await.code,
        Some(0),
        "mended, the same command goes on"
    );
    whole(&dir.path().join("out.jsonl"), 5, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_configurations_and_servers_have_their_exit_codes() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(
        dir.path().join("in.jsonl"),
        r#"{"custom_id":"a","body":{"model":"m"}}"#,
    )
    .expect("written");
    let write = |text: &str| fs::write(dir.path().join("forebay.toml"), text).expect("written");
    let nothing = run(dir.path(), &RUN).await;
    assert_eq!(nothing.code, Some(2), "{nothing:?}");
    assert!(
        nothing.stderr.contains("there is no forebay.toml here"),
        "{nothing:?}"
    );

    write(
        "[nats]\nlisten = 1\nurll = \"x\"\n[pool.m]\ntargets = [{ account = \"q\", model = \"m\" }]\n",
    );
    let mistakes = run(dir.path(), &RUN).await;
    assert_eq!(mistakes.code, Some(2), "{mistakes:?}");
    for words in [
        "3 mistakes in forebay.toml",
        "nats.listen",
        "nats.urll",
        "pool.m.targets[0].account",
    ] {
        assert!(
            mistakes.stderr.contains(words),
            "{words} not in {}",
            mistakes.stderr
        );
    }

    write(
        "[nats]\nurl = \"nats://127.0.0.1:9\"\n[account.q]\nprovider = \"openai\"\nkeys = [{ env = \"FOREBAY_NO_SUCH_KEY\" }]\n[pool.m]\ntargets = [{ account = \"q\", model = \"m\" }]\n",
    );
    let down = run(dir.path(), &RUN).await;
    assert_eq!(down.code, Some(3), "{down:?}");
    assert!(
        down.stderr
            .contains("NATS at nats://127.0.0.1:9 does not answer"),
        "{down:?}"
    );
    let key = program::run(dir.path(), &["check"]).await;
    assert_eq!(key.code, Some(2), "{key:?}");
    assert!(
        key.stderr.contains(
            "account.q.keys[0].env: the environment variable FOREBAY_NO_SUCH_KEY is not set"
        ),
        "{key:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_has_help() {
    let dir = tempfile::tempdir().expect("a directory");
    let top = run(dir.path(), &["--help"]).await.stdout;
    let commands: BTreeSet<_> = [
        "demo",
        "serve",
        "run",
        "publish",
        "results",
        "queues",
        "accounts",
        "check",
        "simulate",
        "completions",
    ]
    .into();
    for name in commands {
        assert!(top.contains(&format!("\n  {name} ")), "{name} not in {top}");
        let help = run(dir.path(), &[name, "--help"]).await;
        assert_eq!(help.code, Some(0));
        assert!(
            help.stdout.contains("--config") && help.stdout.contains("--json"),
            "{name}: {}",
            help.stdout
        );
    }
    let script = run(dir.path(), &["completions", "bash"]).await;
    assert!(script.stdout.contains("_forebay"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_the_batchs_are_never_overwritten_or_deleted() {
    let (dir, provider) = configured().await;
    let path = |name: &str| dir.path().join(name);
    input(dir.path(), "in.jsonl", 2, "hello");
    let asked = fs::read(path("in.jsonl")).expect("there");
    fs::write(path("in.jsonl.partial"), &asked).expect("written");
    fs::write(path("notes.errors.jsonl"), "my notes\n").expect("written");
    fs::write(path("kept.jsonl.partial"), "my notes\n").expect("written");
    fs::create_dir(path("folder")).expect("made");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .expect("made");
    for args in [
        &[
            "run", "in.jsonl", "--output", "o.jsonl", "--errors", "in.jsonl",
        ][..],
        &["run", "in.jsonl", "--output", "in.jsonl", "--force"],
        &["run", "in.jsonl.partial", "--output", "in.jsonl", "--force"],
        &["run", "in.jsonl", "--output", "notes.jsonl"],
        &["run", "in.jsonl", "--output", "kept.jsonl"],
        &["run", "in.jsonl", "--output", "folder", "--force"],
        &["run", "in.jsonl", "--output", "fifo", "--force"],
        &["run", "in.jsonl", "--output", "/dev/null", "--force"],
    ] {
        let output = run(dir.path(), args).await;
        assert_eq!(output.code, Some(2), "{args:?}: {output:?}");
    }
    assert_eq!(fs::read(path("in.jsonl")).expect("there"), asked);
    assert_eq!(fs::read(path("in.jsonl.partial")).expect("there"), asked);
    for name in ["notes.errors.jsonl", "kept.jsonl.partial"] {
        assert_eq!(fs::read_to_string(path(name)).expect("there"), "my notes\n");
    }
    assert_eq!(provider.calls(), []);
    // A link is followed: what it names is written, and it stays a link.
    fs::create_dir(path("elsewhere")).expect("made");
    fs::write(path("elsewhere/real.jsonl"), "").expect("written");
    std::os::unix::fs::symlink(path("elsewhere/real.jsonl"), path("link.jsonl")).expect("made");
    assert_eq!(
        run(dir.path(), &["run", "in.jsonl", "--output", "link.jsonl"])
            .await
            .code,
        Some(0)
    );
    assert!(
        fs::symlink_metadata(path("link.jsonl"))
            .expect("there")
            .is_symlink()
    );
    whole(&path("elsewhere/real.jsonl"), 2, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_of_the_same_output_is_refused_and_harms_nothing() {
    let (dir, provider) = configured().await;
    input(dir.path(), "in.jsonl", 200, "hello");
    let first = command(dir.path(), &RUN).spawn().expect("it starts");
    wait_for_calls(&provider, 20).await;
    let second = run(dir.path(), &RUN).await;
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(second.stderr.contains("another run writes"), "{second:?}");
    let first = soon("the first run", first.wait_with_output())
        .await
        .expect("it ended");
    assert_eq!(first.status.code(), Some(0));
    whole(&dir.path().join("out.jsonl"), 200, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_the_restart_of_its_server() {
    let (dir, provider) = configured().await;
    input(dir.path(), "in.jsonl", 400, "hello");
    let child = command(dir.path(), &RUN).spawn().expect("it starts");
    wait_for_calls(&provider, 40).await;
    let pid = fs::read_to_string(dir.path().join("data/nats/nats-server.pid")).expect("a pid");
    let pid = pid
        .trim()
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let limit = std::time::Duration::from_secs(120);
    let output = within(limit, "the end of the run", child.wait_with_output()).await;
    let output = output.expect("it ended");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    whole(&dir.path().join("out.jsonl"), 400, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_batch_does_not_give_another_requests_answer() {
    let (dir, _provider) = configured().await;
    input(dir.path(), "a.jsonl", 2, "first");
    input(dir.path(), "b.jsonl", 2, "second");
    let named = async |file: &str, out: &str| {
        run(
            dir.path(),
            &["run", file, "--output", out, "--batch", "nightly"],
        )
        .await
    };
    assert_eq!(named("a.jsonl", "a.out.jsonl").await.code, Some(0));
    let other = named("b.jsonl", "b.out.jsonl").await;
    assert_eq!(other.code, Some(2), "{other:?}");
    assert!(
        other
            .stderr
            .contains("another request under this custom_id"),
        "{other:?}"
    );
    assert!(!dir.path().join("b.out.jsonl").exists());
    assert_eq!(
        named("a.jsonl", "a.out.jsonl").await.code,
        Some(0),
        "the same file goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_goes_on_when_nobody_reads_what_it_prints() {
    let (dir, provider) = configured().await;
    let serve = Serve::start(dir.path()).await;
    let line = |index: usize| {
        json!({ "id": index.to_string(), "body": { "messages": [{ "role": "user", "content": "x" }] } })
            .to_string()
    };
    fs::write(
        dir.path().join("jobs.jsonl"),
        (0..50).map(line).collect::<Vec<_>>().join("\n"),
    )
    .expect("written");
    let mut child = command(
        dir.path(),
        &["publish", "jobs.jsonl", "--pool", "gpt-4o-mini"],
    )
    .spawn()
    .expect("it starts");
    drop(child.stdout.take());
    assert!(
        soon("the end of publish", child.wait())
            .await
            .expect("it ended")
            .success()
    );
    wait_for_calls(&provider, 50).await;
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_takes_the_place_of_a_worker_that_ends() {
    let (dir, provider) = configured().await;
    input(dir.path(), "in.jsonl", 300, "hello");
    let serve = Serve::start(dir.path()).await;
    let (output, ()) = tokio::join!(run(dir.path(), &RUN), async {
        wait_for_calls(&provider, 20).await;
        assert!(serve.terminate().await.0.success());
    });
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("taking its place"), "{output:?}");
    whole(&dir.path().join("out.jsonl"), 300, "hello");
    assert_eq!(
        provider.calls().len(),
        300,
        "what was in flight was finished first"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_no_account_could_serve_are_called_again_once_that_is_fixed() {
    let (dir, provider) = configured().await;
    let dir = configuration(&provider)
        .pool("gpt-4o-mini", "no-such-model", &["one", "two"])
        .in_dir(dir)
        .write();
    input(dir.path(), "in.jsonl", 30, "hello");
    let output = run(dir.path(), &RUN).await;
    assert_eq!(output.code, Some(1), "{output:?}");
    let stopped = "stopped, since the first 20 lines all failed with model_not_";
    assert!(output.stdout.contains(stopped), "{output:?}");
    assert!(!provider.calls().is_empty());
    let dir = configuration(&provider).in_dir(dir).write();
    let output = run(dir.path(), &RUN).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    whole(&dir.path().join("out.jsonl"), 30, "hello");
    let served = provider
        .calls()
        .iter()
        .filter(|call| call.status == 200)
        .count();
    assert_eq!(served, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_address_ends_the_run_with_the_cause() {
    let dir = Forebay::builder()
        .account(Account::at_url("one", "http://no-such-host.invalid/v1"))
        .pool("gpt-4o-mini", "gpt-4o-mini", &["one"])
        .write();
    input(dir.path(), "in.jsonl", 5, "hello");
    let output = run(dir.path(), &RUN).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    assert!(
        output
            .stderr
            .contains("no account of pool `gpt-4o-mini` can be reached"),
        "{output:?}"
    );
    assert!(output.stderr.contains("dns error"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_first_lines_all_fail_alike_sends_no_more_unless_it_is_told_to() {
    let (dir, provider) = configured().await;
    let line = |index| {
        format!(
            r#"{{"custom_id":"{index}","url":"/v1/chat/completions","body":{{"model":"gpt-4o-mini","messages":[]}}}}"#
        )
    };
    let lines: Vec<_> = (0..60).map(line).collect();
    fs::write(dir.path().join("in.jsonl"), lines.join("\n")).expect("written");
    let stopped = run(dir.path(), &RUN).await;
    assert_eq!((stopped.code, provider.calls().len()), (Some(1), 20));
    for words in [
        "the first 20 lines all failed",
        "the other 40 lines were not sent",
    ] {
        assert!(stopped.stdout.contains(words), "{stopped:?}");
    }
    let all = run(dir.path(), &[&RUN[..], &["--keep-going"]].concat()).await;
    assert_eq!((all.code, provider.calls().len()), (Some(1), 60));
    assert!(all.stdout.contains("0 of 60 lines succeeded"), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_are_set_to_nothing_are_as_none_and_a_dead_proxy_is_named() {
    let (dir, _provider) = configured().await;
    input(dir.path(), "in.jsonl", 2, "hello");
    let mut command_with_nothing = command(dir.path(), &RUN);
    for name in [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ] {
        command_with_nothing.env(name, "");
    }
    let output = program::finish(&mut command_with_nothing).await;
    assert_eq!(output.code, Some(0), "{output:?}");

    let (dir, _provider) = configured().await;
    input(dir.path(), "in.jsonl", 2, "hello");
    let mut through_proxy = command(dir.path(), &RUN);
    through_proxy.env("http_proxy", "http://me:secret@127.0.0.1:9");
    let output = program::finish(&mut through_proxy).await;
    assert_eq!(output.code, Some(3), "{output:?}");
    let named = output
        .stderr
        .contains("the proxy 127.0.0.1:9 of the environment");
    assert!(named && !output.stderr.contains("secret"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_output_directory_is_deleted_ends_before_all_lines_are_called() {
    let provider = slow_provider(Duration::from_millis(100)).await;
    let account = Account::at("one", &provider).limits("{ concurrent = 4 }");
    let dir = Forebay::builder()
        .account(account)
        .pool("gpt-4o-mini", "gpt-4o-mini", &["one"])
        .write();
    input(dir.path(), "in.jsonl", 200, "hello");
    let out = dir.path().join("out");
    fs::create_dir(&out).expect("made");
    let args = ["run", "in.jsonl", "--output", "out/all.jsonl"];
    let child = command(dir.path(), &args).spawn().expect("it starts");
    wait_for_calls(&provider, 10).await;
    fs::remove_dir_all(&out).expect("deleted");
    let ended = child.wait_with_output().await.expect("it ends");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("was deleted or moved"), "{stderr}");
    assert!(provider.calls().len() < 200, "{}", provider.calls().len());
    fs::create_dir(&out).expect("made");
    assert_eq!(run(dir.path(), &args).await.code, Some(0));
    whole(&out.join("all.jsonl"), 200, "hello");
    assert_eq!(provider.calls().len(), 200);
}
