//! The `forebay` program as a process.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use crate::support::{measure_this_test, soon};

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command in a directory, without the environment's configuration.
pub(crate) fn command(dir: &Path, args: &[&str]) -> Command {
    measure_this_test();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .args(args)
        .current_dir(dir)
        .env_remove("FOREBAY_CONFIG")
        .env_remove("RUST_LOG");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub(crate) async fn run(dir: &Path, args: &[&str]) -> Output {
    finish(&mut command(dir, args)).await
}

/// Runs a command to its end.
pub(crate) async fn finish(command: &mut Command) -> Output {
    measure_this_test();
    let output = soon("the end of a command", command.output())
        .await
        .expect("it runs");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running `forebay serve`.
pub(crate) struct Serve {
    child: Child,
    stderr: BufReader<ChildStderr>,
    seen: String,
}

impl Serve {
    /// Starts it in `dir` and waits until it is ready.
    pub(crate) async fn start(dir: &Path) -> Self {
        let mut serve = Self::spawn(dir);
        serve.wait_for("ready:").await;
        serve
    }

    /// Starts it in `dir`.
    pub(crate) fn spawn(dir: &Path) -> Self {
        Self::of(&mut command(dir, &["serve"]))
    }

    /// Starts this command.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self {
            child,
            stderr,
            seen: String::new(),
        }
    }

    /// Waits for a line with `words` on its stderr.
    pub(crate) async fn wait_for(&mut self, words: &str) {
        loop {
            let mut line = String::new();
            let read = soon(words, self.stderr.read_line(&mut line))
                .await
                .expect("stderr");
            self.seen.push_str(&line);
            assert!(read > 0, "it ended without `{words}`:\n{}", self.seen);
            if line.contains(words) {
                return;
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Ends it with SIGTERM, which it does not handle before it is ready; returns how it ended and all that it logged.
    pub(crate) async fn terminate(mut self) -> (ExitStatus, String) {
        if !self.seen.contains("ready:") {
            self.wait_for("ready:").await;
        }
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process"), rustix::process::Signal::TERM)
            .expect("told");
        let status = soon("the end of serve", self.child.wait())
            .await
            .expect("it ended");
        soon("its log", self.stderr.read_to_string(&mut self.seen))
            .await
            .expect("stderr");
        (status, self.seen)
    }

    /// Waits until it ends by itself; returns its exit code.
    pub(crate) async fn wait_for_end(&mut self) -> Option<i32> {
        let status = soon("the end of serve", self.child.wait()).await;
        status.expect("it ended").code()
    }

    /// Ends it with SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("killed");
    }
}
