//! The configuration words of 0.1. Each is reported as a mistake that names the current word. Its
//! value is then read under the current word, so that no other message follows.

use toml::{Table, Value};

use super::ConfigError;

/// Replaces all words of 0.1 by the current words. Returns a mistake for each.
pub(super) fn renamed(table: &mut Table) -> Vec<ConfigError> {
    let mut mistakes = Vec::new();
    rename_accounts(table, &mut mistakes);
    if let Some(Value::Table(streams)) = table.get_mut("streams") {
        rename(
            streams,
            "streams",
            ("jobs_max_per_flow", "jobs_max_per_queue"),
            &mut mistakes,
        );
    }
    let pools = table.get_mut("pool").and_then(Value::as_table_mut);
    for (name, pool) in pools.into_iter().flatten() {
        let Value::Table(pool) = pool else { continue };
        let path = format!("pool.{name}");
        rename(pool, &path, ("join", "merge"), &mut mistakes);
        // In 0.1, an age of zero meant that calls are coalesced and no answer is cached.
        if rename(pool, &path, ("reuse", "cache"), &mut mistakes)
            && let Some(Value::String(cache)) = pool.get_mut("cache")
            && humantime::parse_duration(cache).is_ok_and(|age| age.is_zero())
        {
            "coalesce".clone_into(cache);
        }
        let targets = pool.get_mut("targets").and_then(Value::as_array_mut);
        for (index, target) in targets.into_iter().flatten().enumerate() {
            if let Value::Table(target) = target {
                rename(
                    target,
                    &format!("{path}.targets[{index}]"),
                    ("quota", "account"),
                    &mut mistakes,
                );
            }
        }
    }
    mistakes
}

/// Replaces `[quota.NAME]` by `[account.NAME]`.
fn rename_accounts(table: &mut Table, mistakes: &mut Vec<ConfigError>) {
    let Some(quotas) = table.remove("quota") else {
        return;
    };
    let Value::Table(quotas) = quotas else {
        let problem = "is now [account.NAME]".to_owned();
        return mistakes.push(ConfigError {
            path: "quota".to_owned(),
            problem,
        });
    };
    let names = quotas.keys();
    mistakes.extend(names.map(|name| ConfigError {
        path: format!("quota.{name}"),
        problem: format!("is now [account.{name}]"),
    }));
    let accounts = table
        .entry("account")
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(accounts) = accounts {
        for (name, account) in quotas {
            accounts.entry(name).or_insert(account);
        }
    }
}

/// Replaces one word. Returns true if the old word was found.
fn rename(
    table: &mut Table,
    path: &str,
    (old, new): (&str, &str),
    mistakes: &mut Vec<ConfigError>,
) -> bool {
    let Some(value) = table.remove(old) else {
        return false;
    };
    mistakes.push(ConfigError {
        path: format!("{path}.{old}"),
        problem: format!("is now `{new}`"),
    });
    table.entry(new).or_insert(value);
    true
}
