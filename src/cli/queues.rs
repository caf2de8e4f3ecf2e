//! The command `forebay queues`.

use super::client::{ask, connect};
use super::controls::target_in_words;
use super::{GlobalOptions, print};
use crate::config::Config;
use crate::control::messages::{QueueDepth, QueuesReport};
use crate::nats::connection::Error;

pub(super) async fn queues(global: &GlobalOptions) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    let report: QueuesReport = ask(&connection, "queues", Vec::new()).await?;
    if global.json {
        print::json(&report);
        return Ok(0);
    }
    let rows = report.queues.iter().map(row);
    let rows: Vec<_> = rows.collect();
    for what in &report.paused {
        print::line(&format!("paused: {}", target_in_words(what)));
    }
    print::table(&["POOL", "TEAM", "LANE", "JOBS"], &rows);
    let ended: Vec<_> = report
        .ended
        .iter()
        .map(|(status, count)| format!("{count} {}", status.as_str()))
        .collect();
    print::line(&format!(
        "{} in flight, {} prefetched, {} scheduled; since the start: {}",
        report.in_flight,
        report.prefetched,
        report.scheduled,
        ended.join(", ")
    ));
    Ok(0)
}

fn row(queue: &QueueDepth) -> Vec<String> {
    vec![
        queue.pool.clone(),
        queue.team.clone(),
        queue.lane.to_string(),
        queue.jobs.to_string(),
    ]
}
