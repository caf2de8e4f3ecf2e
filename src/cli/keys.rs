//! `forebay keys`.

use jiff::Timestamp;

use super::client::{ask, connect};
use super::{Global, print};
use crate::config::Config;
use crate::connection::Error;
use crate::control::{Condition, Keys};

pub(super) async fn keys(global: &Global) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    let keys: Keys = ask(&connection, "keys", Vec::new()).await?;
    if global.json {
        print::json(&keys);
        return Ok(0);
    }
    let mut rows = Vec::new();
    for quota in &keys.quotas {
        let rate = quota.requests_per_second.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.2}"));
        rows.push(vec![
            quota.name.clone(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            rate,
            quota.calls.to_string(),
            quota.in_flight.to_string(),
            quota.refusals.to_string(),
        ]);
        let named = |what: &'static str| move |condition| (what, condition);
        let keys = quota.keys.iter().map(named("key"));
        for (what, condition) in keys.chain(quota.models.iter().map(named("model"))) {
            rows.push(row(what, condition));
        }
    }
    let header =
        ["QUOTA", "KEY OR MODEL", "STATE", "REASON", "UNTIL", "CALLS/S", "CALLS", "IN FLIGHT", "REFUSALS"];
    print::table(&header, &rows);
    for quota in &keys.quotas {
        if let Some(problem) = &quota.last_problem {
            print::line(&format!("{}: the last call that was not accepted: {problem}", quota.name));
        }
    }
    Ok(0)
}

fn row(what: &str, condition: &Condition) -> Vec<String> {
    let time = |until: Timestamp| until.round(jiff::Unit::Second).unwrap_or(until).to_string();
    let (reason, until) = match (&condition.reason, &condition.spent) {
        (None, Some(spent)) => (format!("spent: {}", spent.limit), time(spent.until)),
        (reason, _) => (reason.clone().unwrap_or_default(), condition.until.map_or_else(String::new, time)),
    };
    vec![String::new(), format!("{what} {}", condition.name), condition.state.clone(), reason, until]
}
