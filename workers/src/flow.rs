//! One flow: a small stage of deliveries; the rest waits in the queue.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Flow;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admit::admit;
use crate::engine::Engine;
use crate::queue::{Queue, Source};
use crate::staged::Slot;
use crate::upstream::Upstream;

/// The pause before a flow that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Reads a flow until `stop`.
pub(crate) async fn run<Q: Queue, U: Upstream>(
    engine: Arc<Engine<Q, U>>,
    flow: Flow,
    stop: CancellationToken,
) {
    let reading = async {
        let mut source = open(&engine, &flow).await;
        let stage = engine.stage_size(&flow.pool);
        info!(%flow, stage, "reading jobs");
        // The source ends only with the queue itself.
        let _ = source.credit.send(stage);
        while let Some(delivery) = source.deliveries.recv().await {
            admit(&engine, &flow, delivery, Slot(source.credit.clone())).await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = stop.cancelled() => {}
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
