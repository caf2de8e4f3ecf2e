//! The command `forebay accounts`.

use clap::Subcommand;
use forebay_schemas::Class;
use jiff::Timestamp;

use super::client::{ask, connect};
use super::{GlobalOptions, print};
use crate::config::Config;
use crate::control::messages::{AccessCondition, AccountReport, AccountsReport, SwitchRequest};
use crate::nats::connection::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    act: Option<AccountCommand>,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Stop using a key of an account, or all its keys, until it is enabled again. This outlives a
    /// restart.
    Disable(WhichAccount),
    /// Use keys again, whatever the reason why they were disabled.
    Enable(WhichAccount),
}

#[derive(Debug, clap::Args)]
struct WhichAccount {
    /// The account.
    account: String,
    /// One of its keys. Without it, all of them.
    key: Option<String>,
}

pub(super) async fn accounts(global: &GlobalOptions, args: Args) -> Result<u8, Error> {
    let (verb, which) = match args.act {
        None => ("accounts", None),
        Some(AccountCommand::Disable(which)) => ("accounts.disable", Some(which)),
        Some(AccountCommand::Enable(which)) => ("accounts.enable", Some(which)),
    };
    let request = which.map(|WhichAccount { account, key }| SwitchRequest { account, key });
    let request = request
        .map(|request| serde_json::to_vec(&request))
        .transpose();
    let request = request
        .map_err(|error| Error::Usage(error.into()))?
        .unwrap_or_default();
    let config = Config::load(global.config.as_deref())?;
    let connection = connect(&config).await?;
    let accounts: AccountsReport = ask(&connection, verb, request).await?;
    if global.json {
        print::json(&accounts);
        return Ok(0);
    }
    show(&accounts);
    Ok(0)
}

fn show(accounts: &AccountsReport) {
    let mut rows = Vec::new();
    for account in &accounts.accounts {
        let rate = account
            .requests_per_second
            .map_or_else(|| "-".to_owned(), |rate| format!("{rate:.2}"));
        rows.push(vec![
            account.name.clone(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            rate,
            account.calls.to_string(),
            account.in_flight.to_string(),
            account.refusals.to_string(),
        ]);
        let labelled = |what: &'static str| move |condition| (what, condition);
        let keys = account.keys.iter().map(labelled("key"));
        let models = account.models.iter().map(labelled("model"));
        for (what, condition) in keys.chain(models) {
            rows.push(row(what, condition));
        }
    }
    let header = [
        "ACCOUNT",
        "KEY OR MODEL",
        "STATE",
        "REASON",
        "UNTIL",
        "CALLS/S",
        "CALLS",
        "IN FLIGHT",
        "REFUSALS",
    ];
    print::table(&header, &rows);
    for account in &accounts.accounts {
        if account.has_unknown_state {
            let name = &account.name;
            print::line(&format!(
                "{name}: its saved state was replaced by a value that Forebay did not write, so limits over more than a minute \
                 count as spent, and its keys stay disabled until `forebay accounts enable {name}`"
            ));
        }
        if let Some(problem) = &account.last_problem {
            print::line(&format!(
                "{}: the last call that was not accepted: {problem}",
                account.name
            ));
        }
        for model in account
            .models
            .iter()
            .filter(|model| !model.learned.is_empty())
        {
            print::line(&format!(
                "{}/{}: limits as learned: {}",
                account.name,
                model.name,
                model.learned.join(", ")
            ));
        }
        for hint in hints(account) {
            print::line(&hint);
        }
    }
}

/// Returns what an operator can do about keys and models whose calls have stopped.
fn hints(account: &AccountReport) -> Vec<String> {
    let name = &account.name;
    let reason = |condition: &AccessCondition| Class::named(condition.reason.as_deref()?);
    let mut hints = Vec::new();
    let is_disabled = |key: &&AccessCondition| key.state == "disabled";
    for key in account.keys.iter().filter(is_disabled) {
        let (key, reason) = (&key.name, reason(key));
        hints.push(match reason {
            Some(Class::BillingStop) => format!(
                "{name}: the account cannot pay or has reached its spending cap: put that right at the provider, then \
                 `forebay accounts enable {name}`"
            ),
            Some(_) => format!(
                "{name}: key {key} is not accepted: put it right and restart Forebay, which reads keys when it starts; \
                 if it was put right at the provider, `forebay accounts enable {name} {key}`"
            ),
            None => format!(
                "{name}: key {key} was disabled by an operator; `forebay accounts enable {name} {key}` uses it again"
            ),
        });
    }
    for model in account
        .models
        .iter()
        .filter(|model| model.state == "cooling" || model.state == "probing")
    {
        let (model, reason) = (&model.name, reason(model));
        hints.push(match reason {
            Some(Class::ModelNotAllowed) => format!(
                "{name}: the account may not use {model}: have it allowed at the provider, then `forebay accounts enable \
                 {name}`, or take it out of its pools"
            ),
            Some(Class::NetBeforeSend) => format!(
                "{name}: no call for {model} gets through: if it stays so, look at base_url and at the way there; \
                 calls go on by themselves"
            ),
            Some(
                Class::Overloaded | Class::ServerError | Class::NetAfterSend | Class::MalformedResponse,
            ) => format!("{name}: the provider fails for {model}: calls go on by themselves when one succeeds"),
            _ => continue,
        });
    }
    hints.extend(account.conditions().filter_map(|condition| {
        let asked = condition.doubted_until?;
        Some(probe_hint(name, condition, asked))
    }));
    // A stop of the whole account is the state of each of its keys.
    hints.dedup();
    hints
}

/// Says that a wait is not believed, and when the next call probes.
fn probe_hint(account: &str, condition: &AccessCondition, asked: Timestamp) -> String {
    let next = condition.until.map_or_else(
        || "a probe is under way".to_owned(),
        |at| format!("the next probe is at {}", in_seconds(at)),
    );
    format!(
        "{account}: the provider asks not to be called for {} until {}, which is longer than any limit's period here: {next}",
        condition.name,
        in_seconds(asked)
    )
}

fn in_seconds(at: Timestamp) -> String {
    at.round(jiff::Unit::Second).unwrap_or(at).to_string()
}

fn row(what: &str, condition: &AccessCondition) -> Vec<String> {
    let (reason, until) = match (&condition.reason, &condition.spent) {
        (None, Some(spent)) => (format!("spent: {}", spent.limit), in_seconds(spent.until)),
        (reason, _) => (
            reason.clone().unwrap_or_default(),
            condition.until.map_or_else(String::new, in_seconds),
        ),
    };
    vec![
        String::new(),
        format!("{what} {}", condition.name),
        condition.state.clone(),
        reason,
        until,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(name: &str, state: &str, reason: &str) -> AccessCondition {
        let (name, state, reason) = (name.to_owned(), state.to_owned(), Some(reason.to_owned()));
        AccessCondition {
            name,
            state,
            reason,
            until: None,
            doubted_until: None,
            spent: None,
            learned: Vec::new(),
        }
    }

    fn hints_of(keys: Vec<AccessCondition>, models: Vec<AccessCondition>) -> Vec<String> {
        hints(&AccountReport {
            name: "q".to_owned(),
            provider: "openai".to_owned(),
            keys,
            models,
            requests_per_second: None,
            calls: 0,
            in_flight: 0,
            refusals: 0,
            last_problem: None,
            has_unknown_state: false,
        })
    }

    #[test]
    fn what_does_not_go_on_by_itself_has_a_hint_and_nothing_else_has() {
        let key = |reason| hints_of(vec![condition("k", "disabled", reason)], Vec::new());
        for (reason, words) in [
            ("bad_key", "restart Forebay"),
            ("bad_key", "`forebay accounts enable q k`"),
            ("billing_stop", "then `forebay accounts enable q`"),
            (
                "operator",
                "disabled by an operator; `forebay accounts enable q k`",
            ),
        ] {
            let hints = key(reason);
            assert!(
                hints.len() == 1 && hints[0].contains(words),
                "{reason}: {hints:?}"
            );
        }
        let model = |state, reason| hints_of(Vec::new(), vec![condition("m", state, reason)]);
        for (reason, words) in [
            ("model_not_allowed", "`forebay accounts enable q`"),
            ("net_before_send", "base_url"),
            ("server_error", "by themselves"),
        ] {
            let hints = model("cooling", reason);
            assert!(
                hints.len() == 1 && hints[0].contains(words),
                "{reason}: {hints:?}"
            );
        }
        assert_eq!(
            model("cooling", "rate_limited"),
            [""; 0],
            "a limit is nothing to mend"
        );
        assert_eq!(model("ready", "server_error"), [""; 0]);
    }

    #[test]
    fn an_account_that_cannot_pay_is_reported_once() {
        let stopped = |name| condition(name, "disabled", "billing_stop");
        assert_eq!(
            hints_of(vec![stopped("a"), stopped("b")], Vec::new()).len(),
            1
        );
    }
}
