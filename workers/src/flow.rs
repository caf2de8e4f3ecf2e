//! One flow: a small stage of deliveries; the rest waits in the queue.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Flow;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admit::admit;
use crate::claim::Slot;
use crate::engine::Engine;
use crate::queue::{Error, Queue, Source};
use crate::upstream::Upstream;

/// The pause before a flow that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Reads a flow until `stop`: its jobs, and those of them whose time has come.
pub(crate) async fn run<Q: Queue, U: Upstream>(
    engine: Arc<Engine<Q, U>>,
    flow: Flow,
    stop: CancellationToken,
) {
    let jobs = read(&engine, &flow, &stop, || engine.queue.open(&flow));
    let due = read(&engine, &flow, &stop, || engine.queue.open_due(&flow));
    tokio::join!(jobs, due);
}

async fn read<Q: Queue, U: Upstream, F>(
    engine: &Arc<Engine<Q, U>>,
    flow: &Flow,
    stop: &CancellationToken,
    open: impl Fn() -> F,
) where
    F: Future<Output = Result<Source, Error>>,
{
    let mut source = tokio::select! {
        source = opened(flow, open) => source,
        () = stop.cancelled() => return,
    };
    let stage = engine.stage_size(&flow.pool);
    info!(%flow, stage, "reading jobs");
    // The source ends only with the queue itself.
    let _ = source.credit.send(stage);
    loop {
        let delivery = tokio::select! {
            delivery = source.deliveries.recv() => delivery,
            () = stop.cancelled() => break,
        };
        let Some(delivery) = delivery else { break };
        admit(engine, flow, delivery, Slot(source.credit.clone())).await;
    }
    for delivery in source.close().await {
        engine.queue.give_back(delivery.receipt).await;
    }
}

async fn opened<F>(flow: &Flow, open: impl Fn() -> F) -> Source
where
    F: Future<Output = Result<Source, Error>>,
{
    loop {
        match open().await {
            Ok(source) => return source,
            Err(error) => {
                warn!(%flow, %error, "cannot read this flow yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
