//! The jobs of one call: nearly always one job, or several whose embeddings share a request. The request of all, and the
//! answer of each.
//!
//! Where a limit counts calls, a request of a thousand texts costs as little of it as one of a single text. If such a
//! request is refused, its jobs are split into halves until the bad job is alone, so that it fails no other.

use forebay_schemas::job::Object;
use forebay_schemas::{Class, Job, Response, Usage};
use rust_decimal::Decimal;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use crate::job::admitted_job::AdmittedJob;
use crate::job::merge_key::{INPUT, may_be_of_one, texts};
use crate::job::merge_size::{MergeSizes, SizedCall, SizedOutcome};
use crate::outcome::outcome::CallOutcome;

/// Digits after the point that a share of a cost may have.
const DIGITS: u32 = 18;

/// Jobs that are called together; nearly always one.
#[derive(Debug)]
pub(crate) struct MergedCall {
    members: Vec<AdmittedJob>,
    /// What asks for all of them.
    joined: Option<Job>,
}

impl MergedCall {
    /// One job alone.
    pub(crate) fn alone(admitted: AdmittedJob) -> Self {
        Self {
            members: vec![admitted],
            joined: None,
        }
    }

    /// `first`, and what travels with it.
    pub(crate) fn of(first: AdmittedJob, others: Vec<AdmittedJob>) -> Self {
        if others.is_empty() {
            return Self::alone(first);
        }
        let mut members = vec![first];
        members.extend(others);
        let texts: Vec<_> = members
            .iter()
            .filter_map(|admitted| texts(&admitted.job))
            .flatten()
            .collect();
        let mut job = members[0].job.clone();
        let input = to_raw_value(&texts).ok();
        job.body
            .extend(input.map(|input| (INPUT.to_owned(), input)));
        Self {
            members,
            joined: Some(job),
        }
    }

    /// What is asked.
    pub(crate) fn job(&self) -> &Job {
        self.joined.as_ref().unwrap_or(&self.members[0].job)
    }

    /// The jobs, at least one.
    pub(crate) fn members(&self) -> &[AdmittedJob] {
        &self.members
    }

    /// The same, to be changed.
    pub(crate) fn members_mut(&mut self) -> &mut [AdmittedJob] {
        &mut self.members
    }

    /// Likely tokens of all prompts.
    pub(crate) fn input_tokens(&self) -> u64 {
        self.members
            .iter()
            .map(|admitted| admitted.cost.input_tokens)
            .sum()
    }

    /// Texts of all.
    pub(crate) fn inputs(&self) -> usize {
        self.members.iter().map(inputs_of).sum()
    }

    /// The same outcome, unless it is an answer that has not a vector for each text of several jobs.
    pub(crate) fn checked(&self, outcome: CallOutcome) -> CallOutcome {
        let answer = outcome
            .response
            .as_ref()
            .filter(|_| outcome.class.is_none() && self.members.len() > 1);
        if answer.is_none_or(|response| MergedAnswer::read(response, self.inputs()).is_some()) {
            return outcome;
        }
        CallOutcome {
            class: Some(Class::MalformedResponse),
            response: None,
            code: "other_vectors".to_owned(),
            message: format!(
                "the provider's answer has not one vector for each of {} texts",
                self.inputs()
            ),
            ..outcome
        }
    }

    /// Whether the outcome may be that of one of several, so that they have to be asked apart.
    pub(crate) fn must_part(&self, outcome: &CallOutcome) -> bool {
        self.members.len() > 1 && outcome.class.is_some_and(may_be_of_one)
    }

    /// What the sizes of later calls are learned from.
    pub(crate) fn sized(&self, outcome: &CallOutcome, bytes: usize) -> SizedCall {
        let first = self.members[0].join.as_ref();
        let outcome = match outcome.class {
            None => SizedOutcome::Answered { bytes },
            Some(_) if self.must_part(outcome) => SizedOutcome::MustPart,
            Some(_) => SizedOutcome::Failed,
        };
        SizedCall {
            texts: self.inputs(),
            is_part: first.is_some_and(|join| join.part.is_some()),
            outcome,
        }
    }

    /// The jobs in two parts, each of which travels together.
    pub(crate) fn parts(self, sizes: &MergeSizes) -> Vec<AdmittedJob> {
        let Self { mut members, .. } = self;
        let half = members.len().div_ceil(2);
        for part in members.chunks_mut(half) {
            let number = sizes.next_part();
            part.iter_mut()
                .filter_map(|admitted| admitted.join.as_mut())
                .for_each(|join| {
                    join.part = Some(number);
                });
        }
        members
    }

    /// Each job with its own outcome.
    pub(crate) fn divided(self, outcome: CallOutcome) -> Vec<(AdmittedJob, CallOutcome)> {
        let outcomes = match self.members.len() {
            1 => vec![outcome],
            _ => shares(&self.members, outcome),
        };
        self.members.into_iter().zip(outcomes).collect()
    }
}

/// The answer to several jobs, as far as it is looked into.
struct MergedAnswer {
    fields: Object,
    vectors: Vec<Object>,
}

impl MergedAnswer {
    /// `None` if it has not `inputs` vectors, each with its place.
    fn read(response: &Response, inputs: usize) -> Option<Self> {
        let mut fields: Object = serde_json::from_str(response.body.get()).ok()?;
        let data = fields.remove("data")?;
        let mut vectors: Vec<Object> = serde_json::from_str(data.get()).ok()?;
        let place = |vector: &Object| vector.get("index")?.get().parse::<usize>().ok();
        vectors.sort_by_key(|vector| place(vector).unwrap_or(usize::MAX));
        let in_order = vectors
            .iter()
            .enumerate()
            .all(|(index, vector)| place(vector) == Some(index));
        (in_order && vectors.len() == inputs).then_some(Self { fields, vectors })
    }

    /// The next `inputs` vectors, as the answer to them alone.
    fn share(&self, from: usize, inputs: usize, usage: Option<Usage>) -> Option<Box<RawValue>> {
        let mut vectors = self.vectors.get(from..from + inputs)?.to_vec();
        for (index, vector) in vectors.iter_mut().enumerate() {
            vector.insert("index".to_owned(), to_raw_value(&index).ok()?);
        }
        let mut fields = self.fields.clone();
        fields.insert("data".to_owned(), to_raw_value(&vectors).ok()?);
        if let Some(Usage { input_tokens, .. }) = usage {
            let usage = json!({ "prompt_tokens": input_tokens, "total_tokens": input_tokens });
            fields.insert("usage".to_owned(), to_raw_value(&usage).ok()?);
        }
        to_raw_value(&fields).ok()
    }
}

fn shares(members: &[AdmittedJob], mut outcome: CallOutcome) -> Vec<CallOutcome> {
    let inputs: Vec<_> = members.iter().map(inputs_of).collect();
    let whole = outcome.response.take_if(|_| outcome.class.is_none());
    let answer = whole
        .as_ref()
        .and_then(|response| MergedAnswer::read(response, inputs.iter().sum()));
    let Some((whole, answer)) = whole.as_ref().zip(answer) else {
        return vec![outcome; members.len()];
    };
    let weights: Vec<_> = members
        .iter()
        .map(|admitted| admitted.cost.input_tokens.max(1))
        .collect();
    let usages = outcome.usage.map(|usage| divide(usage, &weights));
    let costs = usages
        .as_ref()
        .zip(outcome.cost)
        .map(|(usages, cost)| divide_cost(cost, usages));
    let mut from = 0;
    let share = |index: usize| {
        let usage = usages.as_ref().map(|usages| usages[index]);
        let body = answer.share(from, inputs[index], usage);
        from += inputs[index];
        let (status_code, request_id) = (whole.status_code, whole.request_id.clone());
        let response = body.map(|body| Response {
            status_code,
            request_id,
            body,
        });
        let cost = costs.as_ref().and_then(|costs| costs[index]);
        CallOutcome {
            response,
            usage,
            cost,
            ..outcome.clone()
        }
    };
    (0..members.len()).map(share).collect()
}

fn inputs_of(admitted: &AdmittedJob) -> usize {
    admitted.join.as_ref().map_or(1, |join| join.inputs)
}

/// Tokens in proportion to `weights`; together they are what was used.
fn divide(usage: Usage, weights: &[u64]) -> Vec<Usage> {
    let all: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut before = 0;
    let share = |weight: &u64| {
        let (from, to) = (before, before + u128::from(*weight));
        before = to;
        let part = |tokens: u64| {
            let until = |weight: u128| u128::from(tokens) * weight / all.max(1);
            u64::try_from(until(to) - until(from)).unwrap_or(u64::MAX)
        };
        Usage {
            input_tokens: part(usage.input_tokens),
            output_tokens: part(usage.output_tokens),
            cached_input_tokens: part(usage.cached_input_tokens),
            cache_write_tokens: part(usage.cache_write_tokens),
            reasoning_tokens: part(usage.reasoning_tokens),
        }
    };
    weights.iter().map(share).collect()
}

/// A cost in proportion to the tokens of each; together they are the cost, to the last digit.
fn divide_cost(cost: Decimal, usages: &[Usage]) -> Vec<Option<Decimal>> {
    let all: Decimal = usages
        .iter()
        .map(|usage| Decimal::from(usage.input_tokens))
        .sum();
    let mut rest = Some(cost);
    let share = |(index, usage): (usize, &Usage)| {
        if index + 1 == usages.len() {
            return rest;
        }
        let part = cost
            .checked_mul(usage.input_tokens.into())?
            .checked_div(all)?
            .round_dp(DIGITS)
            .normalize();
        rest = rest?.checked_sub(part);
        Some(part)
    };
    usages.iter().enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let used = Usage {
            input_tokens: 1_000,
            ..Usage::default()
        };
        let shares = divide(used, &[1, 1, 1]);
        let tokens: Vec<_> = shares.iter().map(|usage| usage.input_tokens).collect();
        assert_eq!(tokens, [333, 333, 334]);
        let cost: Decimal = "0.00002".parse().expect("a number");
        let costs = divide_cost(cost, &shares);
        assert_eq!(
            costs
                .iter()
                .map(|cost| cost.expect("known"))
                .sum::<Decimal>(),
            cost
        );
        assert_eq!(costs[0], "0.00000666".parse().ok());
        let nothing = divide_cost(cost, &[Usage::default(); 2]);
        assert_eq!(
            nothing,
            [None, Some(cost)],
            "what nobody used cannot be divided"
        );
    }

    #[test]
    fn an_answer_is_divided_in_order_and_keeps_its_numbers() {
        let body = r#"{"object":"list","model":"m","data":[{"index":1,"embedding":[0.10,2e-3]},{"index":0,"embedding":"AAAA"}]}"#;
        let body = RawValue::from_string(body.to_owned()).expect("JSON");
        let response = Response {
            status_code: 200,
            request_id: None,
            body,
        };
        assert!(MergedAnswer::read(&response, 3).is_none());
        let answer = MergedAnswer::read(&response, 2).expect("two vectors");
        let usage = Some(Usage {
            input_tokens: 3,
            ..Usage::default()
        });
        let second = answer.share(1, 1, usage).expect("there");
        assert_eq!(
            second.get(),
            r#"{"data":[{"embedding":[0.10,2e-3],"index":0}],"model":"m","object":"list","usage":{"prompt_tokens":3,"total_tokens":3}}"#
        );
    }
}
