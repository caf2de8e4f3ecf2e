//! `forebay keys`.

use clap::Subcommand;
use jiff::Timestamp;

use super::client::{ask, connect};
use super::{Global, print};
use crate::config::Config;
use crate::connection::Error;
use crate::control::{Condition, Keys, SwitchRequest};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    act: Option<Act>,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Use no key of an account, or not this one, until it is enabled again; a restart changes nothing.
    Disable(Which),
    /// Use keys again, whatever had disabled them.
    Enable(Which),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The account.
    quota: String,
    /// One of its keys; all, if none is named.
    key: Option<String>,
}

pub(super) async fn keys(global: &Global, args: Args) -> Result<u8, Error> {
    let (verb, which) = match args.act {
        None => ("keys", None),
        Some(Act::Disable(which)) => ("keys.disable", Some(which)),
        Some(Act::Enable(which)) => ("keys.enable", Some(which)),
    };
    let request = which.map(|Which { quota, key }| SwitchRequest { quota, key });
    let request = request.map(|request| serde_json::to_vec(&request)).transpose();
    let request = request.map_err(|error| Error::Usage(error.into()))?.unwrap_or_default();
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    let keys: Keys = ask(&connection, verb, request).await?;
    if global.json {
        print::json(&keys);
        return Ok(0);
    }
    show(&keys);
    Ok(0)
}

fn show(keys: &Keys) {
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
        for model in quota.models.iter().filter(|model| !model.learned.is_empty()) {
            print::line(&format!(
                "{}/{}: limits as learned: {}",
                quota.name,
                model.name,
                model.learned.join(", ")
            ));
        }
    }
}

fn row(what: &str, condition: &Condition) -> Vec<String> {
    let time = |until: Timestamp| until.round(jiff::Unit::Second).unwrap_or(until).to_string();
    let (reason, until) = match (&condition.reason, &condition.spent) {
        (None, Some(spent)) => (format!("spent: {}", spent.limit), time(spent.until)),
        (reason, _) => (reason.clone().unwrap_or_default(), condition.until.map_or_else(String::new, time)),
    };
    vec![String::new(), format!("{what} {}", condition.name), condition.state.clone(), reason, until]
}
