//! Logs, on stderr. They never hold prompts, bodies or keys.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Starts logging; `RUST_LOG` chooses what, warnings and Forebay's own notes by default.
pub fn start(json: bool, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // Without the hint every note of every library would be looked at, whatever is asked for.
    let filter = filter.and(filter_fn(may_be_told).with_max_level_hint(LevelFilter::TRACE));
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let layer = match json {
        true => layer.json().boxed(),
        false => layer.with_target(false).boxed(),
    };
    // A second start, in tests, keeps the first.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
}

/// The NATS client writes the server's address with its credential into what it notes for debugging.
fn may_be_told(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("async_nats") || *metadata.level() <= Level::INFO
}
