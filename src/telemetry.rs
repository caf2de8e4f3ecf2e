//! Logs, on stderr. They never hold prompts, bodies or keys.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging; `RUST_LOG` chooses what, warnings and Forebay's own notes by default.
pub fn start(json: bool, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second start, in tests, keeps the first.
    let _ = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
}
