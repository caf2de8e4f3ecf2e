//! One flow: a small stage of deliveries; the rest waits in the queue.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Flow;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admit::admit;
use crate::claim::Slot;
use crate::engine::Engine;
use crate::queue::{Queue, Source};
use crate::upstream::Upstream;

/// The pause before a flow that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Reads a flow until `stop`.
pub(crate) async fn run<Q: Queue, U: Upstream>(
    engine: Arc<Engine<Q, U>>,
    flow: Flow,
    stop: CancellationToken,
) {
    let mut source = tokio::select! {
        source = open(&engine, &flow) => source,
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
        admit(&engine, &flow, delivery, Slot(source.credit.clone())).await;
    }
    for delivery in source.close().await {
        engine.queue.give_back(delivery.receipt).await;
    }
}

async fn open<Q: Queue, U: Upstream>(engine: &Engine<Q, U>, flow: &Flow) -> Source {
    loop {
        match engine.queue.open(flow).await {
            Ok(source) => return source,
            Err(error) => {
                warn!(%flow, %error, "cannot read this flow yet");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}
