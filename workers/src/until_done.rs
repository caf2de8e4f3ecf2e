//! Retries work that must be done until it is done.

use std::future::Future;
use std::time::Duration;

use tracing::warn;

/// The pause before the first retry of the store or of NATS. It doubles up to [`LONGEST_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a retry of the store or of NATS.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs `act` until it succeeds, and returns its value. Held deliveries are not acked meanwhile, so nothing is lost.
pub(crate) async fn retry_until_done<T, E, F>(what: &str, mut act: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match act().await {
            Ok(value) => return value,
            Err(error) => {
                warn!(%error, "{what} failed, trying again in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
