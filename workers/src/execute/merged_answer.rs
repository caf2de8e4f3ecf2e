//! The answer to a merged call, and the part of it that each job gets: its vectors, tokens and cost.

use forebay_schemas::job::Object;
use forebay_schemas::{Response, Usage};
use rust_decimal::Decimal;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use crate::job::admitted_job::AdmittedJob;
use crate::outcome::outcome::CallOutcome;

/// Digits after the point that a job's part of a cost may have.
const MAX_COST_DIGITS: u32 = 18;

/// The answer to several jobs: its vectors in the order of the texts, and its other fields.
pub(crate) struct MergedAnswer {
    fields: Object,
    vectors: Vec<Object>,
}

impl MergedAnswer {
    /// Reads an answer; `None` if it has not exactly one vector for each of `inputs` texts.
    pub(crate) fn read(response: &Response, inputs: usize) -> Option<Self> {
        let mut fields: Object = serde_json::from_str(response.body.get()).ok()?;
        let data = fields.remove("data")?;
        let mut vectors: Vec<Object> = serde_json::from_str(data.get()).ok()?;
        let index_of = |vector: &Object| vector.get("index")?.get().parse::<usize>().ok();
        vectors.sort_by_key(|vector| index_of(vector).unwrap_or(usize::MAX));
        // Without any index, the vectors are in the order of the texts.
        let has_no_index = vectors.iter().all(|vector| !vector.contains_key("index"));
        let mut in_order = vectors.iter().enumerate();
        let is_whole =
            has_no_index || in_order.all(|(index, vector)| index_of(vector) == Some(index));
        (is_whole && vectors.len() == inputs).then_some(Self { fields, vectors })
    }

    /// The answer to `inputs` texts, from the one at `from` on, as if they had been sent alone.
    fn part(&self, from: usize, inputs: usize, usage: Option<Usage>) -> Option<Box<RawValue>> {
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

/// The outcome of each job of a merged call. A failure is that of every job.
pub(crate) fn outcomes(jobs: &[AdmittedJob], mut outcome: CallOutcome) -> Vec<CallOutcome> {
    let inputs: Vec<_> = jobs.iter().map(inputs_of).collect();
    // The answer is taken out, so that the clones below do not copy it.
    let whole = outcome.response.take_if(|_| outcome.class.is_none());
    let answer = whole
        .as_ref()
        .and_then(|response| MergedAnswer::read(response, inputs.iter().sum()));
    let Some((whole, answer)) = whole.as_ref().zip(answer) else {
        return vec![outcome; jobs.len()];
    };
    let tokens = jobs.iter().map(|admitted| admitted.cost.input_tokens);
    let weights: Vec<_> = tokens.map(|tokens| tokens.max(1)).collect();
    let usages = outcome.usage.map(|usage| divide(usage, &weights));
    let costs = usages.as_ref().zip(outcome.cost);
    let costs = costs.map(|(usages, cost)| divide_cost(cost, usages));
    let mut from = 0;
    let mut parts = Vec::with_capacity(jobs.len());
    for (index, inputs) in inputs.into_iter().enumerate() {
        let usage = usages.as_ref().map(|usages| usages[index]);
        let body = answer.part(from, inputs, usage);
        from += inputs;
        parts.push(CallOutcome {
            response: body.map(|body| Response {
                status_code: whole.status_code,
                request_id: whole.request_id.clone(),
                body,
            }),
            usage,
            cost: costs.as_ref().and_then(|costs| costs[index]),
            ..outcome.clone()
        });
    }
    parts
}

/// Texts of a job.
pub(crate) fn inputs_of(admitted: &AdmittedJob) -> usize {
    admitted.merge.as_ref().map_or(1, |merge| merge.inputs)
}

/// Divides the tokens in proportion to `weights`. The parts add up to what was used.
fn divide(usage: Usage, weights: &[u64]) -> Vec<Usage> {
    let all: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let until = |tokens: u64, weight: u128| u128::from(tokens) * weight / all.max(1);
    let mut parts = Vec::with_capacity(weights.len());
    let mut from = 0;
    for weight in weights {
        let to = from + u128::from(*weight);
        let part = |tokens: u64| {
            u64::try_from(until(tokens, to) - until(tokens, from)).unwrap_or(u64::MAX)
        };
        parts.push(Usage {
            input_tokens: part(usage.input_tokens),
            output_tokens: part(usage.output_tokens),
            cached_input_tokens: part(usage.cached_input_tokens),
            cache_write_tokens: part(usage.cache_write_tokens),
            reasoning_tokens: part(usage.reasoning_tokens),
        });
        from = to;
    }
    parts
}

/// Divides a cost in proportion to the prompt tokens of each job. The parts add up to the cost, to the last digit.
fn divide_cost(cost: Decimal, usages: &[Usage]) -> Vec<Option<Decimal>> {
    let tokens = usages.iter().map(|usage| Decimal::from(usage.input_tokens));
    let all: Decimal = tokens.sum();
    let mut rest = Some(cost);
    let mut parts = Vec::with_capacity(usages.len());
    for (index, usage) in usages.iter().enumerate() {
        if index + 1 == usages.len() {
            parts.push(rest);
            break;
        }
        let part = cost
            .checked_mul(usage.input_tokens.into())
            .and_then(|product| product.checked_div(all))
            .map(|part| part.round_dp(MAX_COST_DIGITS).normalize());
        if let Some(part) = part {
            rest = rest.and_then(|rest| rest.checked_sub(part));
        }
        parts.push(part);
    }
    parts
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
        let second = answer.part(1, 1, usage).expect("there");
        assert_eq!(
            second.get(),
            r#"{"data":[{"embedding":[0.10,2e-3],"index":0}],"model":"m","object":"list","usage":{"prompt_tokens":3,"total_tokens":3}}"#
        );
    }
}
