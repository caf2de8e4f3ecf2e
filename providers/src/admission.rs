//! The cost of a call at admission, before the call is made.

use forebay_schemas::Job;
use serde_json::Value;

use crate::chat::{MOST_UNSTATED, ReasoningEffort};
use crate::cost::{CallCost, CountedTogether};
use crate::estimate;
use crate::kind::WorkKind;

/// The most answer tokens that are reserved: no model returns more.
const MOST_ANSWER_TOKENS: u64 = 10_000_000;
/// The largest number of answers in one request.
const MOST_ANSWERS: u64 = 128;
/// The fields of a body that count as its prompt.
const PROMPT: [&str; 9] = [
    "messages",
    "input",
    "instructions",
    "tools",
    "functions",
    "response_format",
    "query",
    "documents",
    "prompt",
];
/// The fields that limit the length of an answer, in order of precedence.
const LONGEST_ANSWER: [&str; 3] = ["max_completion_tokens", "max_output_tokens", "max_tokens"];
/// The answer tokens that are reserved where a request sets no maximum.
const UNSTATED_ANSWER_TOKENS: u64 = 1024;

/// Returns true if a job limits the length of its answer.
pub(super) fn states_maximum(job: &Job) -> bool {
    LONGEST_ANSWER
        .iter()
        .any(|field| job.body.contains_key(*field))
}

/// Estimates the tokens of a job's prompt and of the longest answers that it allows. Some adapters
/// always send a maximum. For those, a job without a maximum counts with the one that is sent.
pub(super) fn cost(
    job: &Job,
    model: &str,
    together: CountedTogether,
    always_sets_maximum: bool,
) -> CallCost {
    let together = counted_together(job, together, always_sets_maximum);
    CallCost {
        requests: 1,
        input_tokens: prompt_tokens(job, model) as u64,
        output_tokens: answer_tokens(job, always_sets_maximum),
        together,
    }
}

/// Returns the rule by which a provider whose rule is `together` counts a job.
pub(super) fn counted_together(
    job: &Job,
    together: CountedTogether,
    always_sets_maximum: bool,
) -> CountedTogether {
    match together {
        // Where no maximum is stated, there is none that could be larger than the prompt.
        CountedTogether::Larger if !always_sets_maximum && !states_maximum(job) => {
            CountedTogether::Input
        }
        together => together,
    }
}

fn prompt_tokens(job: &Job, model: &str) -> usize {
    let mut sum = 0;
    for (name, raw) in &job.body {
        if !PROMPT.contains(&name.as_str()) {
            continue;
        }
        if let Ok(part) = serde_json::from_str::<Value>(raw.get()) {
            sum += tokens(model, name, &part);
        }
    }
    sum
}

fn answer_tokens(job: &Job, always_sets_maximum: bool) -> u64 {
    let kind = WorkKind::of(&job.url);
    if kind.is_some_and(|kind| !kind.has_answer_tokens()) {
        return 0;
    }
    let stated = LONGEST_ANSWER.iter().find_map(|field| number(job, field));
    let longest = match stated {
        Some(stated) => stated,
        None if always_sets_maximum => sent_unstated(job),
        None => UNSTATED_ANSWER_TOKENS,
    };
    let answers = number(job, "n").unwrap_or(1).clamp(1, MOST_ANSWERS);
    longest.saturating_mul(answers).min(MOST_ANSWER_TOKENS)
}

/// Returns a field of the body; `None` where it is missing or not a whole number.
fn number(job: &Job, field: &str) -> Option<u64> {
    let raw = job.body.get(field)?;
    raw.get().parse().ok()
}

/// Returns the maximum that an adapter sends where a job sets none. The budget of thought is added
/// to it.
fn sent_unstated(job: &Job) -> u64 {
    let effort = job.body.get("reasoning_effort");
    let effort: Option<ReasoningEffort> =
        effort.and_then(|raw| serde_json::from_str(raw.get()).ok());
    MOST_UNSTATED + effort.map_or(0, ReasoningEffort::budget)
}

/// Returns the tokens of a part of a request's body. The model's tokenizer counts them if it is
/// built in; otherwise they are estimated.
#[cfg_attr(
    not(feature = "exact-tokens"),
    expect(unused_variables, reason = "an estimate is the same for all models")
)]
fn tokens(model: &str, name: &str, part: &Value) -> usize {
    #[cfg(feature = "exact-tokens")]
    if let Some(exact) = crate::exact::tokens(model, name, part) {
        return exact;
    }
    estimate::tokens(part)
}
