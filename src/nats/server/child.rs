//! The managed server as a child process: starting, watching, restarting and stopping it.
#![expect(
    clippy::disallowed_methods,
    reason = "a thread of its own waits for a real process"
)]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tracing::{info, warn};

use crate::nats::server::Error;

/// The time that the server has to start. It reads a large store and thousands of consumers first,
/// and stopping it would repeat that.
const START_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// The interval of log messages while waiting for the server.
const LOG_INTERVAL: Duration = Duration::from_secs(15);
/// The time that the server has to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// The pause before a server that died is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// The interval of checks of files and processes while waiting for them.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

type Rewrite = Box<dyn Fn(&Path, u16) -> io::Result<PathBuf> + Send>;

#[derive(Debug)]
pub(crate) struct ServerChild {
    state: Arc<Mutex<ChildState>>,
    supervisor: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct ChildState {
    pid: Option<Pid>,
    stopping: bool,
}

impl ServerChild {
    /// Starts the server and waits until it listens.
    ///
    /// Calls `rewrite` with the port that the server got. `rewrite` writes that port into the
    /// configuration, so that a restart keeps it.
    pub(crate) async fn start(
        binary: PathBuf,
        dir: PathBuf,
        config: PathBuf,
        rewrite: impl Fn(&Path, u16) -> io::Result<PathBuf> + Send + 'static,
    ) -> Result<(Self, SocketAddr), Error> {
        let state = Arc::new(Mutex::new(ChildState::default()));
        let (address_sender, address_receiver) = tokio::sync::oneshot::channel();
        let supervisor = ServerSupervisor {
            binary,
            dir,
            config,
            state: Arc::clone(&state),
            rewrite: Box::new(rewrite),
        };
        // The kernel ends the child when the thread that started it ends. That thread must
        // therefore live as long as the child.
        let supervisor = thread::Builder::new()
            .name("nats-server".to_owned())
            .spawn(move || supervisor.run(address_sender))
            .map_err(|error| Error::Down {
                reason: error.to_string(),
                log: String::new(),
            })?;
        let child = Self {
            state,
            supervisor: Some(supervisor),
        };
        let ended = || Error::Down {
            reason: "its minder ended".to_owned(),
            log: String::new(),
        };
        let address = address_receiver.await.map_err(|_| ended())??;
        Ok((child, address))
    }
}

impl Drop for ServerChild {
    fn drop(&mut self) {
        let pid = {
            let mut state = self.state.lock();
            state.stopping = true;
            state.pid
        };
        if let Some(pid) = pid {
            stop(pid);
        }
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

struct ServerSupervisor {
    binary: PathBuf,
    dir: PathBuf,
    config: PathBuf,
    state: Arc<Mutex<ChildState>>,
    rewrite: Rewrite,
}

type AddressSender = tokio::sync::oneshot::Sender<Result<SocketAddr, Error>>;

impl ServerSupervisor {
    fn run(self, address_sender: AddressSender) {
        let mut address_sender = Some(address_sender);
        loop {
            let mut process = match self.spawn() {
                Ok(process) => process,
                Err(error) => {
                    self.failed(&mut address_sender, error.to_string());
                    return;
                }
            };
            let pid = process.id();
            if let Some(address_sender) = address_sender.take() {
                let address = self.wait_until_up(&mut process);
                let failed = address.is_err();
                if let Ok(address) = &address
                    && let Err(error) = (self.rewrite)(&self.dir, address.port())
                {
                    warn!(%error, "the server's configuration cannot be written");
                }
                let unwanted = address_sender.send(address).is_err();
                if failed || unwanted {
                    let _ = process.kill();
                    let _ = process.wait();
                    return;
                }
            }
            let status = process.wait();
            let mut state = self.state.lock();
            state.pid = None;
            if state.stopping {
                return;
            }
            drop(state);
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            warn!(pid, status, "nats-server ended, starting it again");
            thread::sleep(RESTART_PAUSE);
        }
    }

    fn spawn(&self) -> io::Result<std::process::Child> {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config);
        // The environment holds the providers' keys, and the server needs nothing of it.
        command.env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        // A signal from the terminal is meant for Forebay alone. Forebay stops the server when its
        // jobs are done.
        command.process_group(0);
        end_with_parent(&mut command);
        let mut state = self.state.lock();
        if state.stopping {
            return Err(io::Error::other("stopped"));
        }
        let process = command.spawn()?;
        state.pid = Some(Pid::from_child(&process));
        Ok(process)
    }

    fn failed(&self, address_sender: &mut Option<AddressSender>, reason: String) {
        match address_sender.take() {
            Some(address_sender) => {
                let _ = address_sender.send(Err(self.down(reason)));
            }
            None => warn!(reason, "nats-server cannot be started again"),
        }
    }

    fn down(&self, reason: String) -> Error {
        let log = fs::read_to_string(self.dir.join("nats-server.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(5)..].join("\n");
        Error::Down { reason, log }
    }

    /// Waits for the file into which the server writes its address once it listens.
    fn wait_until_up(&self, process: &mut std::process::Child) -> Result<SocketAddr, Error> {
        let file = self.dir.join(format!("nats-server_{}.ports", process.id()));
        let since = Instant::now();
        let mut logged = Duration::ZERO;
        while since.elapsed() < START_TIMEOUT {
            if since.elapsed() > logged + LOG_INTERVAL {
                logged = since.elapsed();
                warn!(
                    "nats-server is still starting after {logged:.0?}: a large store takes minutes"
                );
            }
            if let Some(address) = fs::read_to_string(&file)
                .ok()
                .and_then(|text| address_in(&text))
            {
                info!(%address, "nats-server is up");
                return Ok(address);
            }
            if let Ok(Some(status)) = process.try_wait() {
                return Err(self.down(format!(
                    "it ended with {status}; if its address is in use, set [nats] listen to another or [nats] url to the server that has it"
                )));
            }
            thread::sleep(POLL_INTERVAL);
        }
        Err(self.down(format!("it does not listen after {START_TIMEOUT:?}")))
    }
}

fn address_in(ports: &str) -> Option<SocketAddr> {
    let ports: serde_json::Value = serde_json::from_str(ports).ok()?;
    let address = ports.pointer("/nats/0")?.as_str()?;
    let address = address.strip_prefix("nats://")?;
    address.parse().ok()
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "pre_exec is unsafe; the one call made in it is async-signal-safe"
)]
fn end_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes a single prctl system call and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
                .map_err(io::Error::from)
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut Command) {}

/// Asks a process to end, and kills it after `STOP_TIMEOUT`.
fn stop(pid: Pid) {
    let _ = kill_process(pid, Signal::TERM);
    let since = Instant::now();
    while test_kill_process(pid).is_ok() {
        if since.elapsed() > STOP_TIMEOUT {
            let _ = kill_process(pid, Signal::KILL);
            return;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Stops a server that still runs on the store in `dir`. A process that could not stop it left it
/// there.
pub(crate) fn stop_orphan(dir: &Path) -> io::Result<()> {
    let file = dir.join("nats-server.pid");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let pid = text.trim().parse::<i32>();
    let Some(pid) = pid.ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    // Another program may have the process id by now. Only this server has this configuration file.
    let config = dir.join("nats-server.conf").display().to_string();
    let is_ours = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&config));
    if is_ours {
        warn!(pid = %pid.as_raw_nonzero(), "stopping a nats-server that was left on this store");
        stop(pid);
    }
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
