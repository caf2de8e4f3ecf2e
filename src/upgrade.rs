//! The upgrade of what Forebay 0.1 left at the NATS server. It is done once.
//!
//! State in key-value buckets and scheduled jobs get today's names and words. The former buckets
//! and streams are then deleted. Completions, dead letters and waiting jobs stay where they are and
//! are read in their own format: see [`forebay_schemas::format`].
//!
//! Each step can be repeated, so a process that ends in the middle loses nothing.

use anyhow::Context as _;
use async_nats::jetstream::kv::Store;
use forebay_schemas::Names;
use forebay_workers::accounts::AccountState;
use forebay_workers::queue::jetstream::take_over_schedules;
use forebay_workers::{CancelledJobs, PauseTarget};
use futures::TryStreamExt;
use jiff::Timestamp;
use serde::Deserialize;
use tracing::{info, warn};

use crate::cluster::account_state;
use crate::control::controls;
use crate::control::controls::ControlOrder;
use crate::nats::bucket::{Bucket, BucketEntry};
use crate::nats::connection::{Connection, Error};
use crate::nats::streams;

/// Takes over what 0.1 left, if there is anything. Today's streams must exist.
///
/// # Errors
/// Returns an error when NATS does not answer or refuses a step.
pub async fn take_over(connection: &Connection) -> Result<(), Error> {
    let taken = async {
        take_over_schedules(&connection.context, &connection.names)
            .await
            .context("scheduled jobs")?;
        take_over_buckets(connection).await
    };
    taken.await.map_err(|error: anyhow::Error| {
        Error::Unreachable(
            error.context("what Forebay 0.1 left at the NATS server cannot be taken over"),
        )
    })
}

async fn take_over_buckets(connection: &Connection) -> anyhow::Result<()> {
    let names = &connection.names;
    if let Some(old) = bucket(connection, names.format_1_accounts_bucket()).await? {
        let today = account_state::open(connection).await?;
        copy(&old, &today, account_entry)
            .await
            .context("the state of accounts")?;
        delete(connection, names.format_1_accounts_bucket()).await?;
    }
    if let Some(old) = bucket(connection, names.format_1_controls_bucket()).await? {
        let today = controls::open(connection).await?;
        copy(&old, &today, order_entry)
            .await
            .context("what is paused and cancelled")?;
        delete(connection, names.format_1_controls_bucket()).await?;
    }
    Ok(())
}

async fn bucket(connection: &Connection, name: String) -> anyhow::Result<Option<Store>> {
    match streams::existing(&connection.context, &Names::key_value_stream(&name)).await? {
        Some(_) => Ok(Some(connection.context.get_key_value(name).await?)),
        None => Ok(None),
    }
}

async fn delete(connection: &Connection, name: String) -> anyhow::Result<()> {
    connection.context.delete_key_value(&name).await?;
    info!(
        bucket = name,
        "the bucket of Forebay 0.1 is taken over and deleted"
    );
    Ok(())
}

/// The key and the value of an entry in today's words.
type FormerEntry = (String, Vec<u8>);

/// Copies each entry in today's words, unless it was copied before.
async fn copy(
    old: &Store,
    bucket: &Bucket,
    renamed: impl Fn(&str, &[u8]) -> serde_json::Result<FormerEntry>,
) -> anyhow::Result<()> {
    let keys = old.keys().await?;
    let keys: Vec<String> = keys.try_collect().await?;
    for key in keys {
        let Some(value) = old.get(key.as_str()).await? else {
            continue;
        };
        match renamed(&key, &value) {
            Ok((key, value)) => {
                if let BucketEntry::Missing { revision } = bucket.get(&key).await? {
                    bucket.put(&key, value.into(), revision, None).await?;
                }
            }
            Err(error) => {
                warn!(key, %error, "an entry of Forebay 0.1 is not understood, and is left out")
            }
        }
    }
    Ok(())
}

fn account_entry(key: &str, value: &[u8]) -> serde_json::Result<FormerEntry> {
    let state: AccountState = serde_json::from_slice(value)?;
    Ok((key.to_owned(), serde_json::to_vec(&state)?))
}

/// The target of a pause, in the words of 0.1.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "lowercase")]
enum FormerPausable {
    Pool(String),
    Quota(String),
    Team(String),
}

/// An order of an operator, in the words of 0.1.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FormerOrder {
    Pause(FormerPausable),
    Cancel { what: CancelledJobs, at: Timestamp },
}

fn order_entry(_: &str, value: &[u8]) -> serde_json::Result<FormerEntry> {
    let order = match serde_json::from_slice(value)? {
        FormerOrder::Pause(FormerPausable::Pool(name)) => {
            ControlOrder::Pause(PauseTarget::Pool(name))
        }
        FormerOrder::Pause(FormerPausable::Quota(name)) => {
            ControlOrder::Pause(PauseTarget::Account(name))
        }
        FormerOrder::Pause(FormerPausable::Team(name)) => {
            ControlOrder::Pause(PauseTarget::Team(name))
        }
        FormerOrder::Cancel { what, at } => ControlOrder::Cancel { what, at },
    };
    Ok((order.key(), serde_json::to_vec(&order)?))
}
