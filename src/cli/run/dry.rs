//! The option `--dry-run` of `forebay run`: what a batch is going to take, before anything is sent.

use std::time::Duration;

use forebay_workers::clock::{Clock as _, SystemClock};
use forebay_workers::forecast::{self, Forecast, forecast};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::batch::bill::thousands;
use crate::batch::input::Batch;
use crate::cli::{GlobalOptions, print};
use crate::config::Config;

/// Decimal places of an estimated amount: millionths of a dollar.
const DIGITS: u32 = 6;

pub(super) fn dry_run(
    global: &GlobalOptions,
    config: &Config,
    workers: forebay_workers::Config,
    batch: &Batch,
) -> u8 {
    let found = forecast(workers, &batch.team, batch.jobs(), SystemClock.now());
    if global.json {
        print::json(&in_json(batch, &found));
    } else {
        lines(config, &found).iter().for_each(|line| {
            print::line(line);
        });
    }
    0
}

fn lines(config: &Config, found: &Forecast) -> Vec<String> {
    let calls: usize = found.calls.values().sum();
    let mut lines = vec![
        format!(
            "{}, {}: about {} tokens in, at most {} out",
            many(found.jobs, "line"),
            many(calls, "call"),
            thousands(found.input_tokens),
            thousands(found.output_tokens)
        ),
        cost(found),
        took(config, found),
    ];
    if found.calls.len() > 1 {
        lines.extend(found.calls.iter().map(|((account, model), calls)| {
            format!("  {account}: {model}: {}", many(*calls, "call"))
        }));
    }
    if found.unbounded > 0 {
        lines.push(format!(
            "of {} nobody says how long the answer may be: what it may take at most is not known",
            many(found.unbounded, "line")
        ));
    }
    if found.too_long > 0 {
        lines.push(format!(
            "{} would likely fail: too long for every model of the pool",
            many(found.too_long, "line")
        ));
    }
    if found.unserved > 0 {
        let unserved = many(found.unserved, "line");
        lines.push(format!(
            "{unserved} would fail: no target of the pool can serve what is asked"
        ));
    }
    lines.push("nothing was sent".to_owned());
    lines
}

fn cost(found: &Forecast) -> String {
    let called = found.jobs - found.unserved;
    if !is_priced(found) {
        return "cost: unknown".to_owned();
    }
    let [prompts, answers] = [found.prompts, found.answers].map(rounded);
    let unknown = match found.unpriced {
        0 => String::new(),
        unknown => format!(" and that of {unknown} of {called} lines, which is unknown"),
    };
    format!("cost: about {prompts} USD for prompts and at most {answers} USD for answers{unknown}")
}

/// Returns true if any price is known.
fn is_priced(found: &Forecast) -> bool {
    found.unpriced == 0 || !found.prompts.is_zero() || !found.answers.is_zero()
}

fn took(config: &Config, found: &Forecast) -> String {
    let Some(takes) = found.takes else {
        let names: Vec<_> = found.unlimited.iter().map(String::as_str).collect();
        return format!(
            "time: unknown, since no limits are configured of {}",
            names.join(", ")
        );
    };
    let concurrent = found.calls.keys().any(|(account, model)| {
        config.accounts.get(account).is_some_and(|account| {
            account
                .limits
                .iter()
                .any(|limit| limit.is_on_calls_at_once() && limit.covers(model))
        })
    });
    let assumed = match concurrent {
        true => format!(", if a call takes {:?}", forecast::CALL),
        false => String::new(),
    };
    format!(
        "time: {} under the configured limits{assumed}",
        humantime::format_duration(in_seconds(takes))
    )
}

/// Formats a count with its noun.
fn many(count: usize, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{} {what}{end}", thousands(count as u64))
}

/// Rounds up to whole seconds.
fn in_seconds(time: Duration) -> Duration {
    Duration::from_secs(
        time.as_millis()
            .div_ceil(1_000)
            .try_into()
            .unwrap_or(u64::MAX),
    )
}

fn rounded(amount: Decimal) -> Decimal {
    amount.round_dp(DIGITS).normalize()
}

fn in_json(batch: &Batch, found: &Forecast) -> Value {
    let calls: Vec<_> = found
        .calls
        .iter()
        .map(|((account, model), calls)| json!({ "account": account, "model": model, "calls": calls }))
        .collect();
    json!({
        "batch": batch.name, "dry_run": true, "lines": found.jobs, "calls": calls,
        "lines_that_would_fail": found.unserved, "lines_likely_too_long": found.too_long,
        "lines_without_a_longest_answer": found.unbounded,
        "input_tokens": found.input_tokens, "output_tokens_at_most": found.output_tokens,
        "cost": is_priced(found).then(|| json!({
            "prompts": rounded(found.prompts).to_string(), "answers_at_most": rounded(found.answers).to_string(),
            "currency": "USD",
        })),
        "lines_of_unknown_cost": found.unpriced,
        "seconds": found.takes.map(|takes| takes.as_secs_f64()),
        "accounts_without_limits": found.unlimited,
    })
}
