//! One flow: a small stage of deliveries; the rest waits in the queue.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::intake::admit::admit;
use crate::job::delivery::PrefetchBuffer;
use crate::queue::{Credit, DeliverySource, Queue, QueueReading};
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// The pause before a flow that could not be opened is tried again.
const OPEN_RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked whether a flow should still be read.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A flow that nothing came from for so long is let go, when all that came is acknowledged.
const IDLE: Duration = Duration::from_secs(60);
/// The same while all places are taken.
const IDLE_IN_A_CROWD: Duration = Duration::from_secs(1);
/// While all places are taken, a flow is read for so long in one turn.
const TURN: Duration = Duration::from_secs(10);

/// Why a flow's turn is over.
enum TurnEnd {
    /// Nothing came.
    Idle,
    /// Others wait for their turn.
    Crowded,
    /// The worker stops, or the queue has ended.
    Stopped,
}

/// Reads a flow, or what of it is due, until it is idle or `stop`.
pub(crate) async fn run<Q: Queue, U: Upstream>(
    state: Arc<WorkerState<Q, U>>,
    reading: QueueReading,
    stop: CancellationToken,
) {
    let size = state.stage_size(&reading.flow.pool);
    let (free, mut credit) = Credit::new(size);
    let stage = PrefetchBuffer::new(free);
    info!(queue = %reading.flow, prefetch = size, due = reading.due, "reading jobs");
    let _forgotten_in_panic = state.readings.guard(&reading);
    loop {
        let place = tokio::select! {
            place = state.flow_permits.acquire() => place,
            () = stop.cancelled() => return,
        };
        if let Err(error) = state.queue.prepare(&reading).await {
            drop(place);
            warn!(queue = %reading.flow, %error, "cannot read this queue yet");
            tokio::select! {
                () = tokio::time::sleep(OPEN_RETRY_PAUSE) => continue,
                () = stop.cancelled() => return,
            }
        }
        let mut source = state.queue.open(&reading, credit);
        let over = turn(&state, &reading, &mut source, &stage, &stop).await;
        if matches!(over, TurnEnd::Idle) {
            state.readings.closing(&reading);
        }
        let (rest, left) = source.close().await;
        for delivery in rest {
            state.queue.give_back(delivery.receipt).await;
        }
        if matches!(over, TurnEnd::Crowded) {
            leave(&state, &reading, &stage).await;
        }
        drop(place);
        credit = match left {
            Some(credit) if !matches!(over, TurnEnd::Stopped) => credit,
            // Its feed ends for no other reason than a stop or a fault that was told.
            _ => return,
        };
        if matches!(over, TurnEnd::Idle) && is_forgotten(&state, &reading).await {
            debug!(queue = %reading.flow, due = reading.due, "nothing more to read");
            return;
        }
    }
}

/// Reads for one turn.
async fn turn<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    reading: &QueueReading,
    source: &mut DeliverySource,
    stage: &Arc<PrefetchBuffer>,
    stop: &CancellationToken,
) -> TurnEnd {
    let mut look = tokio::time::interval(IDLE_CHECK_INTERVAL);
    let began = Instant::now();
    let mut last = began;
    loop {
        tokio::select! {
            delivery = source.deliveries.recv() => match delivery {
                Some(delivery) => {
                    last = Instant::now();
                    admit(state, reading, delivery, stage).await;
                }
                None => return TurnEnd::Stopped,
            },
            _ = look.tick() => {
                let crowded = state.flow_permits.available_permits() == 0;
                let idle = if crowded { IDLE_IN_A_CROWD } else { IDLE };
                if last.elapsed() > idle && stage.is_empty() {
                    return TurnEnd::Idle;
                }
                if crowded && began.elapsed() > TURN {
                    return TurnEnd::Crowded;
                }
            },
            () = stop.cancelled() => return TurnEnd::Stopped,
        }
    }
}

/// Makes room for others: what has not begun goes back to the queue, and with it the flow's consumer, unless
/// one of its jobs is being called. What the server counts as unacknowledged does not tell that: what was
/// given back is among it, and a job that came twice is there once.
async fn leave<Q: Queue, U: Upstream>(
    state: &WorkerState<Q, U>,
    reading: &QueueReading,
    stage: &PrefetchBuffer,
) {
    let is_given_back = state.dispatcher.give_back(reading.clone()).await;
    if !is_given_back || stage.holds_any() {
        return;
    }
    if let Err(error) = state.queue.leave(reading).await {
        debug!(queue = %reading.flow, %error, "a queue's turn does not end cleanly");
    }
}

/// Lets go of a flow; false if there is more to read, or something of it is still worked on.
async fn is_forgotten<Q: Queue, U>(state: &WorkerState<Q, U>, reading: &QueueReading) -> bool {
    match state.queue.forget(reading).await {
        Ok(idle) => idle && state.readings.close(reading),
        Err(error) => {
            debug!(queue = %reading.flow, %error, "cannot let go of this queue yet");
            false
        }
    }
}
