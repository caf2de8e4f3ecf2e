//! Waiting: for a signal where there is one, and otherwise for an answer that is asked for again and again.

use std::future::Future;
use std::time::Duration;

/// Nothing that a test waits for takes longer; only a failure does.
const USUAL_LIMIT: Duration = Duration::from_secs(120);
/// How long after an answer the next one is asked for: a server that is asked has other things to do.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// Waits for a signal, and fails if it never comes.
pub(crate) async fn soon<T>(what: &str, signal: impl Future<Output = T>) -> T {
    within(USUAL_LIMIT, what, signal).await
}

/// The same with another limit.
pub(crate) async fn within<T>(limit: Duration, what: &str, signal: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, signal).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until something is so that gives no signal, and fails if it never is.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    eventually(what, async || is_so().await.then_some(())).await;
}

/// Asks until there is an answer, and fails if there never is one.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(USUAL_LIMIT, what, ask).await
}

/// The same with another limit.
pub(crate) async fn eventually_within<T>(
    limit: Duration,
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let answered = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    };
    within(limit, what, answered).await
}
