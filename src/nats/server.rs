//! The managed server: a nats-server that Forebay starts, watches and stops if no server is
//! configured.
//!
//! Its store, its configuration and a generated credential are below the data directory, and only
//! the owner can read them. It listens on loopback, is started again if it dies, and is stopped
//! with Forebay.

mod binary;
mod child;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;
use rand::distr::Alphanumeric;

use crate::nats::server::child::ServerChild;

/// Maximum size of a message on the managed server in bytes. Completions of long answers fit.
const MAX_PAYLOAD: usize = 8 * 1024 * 1024;
/// The user of the generated credential.
const USER: &str = "forebay";

/// The reason why the managed server is not available.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server was found, or none that is new enough.
    #[error("{0}")]
    NoServer(String),
    /// A file of the server cannot be written.
    #[error("{}: {error}", path.display())]
    Files {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// The server was started and did not come up.
    #[error("nats-server did not come up: {reason}\n{log}")]
    Down {
        /// The cause, as far as it is known.
        reason: String,
        /// The end of its log.
        log: String,
    },
}

/// A running managed server. It is stopped when this is dropped.
#[derive(Debug)]
pub struct NatsServer {
    url: String,
    _child: ServerChild,
}

impl NatsServer {
    /// Starts a server with its store in `dir`, and waits until it listens.
    ///
    /// # Errors
    /// Returns an error when no server is found, its files cannot be written, or it does not come
    /// up.
    pub async fn start(dir: &Path, listen: SocketAddr, sync: Duration) -> Result<Self, Error> {
        let dir = fs::create_dir_all(dir)
            .and_then(|()| fs::canonicalize(dir))
            .map_err(|error| Error::Files {
                path: dir.to_owned(),
                error,
            })?;
        let files = |error| Error::Files {
            path: dir.clone(),
            error,
        };
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(files)?;
        let binary = binary::find().map_err(Error::NoServer)?;
        child::stop_orphan(&dir).map_err(files)?;
        forget_addresses(&dir).map_err(files)?;
        let password = credential(&dir.join("credential")).map_err(files)?;
        let config = write_config(&dir, listen, sync, &password).map_err(files)?;
        let (child, address) = ServerChild::start(binary, dir.clone(), config, move |dir, port| {
            write_config(dir, SocketAddr::new(listen.ip(), port), sync, &password)
        })
        .await?;
        let password = credential(&dir.join("credential")).map_err(files)?;
        Ok(Self {
            url: format!("nats://{USER}:{password}@{address}"),
            _child: child,
        })
    }

    /// Returns the server's URL, with the credential.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Deletes the address files of servers that could not delete them.
fn forget_addresses(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "ports")
        {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut file = options.mode(0o600).open(path)?;
    // The mode above applies only to a new file.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

/// Returns the credential of this store, and creates it if there is none. It has letters and
/// digits, which every client accepts in a URL unchanged.
fn credential(path: &Path) -> std::io::Result<String> {
    if let Ok(text) = fs::read_to_string(path)
        && text.len() == 32
    {
        return Ok(text);
    }
    let text: String = rand::rng()
        .sample_iter(Alphanumeric)
        .take(32)
        .map(char::from)
        .collect();
    write_private(path, &text)?;
    Ok(text)
}

/// Writes the server's configuration. Port 0 becomes -1, which the server takes as any free port.
fn write_config(
    dir: &Path,
    listen: SocketAddr,
    sync: Duration,
    password: &str,
) -> std::io::Result<PathBuf> {
    let port = if listen.port() == 0 {
        -1
    } else {
        i32::from(listen.port())
    };
    let text = format!(
        r#"# Written by forebay at every start.
host: "{host}"
port: {port}
max_payload: {MAX_PAYLOAD}
ports_file_dir: "{dir}"
pid_file: "{dir}/nats-server.pid"
log_file: "{dir}/nats-server.log"
logfile_size_limit: 10MB
jetstream {{
  store_dir: "{dir}/store"
  sync_interval: "{sync}ms"
}}
authorization {{ user: "{USER}", password: "{password}" }}
"#,
        host = listen.ip(),
        dir = dir
            .display()
            .to_string()
            .replace('\\', "\\\\")
            .replace('"', "\\\""),
        sync = sync.as_millis(),
    );
    let path = dir.join("nats-server.conf");
    write_private(&path, &text)?;
    Ok(path)
}

/// Returns the path of the server that would be started.
///
/// # Errors
/// Returns an error when no server is new enough.
pub fn find() -> Result<PathBuf, Error> {
    binary::find().map_err(Error::NoServer)
}
