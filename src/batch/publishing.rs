//! The publishing of a batch's lines.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use forebay_schemas::header::REVISION_HEADER;
use forebay_schemas::{Flow, Lane};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::batch::input::{Batch, BatchLine};
use crate::batch::trial::TRIAL_LINES;
use crate::nats::connection::Connection;

/// Maximum number of publishes that await their acknowledgement.
const MAX_PUBLISHES: usize = 256;
/// Maximum number of lines in publication that are too large for a message. Each first checks for
/// room in the object store, and a rejected one would leave its parts there.
const MAX_LARGE_PUBLISHES: usize = 1;
/// The pause before a refused publish is repeated.
const PUBLISH_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Publishes lines: first some for a trial, and the others once that is over. Lines that the server refuses for now are
/// published again later.
pub(super) async fn publish_all(
    connection: Connection,
    batch: Arc<Batch>,
    lane: Lane,
    lines: Vec<(BatchLine, u32)>,
    trial_is_over: CancellationToken,
) -> anyhow::Result<()> {
    let large = Semaphore::new(MAX_LARGE_PUBLISHES);
    let when_sendable = |(index, line)| {
        let trial_is_over = trial_is_over.clone();
        async move {
            if index >= TRIAL_LINES {
                trial_is_over.cancelled().await;
            }
            line
        }
    };
    futures::stream::iter(lines.into_iter().enumerate())
        .then(when_sendable)
        .map(|line| publish(&connection, &batch, lane, line, &large))
        .buffered(MAX_PUBLISHES)
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn publish(
    connection: &Connection,
    batch: &Batch,
    lane: Lane,
    (line, revision): (BatchLine, u32),
    large: &Semaphore,
) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    if revision > 1 {
        headers.insert(REVISION_HEADER, revision.to_string());
    }
    let flow = Flow {
        pool: line.pool.clone(),
        team: batch.team.clone(),
        lane,
    };
    let subject = connection.names.job(&flow);
    let mut warned = false;
    loop {
        let published = async {
            let _turn = match connection.is_large(line.size()) {
                true => Some(large.acquire().await?),
                false => None,
            };
            let message = batch.message(&line);
            let message = connection
                .enclose(&batch.identity(&line), message, &mut headers)
                .await?;
            connection.publish_job(&subject, &headers, message).await?;
            anyhow::Ok(())
        };
        match published.await {
            Ok(()) => return Ok(()),
            Err(error) => {
                if !warned {
                    warn!("a job cannot be published yet: {error:#}");
                    warned = true;
                }
                tokio::time::sleep(PUBLISH_RETRY_PAUSE).await;
            }
        }
    }
}
