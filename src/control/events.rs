//! Events about state changes of accounts, on `ai.events`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::AccountEvent;
use forebay_workers::clock::{Clock, SystemClock};
use tracing::warn;

use crate::control::messages::{AccessCondition, AccountReport};
use crate::nats::connection::Connection;
use crate::worker::JetStreamWorker;

/// The interval of checks for changes.
const STATE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Publishes each change until the task is aborted. A key or model that is ready at first causes no
/// event.
pub async fn publish_changes(connection: Connection, worker: Arc<JetStreamWorker>) {
    let mut ticks = tokio::time::interval(STATE_CHECK_INTERVAL);
    let mut known = HashMap::new();
    loop {
        ticks.tick().await;
        let accounts = worker.snapshot().accounts.into_iter();
        for event in changes(&mut known, accounts.map(AccountReport::from)) {
            if let Err(problem) = publish(&connection, &event).await {
                warn!(
                    account = event.account,
                    problem, "an event cannot be published"
                );
            }
        }
    }
}

async fn publish(connection: &Connection, event: &AccountEvent) -> Result<(), String> {
    let payload = serde_json::to_vec(event).map_err(|error| error.to_string())?;
    let subject = connection.names.account_event(&event.account);
    let ack = connection
        .context
        .publish(subject, payload.into())
        .await
        .map_err(|error| error.to_string())?;
    ack.await.map_err(|error| error.to_string())?;
    Ok(())
}

/// State and reason, by account, kind (true for a key) and name.
type KnownConditions = HashMap<(String, bool, String), (String, Option<String>)>;

fn changes(
    known: &mut KnownConditions,
    accounts: impl Iterator<Item = AccountReport>,
) -> Vec<AccountEvent> {
    let mut events = Vec::new();
    let ready = ("ready".to_owned(), None);
    for account in accounts {
        let keys = account.keys.into_iter().map(|key| (true, key));
        let models = account.models.into_iter().map(|model| (false, model));
        for (is_key, condition) in keys.chain(models) {
            let AccessCondition {
                name,
                state,
                reason,
                until,
                ..
            } = condition;
            let current = (state.clone(), reason.clone());
            let previous = known.insert(
                (account.name.clone(), is_key, name.clone()),
                current.clone(),
            );
            if previous.as_ref().unwrap_or(&ready) != &current {
                events.push(AccountEvent {
                    at: SystemClock.now(),
                    account: account.name.clone(),
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
