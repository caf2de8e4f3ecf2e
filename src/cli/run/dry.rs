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
        for ((account, model), calls) in &estimate.calls {
            let calls = counted(*calls, "call");
            lines.push(format!("  {account}: {model}: {calls}"));
        }
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
    let is_known = |amount: Decimal| !amount.is_zero();
    estimate.unpriced == 0 || is_known(estimate.prompts) || is_known(estimate.answers)
}

fn time_line(config: &Config, estimate: &Forecast) -> String {
    let Some(takes) = estimate.takes else {
        let names = estimate.unlimited.iter().map(String::as_str);
        let names: Vec<_> = names.collect();
        return format!(
            "time: unknown, since no limits are configured of {}",
            names.join(", ")
        );
    };
    let mut targets = estimate.calls.keys();
    let assumed = match targets.any(|(account, model)| limits_concurrency(config, account, model)) {
        true => format!(", if a call takes {:?}", forecast::CALL),
        false => String::new(),
    };
    format!(
        "time: {} under the configured limits{assumed}",
        humantime::format_duration(in_seconds(takes))
    )
}

/// Returns true if an account limits the number of calls in flight to a model.
fn limits_concurrency(config: &Config, account: &str, model: &str) -> bool {
    let Some(account) = config.accounts.get(account) else {
        return false;
    };
    let mut limits = account.limits.iter();
    limits.any(|limit| limit.is_on_calls_at_once() && limit.covers(model))
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
    let [prompts, answers] = [estimate.prompts, estimate.answers].map(rounded);
    json!({
        "batch": batch.name, "dry_run": true, "lines": estimate.jobs, "calls": calls,
        "lines_that_would_fail": estimate.unserved, "lines_likely_too_long": estimate.too_long,
        "lines_without_a_longest_answer": estimate.unbounded,
        "input_tokens": estimate.input_tokens, "output_tokens_at_most": estimate.output_tokens,
        "cost": is_priced(estimate).then(|| json!({
            "prompts": prompts.to_string(), "answers_at_most": answers.to_string(),
            "currency": "USD",
        })),
        "lines_of_unknown_cost": estimate.unpriced,
        "seconds": estimate.takes.map(|takes| takes.as_secs_f64()),
        "accounts_without_limits": estimate.unlimited,
    })
}
