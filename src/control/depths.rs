//! Numbers of waiting jobs by queue.

use std::collections::BTreeMap;

use forebay_schemas::Flow;
use futures::StreamExt;

use super::messages::QueueDepth;
use crate::nats::connection::Connection;

/// Returns the number of jobs in the stream by queue.
///
/// # Errors
/// Returns why the stream cannot be read.
pub async fn depths(connection: &Connection) -> Result<Vec<QueueDepth>, String> {
    let Connection { context, names, .. } = connection;
    let stream = context
        .get_stream_no_info(names.jobs_stream())
        .await
        .map_err(|error| format!("the stream of jobs cannot be read: {error}"))?;
    let mut subjects = stream
        .info_with_subjects(names.all_jobs())
        .await
        .map_err(|error| error.to_string())?;
    let mut flows = BTreeMap::<Flow, u64>::new();
    while let Some(entry) = subjects.next().await {
        let (subject, jobs) = entry.map_err(|error| error.to_string())?;
        if let Some(flow) = names.flow_of(&subject) {
            *flows.entry(flow).or_default() += jobs as u64;
        }
    }
    let depth = |(flow, jobs): (Flow, u64)| QueueDepth {
        pool: flow.pool,
        team: flow.team,
        lane: flow.lane,
        jobs,
    };
    Ok(flows.into_iter().map(depth).collect())
}
