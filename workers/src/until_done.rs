//! What has to be done is tried until it is.

use std::future::Future;
use std::time::Duration;

use tracing::warn;

/// The first pause before the store or NATS is tried again; it doubles up to [`LONGEST_PAUSE`].
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before the store or NATS is tried again.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Does something until it is done: what is held is not acked meanwhile, so nothing is lost.
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
