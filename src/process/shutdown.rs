//! Two-phase shutdown: the first signal ends taking jobs, the second ends the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit code of a process that was interrupted and can be resumed.
pub const INTERRUPTED: u8 = 130;

/// The meaning of SIGHUP.
#[derive(Debug, Clone)]
pub enum Hangup {
    /// The terminal was closed, so the process ends.
    Ends,
    /// An operator changed something that is read again.
    Notifies(Arc<Notify>),
}

/// Returns a token that is cancelled by the first SIGINT, SIGTERM or SIGQUIT, and by SIGHUP if that ends the process. The
/// second signal ends the process at once. A person reads how long calls under way have, which is
/// `grace` where there may be any.
///
/// # Errors
/// Returns an error when signals cannot be received.
pub fn on_signal(hangup: Hangup, grace: Option<Duration>) -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangups = signal(SignalKind::hangup())?;
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => return,
                    _ = terminate.recv() => return,
                    _ = quit.recv() => return,
                    _ = hangups.recv() => match &hangup {
                        Hangup::Ends => return,
                        Hangup::Notifies(notify) => notify.notify_one(),
                    },
                }
            }
        };
        next().await;
        let grace = grace.map(humantime::format_duration);
        let grace = grace.map_or_else(String::new, |grace| {
            format!(": calls under way have {grace} to end ([call] grace)")
        });
        info!("stopping{grace}; a second signal ends at once");
        first.cancel();
        next().await;
        warn!("ended by a second signal; what was in flight will be delivered again");
        std::process::exit(i32::from(INTERRUPTED));
    });
    Ok(token)
}
