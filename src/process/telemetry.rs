//! Logs on stderr. They never contain prompts, bodies or keys.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Starts logging. `RUST_LOG` sets the filter; without it, the filter is `default`.
pub fn start(json: bool, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // Without the hint, every event of every library would be evaluated, whatever the filter
    // enables.
    let filter = filter.and(filter_fn(may_be_logged).with_max_level_hint(LevelFilter::TRACE));
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let layer = match json {
        true => layer.json().boxed(),
        false => layer.with_target(false).boxed(),
    };
    // In tests, a second start keeps the first subscriber.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
}

/// Returns true if an event may be logged. The NATS client's debug events contain the server's
/// address with its credential.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("async_nats") || *metadata.level() <= Level::INFO
}
