//! Reads one queue of jobs: a small prefetch buffer of deliveries is here, the rest waits in the stream.

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

/// The pause before a queue that could not be opened is tried again.
const OPEN_RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How often the reader checks whether it should go on.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A queue from which nothing came for this long is closed, once all its deliveries are acknowledged.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The same while other queues wait for a permit to be read.
const CROWDED_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a queue is read in one turn while others wait for a permit.
const MAX_TURN: Duration = Duration::from_secs(10);

/// Why a turn is over.
enum TurnEnd {
    /// Nothing came for the idle timeout.
    Idle,
    /// Other queues wait for their turn.
    Crowded,
    /// The worker stops, or the source of deliveries has ended.
    Stopped,
}

/// Reads a queue, or its scheduled jobs that are due, until it is idle or `stop`.
pub(crate) async fn run<Q: Queue, U: Upstream>(
    state: Arc<WorkerState<Q, U>>,
    reading: QueueReading,
    stop: CancellationToken,
) {
    let size = state.prefetch_size(&reading.flow.pool);
    let (free, mut credit) = Credit::new(size);
    let buffer = PrefetchBuffer::new(free);
    info!(queue = %reading.flow, prefetch = size, due = reading.due, "reading jobs");
    let _closed_in_panic = state.readings.guard(&reading);
    loop {
        let permit = tokio::select! {
            permit = state.flow_permits.acquire() => permit,
            () = stop.cancelled() => return,
        };
        if let Err(error) = state.queue.prepare(&reading).await {
            drop(permit);
            warn!(queue = %reading.flow, %error, "cannot read this queue yet");
            tokio::select! {
                () = tokio::time::sleep(OPEN_RETRY_PAUSE) => continue,
                () = stop.cancelled() => return,
            }
        }
        let mut source = state.queue.open(&reading, credit, &state.memory);
        let end = turn(&state, &reading, &mut source, &buffer, &stop).await;
        if matches!(end, TurnEnd::Idle) {
            state.readings.closing(&reading);
        }
        let (rest, left) = source.close().await;
        for delivery in rest {
            state.queue.give_back(delivery.receipt).await;
        }
        if matches!(end, TurnEnd::Crowded) {
            yield_turn(&state, &reading, &buffer).await;
        }
        drop(permit);
        credit = match left {
            Some(credit) if !matches!(end, TurnEnd::Stopped) => credit,
            // The source ends only at a stop or after a fault that was logged.
            _ => return,
        };
        if matches!(end, TurnEnd::Idle) && is_closed(&state, &reading).await {
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
    buffer: &Arc<PrefetchBuffer>,
    stop: &CancellationToken,
) -> TurnEnd {
    let mut checks = tokio::time::interval(IDLE_CHECK_INTERVAL);
    let began = Instant::now();
    let mut last = began;
    loop {
        tokio::select! {
            delivery = source.deliveries.recv() => match delivery {
                Some(delivery) => {
                    last = Instant::now();
                    admit(state, reading, delivery, buffer).await;
                }
                None => return TurnEnd::Stopped,
            },
            _ = checks.tick() => {
                let crowded = state.flow_permits.available_permits() == 0;
                let timeout = if crowded { CROWDED_IDLE_TIMEOUT } else { IDLE_TIMEOUT };
                if last.elapsed() > timeout && buffer.is_empty() {
                    return TurnEnd::Idle;
                }
                if crowded && began.elapsed() > MAX_TURN {
                    return TurnEnd::Crowded;
                }
            },
            () = stop.cancelled() => return TurnEnd::Stopped,
        }
    }
}

/// Gives the jobs that have not begun back to the stream, and deletes the queue's consumer unless one of its jobs is being
/// called. The server's count of unacknowledged messages cannot tell: it contains those that were given back, and counts a
/// job that came twice once.
async fn yield_turn<Q: Queue, U: Upstream>(
    state: &WorkerState<Q, U>,
    reading: &QueueReading,
    buffer: &PrefetchBuffer,
) {
    let is_given_back = state.dispatcher.give_back(reading.clone()).await;
    if !is_given_back || buffer.holds_any() {
        return;
    }
    if let Err(error) = state.queue.leave(reading).await {
        debug!(queue = %reading.flow, %error, "a queue's turn does not end cleanly");
    }
}

/// Closes a queue. Returns false if there is more to read, or if one of its jobs is still worked on.
async fn is_closed<Q: Queue, U>(state: &WorkerState<Q, U>, reading: &QueueReading) -> bool {
    match state.queue.forget(reading).await {
        Ok(idle) => idle && state.readings.close(reading),
        Err(error) => {
            debug!(queue = %reading.flow, %error, "cannot let go of this queue yet");
            false
        }
    }
}
