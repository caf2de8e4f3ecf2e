//! The process and the server that it minds.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::program::{self, Serve};
use crate::support::{Account, Forebay, eventually, nats_server, provider, soon, until};

const JOB: &str = r#"{"id":"ID","body":{"messages":[{"role":"user","content":"hello"}]}}"#;

async fn configured() -> (tempfile::TempDir, forebay_simulator::Provider) {
    let provider = provider(&["name=one,key=sk-do-not-print-this"], "").await;
    (Forebay::calling(&provider).write(), provider)
}

/// Publishes a job and reads its stored completion, both with the command line.
async fn answered(dir: &Path, id: &str) -> Value {
    std::fs::write(dir.join("job.jsonl"), JOB.replace("ID", id)).expect("written");
    let published = program::run(dir, &["publish", "job.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    eventually("a result", async || {
        let got = program::run(dir, &["results", "get", id]).await;
        (got.code == Some(0)).then(|| serde_json::from_str(&got.stdout).expect("JSON"))
    })
    .await
}

fn server_pid(dir: &Path) -> Pid {
    let text = std::fs::read_to_string(dir.join("data/nats/nats-server.pid")).expect("a pid");
    text.trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process")
}

fn runs(pid: Pid) -> bool {
    // A process that has ended and was not waited for is none that runs.
    let stat =
        std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_serve_on_the_same_data_directory_names_the_holder() {
    let (dir, _provider) = configured().await;
    let first = Serve::start(dir.path()).await;
    let second = program::run(dir.path(), &["serve"]).await;
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(
        second
            .stderr
            .contains(&format!("in use by process {}", first.pid())),
        "{second:?}"
    );
    let (status, _) = first.terminate().await;
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_dies_is_restarted_and_work_goes_on() {
    let (dir, _provider) = configured().await;
    let mut serve = Serve::start(dir.path()).await;
    assert_eq!(answered(dir.path(), "before").await["status"], "succeeded");
    let pid = server_pid(dir.path());
    kill_process(pid, Signal::KILL).expect("killed");
    serve.wait_for("starting it again").await;
    serve.wait_for("connected to NATS").await;
    assert_eq!(answered(dir.path(), "after").await["status"], "succeeded");
    assert_ne!(server_pid(dir.path()), pid);
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nats_server_ends_with_its_process_and_the_next_one_uses_the_same_store() {
    let (dir, provider) = configured().await;
    let serve = Serve::start(dir.path()).await;
    assert_eq!(answered(dir.path(), "first").await["status"], "succeeded");
    let pid = server_pid(dir.path());
    serve.kill().await;
    until("the end of the server", async || !runs(pid)).await;
    let serve = Serve::start(dir.path()).await;
    assert_eq!(answered(dir.path(), "first").await["status"], "succeeded");
    assert_eq!(
        provider.calls().len(),
        1,
        "answered before, so not called again"
    );
    let (status, _) = serve.terminate().await;
    assert!(status.success());
    assert!(
        !runs(server_pid_or(dir.path(), pid)),
        "the server stopped with a clean stop too"
    );
}

fn server_pid_or(dir: &Path, other: Pid) -> Pid {
    if dir.join("data/nats/nats-server.pid").exists() {
        server_pid(dir)
    } else {
        other
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaned_nats_server_is_stopped_before_a_new_one_starts() {
    let (dir, _provider) = configured().await;
    Serve::start(dir.path()).await.terminate().await;
    // The same server on the same store, as a crash can leave it where the kernel does not end it.
    let binary = forebay::nats::server::find().expect("a server");
    let config = dir
        .path()
        .canonicalize()
        .expect("a path")
        .join("data/nats/nats-server.conf");
    let mut orphan = tokio::process::Command::new(binary);
    let mut orphan = orphan
        .arg("--config")
        .arg(&config)
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let file = dir.path().join("data/nats/nats-server.pid");
    let pid = orphan.id().expect("it runs").to_string();
    // The file of the server before it may be there still.
    until("the orphan's pid", async || {
        std::fs::read_to_string(&file).unwrap_or_default().trim() == pid
    })
    .await;
    let (serve, _) = tokio::join!(
        Serve::start(dir.path()),
        soon("the orphan's end", orphan.wait())
    );
    assert_eq!(answered(dir.path(), "after").await["status"], "succeeded");
    serve.terminate().await;
}

/// The paths in a directory that group or others may use.
fn open_to_others(dir: &Path) -> Vec<PathBuf> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        let metadata = std::fs::symlink_metadata(&path).expect("there");
        if metadata.permissions().mode() & 0o077 != 0 {
            open.push(path.clone());
        }
        if metadata.is_dir() {
            open.extend(open_to_others(&path));
        }
    }
    open
}

/// Starts `serve` in a shell with this umask.
async fn serve_with_umask(dir: &Path, umask: &str) -> Serve {
    let program = env!("CARGO_BIN_EXE_forebay");
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", &format!("umask {umask}; exec {program} serve")])
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true);
    let mut serve = Serve::of(&mut command);
    serve.wait_for("ready:").await;
    serve
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_is_the_owners_alone_whatever_the_umask() {
    let (dir, _provider) = configured().await;
    let data = dir.path().join("data");
    let serve = serve_with_umask(dir.path(), "000").await;
    answered(dir.path(), "first").await;
    serve.terminate().await;
    let private = |path: &Path| {
        let mode = std::fs::metadata(path).expect("there").permissions().mode();
        mode & 0o777 == 0o700
    };
    assert!(private(&data));
    assert_eq!(open_to_others(&data), Vec::<PathBuf>::new());

    // One that an older Forebay left is put right.
    let everything = std::process::Command::new("chmod")
        .args(["-R", "a+rwX"])
        .arg(&data)
        .status();
    assert!(everything.expect("it runs").success());
    assert_ne!(open_to_others(&data), Vec::<PathBuf>::new());
    let serve = serve_with_umask(dir.path(), "022").await;
    answered(dir.path(), "second").await;
    serve.terminate().await;
    assert!(private(&data));
    assert_eq!(open_to_others(&data), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_batch_has_the_mode_that_the_users_umask_gives() {
    let (dir, _provider) = configured().await;
    let line = r#"{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"hello"}]}}"#;
    std::fs::write(dir.path().join("in.jsonl"), line).expect("written");
    let program = env!("CARGO_BIN_EXE_forebay");
    let run = format!("umask 027; exec {program} run in.jsonl --output out.jsonl --pool chat");
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", &run]).current_dir(dir.path());
    let ended = program::finish(&mut command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let output = std::fs::metadata(dir.path().join("out.jsonl")).expect("there");
    assert_eq!(output.permissions().mode() & 0o777, 0o640);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_managed_server_gets_no_key_and_neither_process_writes_a_core_file() {
    let (dir, _provider) = configured().await;
    let mut command = program::command(dir.path(), &["serve"]);
    let mut serve = Serve::of(command.env("OPENAI_API_KEY", "sk-do-not-pass-this-on"));
    serve.wait_for("ready:").await;
    let server = server_pid(dir.path()).as_raw_nonzero().to_string();
    let environment = std::fs::read(format!("/proc/{server}/environ")).expect("readable");
    assert_eq!(String::from_utf8_lossy(&environment), "");
    for pid in [server, serve.pid().to_string()] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("readable");
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let core = core.expect("a limit").split_whitespace();
        assert_eq!(core.skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    }
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_the_owners_alone_and_the_key_is_written_nowhere() {
    let (dir, _provider) = configured().await;
    // All that can be logged, by what Forebay is made of too.
    let mut serve = Serve::of(program::command(dir.path(), &["serve"]).env("RUST_LOG", "trace"));
    serve.wait_for("ready:").await;
    for file in [
        "data/forebay.json",
        "data/nats/credential",
        "data/nats/nats-server.conf",
    ] {
        let mode = std::fs::metadata(dir.path().join(file))
            .expect(file)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let result = answered(dir.path(), "secret").await.to_string();
    let keys = program::run(dir.path(), &["accounts", "--json"])
        .await
        .stdout;
    let (_, log) = serve.terminate().await;
    assert!(log.contains("TRACE"), "{log}");
    let credential =
        std::fs::read_to_string(dir.path().join("data/nats/credential")).expect("there");
    assert!(!log.contains(&credential), "the credential is logged");
    for (what, text) in [("result", result), ("keys", keys), ("log", log)] {
        assert!(!text.contains("do-not-print-this"), "{what}: {text}");
    }
    let mut searched = 0;
    for path in files(&dir.path().join("data")) {
        let bytes = std::fs::read(&path).expect("readable");
        searched += bytes.len();
        let found = bytes
            .windows(17)
            .any(|window| window == b"do-not-print-this");
        assert!(!found, "the key stands in {}", path.display());
    }
    assert!(searched > 1_000, "the store was searched");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .expect("a directory")
        .flatten()
        .map(|entry| entry.path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_say_when_nothing_runs() {
    let (dir, _provider) = configured().await;
    for args in [
        &["queues"][..],
        &["accounts"],
        &["publish", "--pool", "chat"],
    ] {
        let output = program::run(dir.path(), args).await;
        assert_eq!(output.code, Some(3), "{args:?}: {output:?}");
        let data = dir.path().join("data").display().to_string();
        let words = format!(
            "nothing runs on the data directory {data} ([data] dir): start `forebay serve`"
        );
        assert!(output.stderr.contains(&words), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relative_data_directory_is_printed_as_an_absolute_path() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let dir = Forebay::calling(&provider)
        .config("[data]\ndir = \"data\"\n")
        .write();
    let dir = dir.path().canonicalize().expect("a path");
    let whole = format!("{} ([data] dir)", dir.join("data").display());
    let nobody = program::run(&dir, &["accounts"]).await;
    assert!(
        nobody
            .stderr
            .contains(&format!("nothing runs on the data directory {whole}")),
        "{nobody:?}"
    );
    std::fs::write(dir.join("data"), "a file").expect("written");
    for args in [&["serve"][..], &["accounts"], &["results", "get", "a"]] {
        let refused = program::run(&dir, args).await;
        assert_eq!(refused.code, Some(2), "{args:?}: {refused:?}");
        assert!(
            refused
                .stderr
                .contains(&format!("data directory {whole}: ")),
            "{args:?}: {refused:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tailing_completions_over_a_restart_misses_none() {
    let (dir, _provider) = configured().await;
    let serve = Serve::start(dir.path()).await;
    let mut tail = program::command(dir.path(), &["results", "tail", "--all"])
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(tail.stdout.take().expect("piped")).lines();
    let mut next = async || {
        let line = soon("a completion", lines.next_line())
            .await
            .expect("stdout")
            .expect("it runs");
        serde_json::from_str::<Value>(&line).expect("JSON")
    };
    answered(dir.path(), "before").await;
    assert_eq!(next().await["id"], "before");
    serve.kill().await;
    let serve = Serve::start(dir.path()).await;
    answered(dir.path(), "after").await;
    assert_eq!(next().await["id"], "after");
    tail.kill().await.expect("killed");
    serve.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_fails_on_a_nats_server_without_jetstream() {
    let provider = provider(&["name=one,key=sk-one"], "").await;
    let server_dir = tempfile::tempdir().expect("a directory");
    let (_server, address) = nats_server(server_dir.path(), "", &[]).await;
    let dir = Forebay::calling(&provider).nats(&address).write();
    let checked = program::run(dir.path(), &["check"]).await;
    assert_eq!(checked.code, Some(3), "{checked:?}");
    assert!(checked.stderr.contains("has no JetStream"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_keys_in_files_again() {
    let provider = provider(&["name=one,key=sk-of-today"], "").await;
    let dir = Forebay::builder()
        .account(Account::at("one", &provider).keys(&["sk-of-yesterday"]))
        .pool("chat", "gpt-4o-mini", &["one"])
        .write();
    let mut serve = Serve::start(dir.path()).await;
    std::fs::write(dir.path().join("job.jsonl"), JOB).expect("written");
    let published = program::run(dir.path(), &["publish", "job.jsonl", "--pool", "chat"]).await;
    assert_eq!(published.code, Some(0), "{published:?}");
    serve.wait_for("the key is disabled").await;
    std::fs::write(dir.path().join("one-0.key"), "sk-of-today").expect("written");
    let pid = i32::try_from(serve.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process"), Signal::HUP).expect("sent");
    serve
        .wait_for("the key was read again, and is another one")
        .await;
    eventually("a result", async || {
        let got = program::run(dir.path(), &["results", "get", "ID"]).await;
        (got.code == Some(0)).then_some(())
    })
    .await;
}
