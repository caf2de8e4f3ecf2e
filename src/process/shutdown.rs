//! Two-phase shutdown: the first signal ends taking jobs, the second ends the process.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The time that jobs in flight have after the first signal.
pub const GRACE: Duration = Duration::from_secs(30);
/// The exit code of a process that was interrupted and can be resumed.
pub const INTERRUPTED: u8 = 130;

/// Returns a token that is cancelled by the first SIGINT or SIGTERM. The second signal ends the
/// process at once.
///
/// # Errors
/// Returns an error when signals cannot be received.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        info!("stopping: jobs in flight have {GRACE:?}; a second signal ends at once");
        first.cancel();
        next().await;
        warn!("ended by a second signal; what was in flight will be delivered again");
        std::process::exit(i32::from(INTERRUPTED));
    });
    Ok(token)
}
