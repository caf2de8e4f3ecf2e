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
const AMOUNT_DIGITS: u32 = 6;

pub(super) fn dry_run(
    global: &GlobalOptions,
    config: &Config,
    workers: forebay_workers::Config,
    batch: &Batch,
) -> u8 {
    let estimate = forecast(workers, &batch.team, batch.jobs(), SystemClock.now());
    if global.json {
        print::json(&in_json(batch, &estimate));
    } else {
        lines(config, &estimate).iter().for_each(|line| {
            print::line(line);
        });
    }
    0
}

fn lines(config: &Config, estimate: &Forecast) -> Vec<String> {
    let calls: usize = estimate.calls.values().sum();
    let mut lines = vec![
        format!(
            "{}, {}: about {} tokens in, at most {} out",
            counted(estimate.jobs, "line"),
            counted(calls, "call"),
            thousands(estimate.input_tokens),
            thousands(estimate.output_tokens)
        ),
        cost_line(estimate),
        time_line(config, estimate),
    ];
    if estimate.calls.len() > 1 {
        lines.extend(estimate.calls.iter().map(|((account, model), calls)| {
            format!("  {account}: {model}: {}", counted(*calls, "call"))
        }));
    }
    if estimate.unbounded > 0 {
        lines.push(format!(
            "of {} nobody says how long the answer may be: what it may take at most is not known",
            counted(estimate.unbounded, "line")
        ));
    }
    if estimate.too_long > 0 {
        lines.push(format!(
            "{} would likely fail: too long for every model of the pool",
            counted(estimate.too_long, "line")
        ));
    }
    if estimate.unserved > 0 {
        let unserved = counted(estimate.unserved, "line");
        lines.push(format!(
            "{unserved} would fail: no target of the pool can serve what is asked"
        ));
    }
    lines.push("nothing was sent".to_owned());
    lines
}

fn cost_line(estimate: &Forecast) -> String {
    let called = estimate.jobs - estimate.unserved;
    if !is_priced(estimate) {
        return "cost: unknown".to_owned();
    }
    let [prompts, answers] = [estimate.prompts, estimate.answers].map(rounded);
    let unknown = match estimate.unpriced {
        0 => String::new(),
        unknown => format!(" and that of {unknown} of {called} lines, which is unknown"),
    };
    format!("cost: about {prompts} USD for prompts and at most {answers} USD for answers{unknown}")
}

/// Returns true if any price is known.
fn is_priced(estimate: &Forecast) -> bool {
    estimate.unpriced == 0 || !estimate.prompts.is_zero() || !estimate.answers.is_zero()
}

fn time_line(config: &Config, estimate: &Forecast) -> String {
    let Some(takes) = estimate.takes else {
        let names: Vec<_> = estimate.unlimited.iter().map(String::as_str).collect();
        return format!(
            "time: unknown, since no limits are configured of {}",
            names.join(", ")
        );
    };
    let concurrent = estimate.calls.keys().any(|(account, model)| {
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
fn counted(count: usize, what: &str) -> String {
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
    amount.round_dp(AMOUNT_DIGITS).normalize()
}

fn in_json(batch: &Batch, estimate: &Forecast) -> Value {
    let calls: Vec<_> = estimate
        .calls
        .iter()
        .map(|((account, model), calls)| json!({ "account": account, "model": model, "calls": calls }))
        .collect();
    json!({
        "batch": batch.name, "dry_run": true, "lines": estimate.jobs, "calls": calls,
        "lines_that_would_fail": estimate.unserved, "lines_likely_too_long": estimate.too_long,
        "lines_without_a_longest_answer": estimate.unbounded,
        "input_tokens": estimate.input_tokens, "output_tokens_at_most": estimate.output_tokens,
        "cost": is_priced(estimate).then(|| json!({
            "prompts": rounded(estimate.prompts).to_string(), "answers_at_most": rounded(estimate.answers).to_string(),
            "currency": "USD",
        })),
        "lines_of_unknown_cost": estimate.unpriced,
        "seconds": estimate.takes.map(|takes| takes.as_secs_f64()),
        "accounts_without_limits": estimate.unlimited,
    })
}
