//! Tells on `ai.events` how accounts change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::QuotaEvent;
use forebay_workers::clock::{Clock, SystemClock};
use tracing::warn;

use crate::connection::Connection;
use crate::control::{Condition, Quota, Worker};

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(1);

/// Publishes each change until it is aborted. What is ready at first is not told.
pub async fn tell(connection: Connection, worker: Arc<Worker>) {
    let mut look = tokio::time::interval(LOOK);
    let mut known = HashMap::new();
    loop {
        look.tick().await;
        for event in changes(&mut known, worker.snapshot().quotas.into_iter().map(Quota::from)) {
            if let Err(problem) = publish(&connection, &event).await {
                warn!(quota = event.quota, problem, "an event cannot be published");
            }
        }
    }
}

async fn publish(connection: &Connection, event: &QuotaEvent) -> Result<(), String> {
    let payload = serde_json::to_vec(event).map_err(|error| error.to_string())?;
    let subject = connection.names.quota_event(&event.quota);
    let ack = connection.context.publish(subject, payload.into()).await.map_err(|error| error.to_string())?;
    ack.await.map_err(|error| error.to_string())?;
    Ok(())
}

/// State and reason by account, kind and name.
type Known = HashMap<(String, bool, String), (String, Option<String>)>;

fn changes(known: &mut Known, quotas: impl Iterator<Item = Quota>) -> Vec<QuotaEvent> {
    let mut events = Vec::new();
    let ready = ("ready".to_owned(), None);
    for quota in quotas {
        let keys = quota.keys.into_iter().map(|key| (true, key));
        let models = quota.models.into_iter().map(|model| (false, model));
        for (is_key, condition) in keys.chain(models) {
            let Condition { name, state, reason, until, .. } = condition;
            let now = (state.clone(), reason.clone());
            let before = known.insert((quota.name.clone(), is_key, name.clone()), now.clone());
            if before.as_ref().unwrap_or(&ready) != &now {
                events.push(QuotaEvent {
                    at: SystemClock.now(),
                    quota: quota.name.clone(),
                    key: is_key.then(|| name.clone()),
                    model: (!is_key).then_some(name),
                    state,
                    reason,
                    until,
                });
            }
        }
    }
    events
}
