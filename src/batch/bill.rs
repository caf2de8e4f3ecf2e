//! The tokens and the cost of a batch.

use std::fmt;
use std::str::FromStr;

use forebay_schemas::{Completion, Usage};
use rust_decimal::Decimal;
use serde_json::{Value, json};

/// The tokens and the cost of the lines of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CostSummary {
    /// Number of tokens, as far as providers report them.
    pub usage: Usage,
    /// US dollars, of the lines whose cost is known.
    pub amount: Decimal,
    /// Number of lines that were called and whose cost is unknown.
    pub unknown: usize,
}

impl CostSummary {
    /// Adds a line.
    pub fn add(&mut self, completion: &Completion) {
        let Usage {
            input_tokens,
            output_tokens,
            cached_input_tokens,
            cache_write_tokens,
            reasoning_tokens,
        } = completion.usage.unwrap_or_default();
        let add = |sum: &mut u64, tokens: u64| *sum = sum.saturating_add(tokens);
        add(&mut self.usage.input_tokens, input_tokens);
        add(&mut self.usage.output_tokens, output_tokens);
        add(&mut self.usage.cached_input_tokens, cached_input_tokens);
        add(&mut self.usage.cache_write_tokens, cache_write_tokens);
        add(&mut self.usage.reasoning_tokens, reasoning_tokens);
        let cost = completion.cost.as_ref();
        let amount = cost.and_then(|cost| Decimal::from_str(&cost.amount).ok());
        match amount.and_then(|amount| self.amount.checked_add(amount)) {
            Some(amount) => self.amount = amount,
            // Neither a refusal nor a job that was never called is charged.
            None if completion
                .response
                .as_ref()
                .is_some_and(|response| response.status_code < 300) =>
            {
                self.unknown += 1;
            }
            None => {}
        }
    }

    /// Returns the summary as JSON.
    pub fn in_json(&self) -> Value {
        json!({
            "usage": self.usage,
            "cost": { "amount": self.amount.normalize().to_string(), "currency": "USD" },
            "lines_of_unknown_cost": self.unknown,
        })
    }
}

impl fmt::Display for CostSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |tokens: u64, what: &str| match tokens {
            0 => String::new(),
            tokens => format!(", {} {what}", thousands(tokens)),
        };
        let Usage {
            input_tokens,
            output_tokens,
            ..
        } = self.usage;
        let cached = part(self.usage.cached_input_tokens, "of them cached");
        let reasoning = part(self.usage.reasoning_tokens, "of them reasoning");
        let (input, output) = (thousands(input_tokens), thousands(output_tokens));
        write!(
            f,
            "tokens: {input} in{cached}; {output} out{reasoning}; cost: "
        )?;
        let amount = self.amount.normalize();
        match self.unknown {
            0 => write!(f, "{amount} USD"),
            _ if amount.is_zero() => f.write_str("unknown"),
            1 => write!(f, "{amount} USD and that of a line, which is unknown"),
            unknown => write!(
                f,
                "{amount} USD and that of {unknown} lines, which is unknown"
            ),
        }
    }
}

/// Formats a count with commas between groups of three digits.
pub fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(usage: &str, cost: &str, response: &str) -> Completion {
        let text = format!(
            r#"{{"id":"1","custom_id":"1","team":"default","batch":null,"pool":"p","lane":"normal","revision":1,
                "status":"succeeded","response":{response},"error":null,"usage":{usage},"cost":{cost},"attempts":[],
                "queued_ms":0,"metadata":null}}"#
        );
        serde_json::from_str(&text).expect("a completion")
    }

    const ANSWER: &str = r#"{"status_code":200,"request_id":null,"body":{}}"#;

    #[test]
    fn tokens_and_amounts_add_up_and_what_is_unknown_is_counted() {
        let mut bill = CostSummary::default();
        let used = r#"{"input_tokens":1000000,"output_tokens":20,"cached_input_tokens":5,"reasoning_tokens":7}"#;
        for cost in [
            r#"{"amount":"0.1","currency":"USD"}"#,
            r#"{"amount":"0.000000002","currency":"USD"}"#,
        ] {
            bill.add(&completion(used, cost, ANSWER));
        }
        let known = "tokens: 2,000,000 in, 10 of them cached; 40 out, 14 of them reasoning; cost: 0.100000002 USD";
        assert_eq!(bill.to_string(), known);
        bill.add(&completion("null", "null", "null"));
        assert_eq!(bill.to_string(), known, "nothing was called");
        bill.add(&completion("null", "null", ANSWER));
        assert!(
            bill.to_string()
                .ends_with("0.100000002 USD and that of a line, which is unknown"),
            "{bill}"
        );
        let mut unknown = CostSummary::default();
        unknown.add(&completion(used, "null", ANSWER));
        assert!(unknown.to_string().ends_with("cost: unknown"), "{unknown}");
    }
}
