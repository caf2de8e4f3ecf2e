//! The cost of calls in money: the prices of a model, and amounts that are exact to the last digit.

use std::collections::BTreeMap;

use forebay_schemas::Usage;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// The number of tokens that a price is for.
const TOKENS: Decimal = Decimal::from_parts(1_000_000, 0, 0, false, 0);
/// The names of service tiers without prices of their own.
const USUAL_TIERS: [&str; 4] = ["auto", "default", "standard", "on_demand"];

/// The prices of a model, in US dollars.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prices {
    /// The usual prices.
    #[serde(flatten)]
    pub rates: TokenRates,
    /// The prices that replace the usual ones for longer prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<PriceStep>,
    /// The prices of service tiers that have their own, by the tier's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tiers: BTreeMap<String, Prices>,
}

/// The prices for prompts beyond a length. A price that is `None` here is the usual one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceStep {
    /// The length that a prompt exceeds, in tokens.
    pub tokens: u64,
    /// The prices of such prompts.
    #[serde(flatten)]
    pub rates: TokenRates,
}

/// The prices of each kind of token, in US dollars per million; `None` where they are not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRates {
    /// The price of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Decimal>,
    /// The price of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Decimal>,
    /// The price of the part of the prompt that is read from the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input: Option<Decimal>,
    /// The price of the part of the prompt that is written to the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<Decimal>,
    /// The price of the part of the answer that is reasoning; `None` where it is the answer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Decimal>,
}

impl Prices {
    /// Returns the prices for prompts of more than `tokens` tokens, to be set.
    pub fn beyond(&mut self, tokens: u64) -> &mut TokenRates {
        let mut steps = self.above.iter();
        let place = steps.position(|step| step.tokens >= tokens);
        let place = place.unwrap_or(self.above.len());
        let found = self.above.get(place);
        if found.is_none_or(|step| step.tokens != tokens) {
            let rates = TokenRates::default();
            self.above.insert(place, PriceStep { tokens, rates });
        }
        &mut self.above[place].rates
    }

    /// Returns the cost in US dollars of a call with this usage in a service tier. `None` where a
    /// price that it needs is not known, or the amount is too large.
    pub fn amount(&self, usage: &Usage, tier: Option<&str>) -> Option<Decimal> {
        match tier.filter(|tier| !USUAL_TIERS.contains(tier)) {
            Some(tier) => self.tiers.get(tier)?.usual_amount(usage),
            None => self.usual_amount(usage),
        }
    }

    fn usual_amount(&self, usage: &Usage) -> Option<Decimal> {
        let steps = self.above.iter();
        let exceeded = steps.filter(|step| step.tokens < usage.input_tokens);
        let longest = exceeded.max_by_key(|step| step.tokens);
        let longer = longest.map(|step| &step.rates);
        let rate = |of: fn(&TokenRates) -> Option<Decimal>| {
            longer.and_then(of).or_else(|| of(&self.rates))
        };
        let output = rate(|rates| rates.output);
        let special = usage
            .cached_input_tokens
            .saturating_add(usage.cache_write_tokens);
        let usual_input = usage.input_tokens.saturating_sub(special);
        let usual_output = usage.output_tokens.saturating_sub(usage.reasoning_tokens);
        let reasoning = rate(|rates| rates.reasoning).or(output);
        let parts = [
            (usual_input, rate(|rates| rates.input)),
            (usage.cached_input_tokens, rate(|rates| rates.cached_input)),
            (usage.cache_write_tokens, rate(|rates| rates.cache_write)),
            (usual_output, output),
            (usage.reasoning_tokens, reasoning),
        ];
        let mut sum = Decimal::ZERO;
        for (tokens, rate) in parts.into_iter().filter(|(tokens, _)| *tokens > 0) {
            sum = sum.checked_add(rate?.checked_mul(tokens.into())?)?;
        }
        Some(sum.checked_div(TOKENS)?.normalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(json: &str) -> Prices {
        serde_json::from_str(json).expect("prices")
    }

    fn amount(prices: &Prices, usage: Usage, tier: Option<&str>) -> Option<String> {
        prices.amount(&usage, tier).map(|amount| amount.to_string())
    }

    const USED: Usage = Usage {
        input_tokens: 1_000,
        output_tokens: 500,
        cached_input_tokens: 600,
        cache_write_tokens: 100,
        reasoning_tokens: 200,
    };

    #[test]
    fn each_kind_of_token_has_its_price() {
        let prices = prices(
            r#"{"input":"0.15","output":"0.6","cached_input":"0.075","cache_write":"0.1875","reasoning":"1.2",
                "above":[{"tokens":9999,"input":"9"},{"tokens":999,"input":"0.3","output":"1.2"}],
                "tiers":{"flex":{"input":"0.07","output":"0.3","cached_input":"0.03","cache_write":"0"}}}"#,
        );
        // 300 × 0.3 + 600 × 0.075 + 100 × 0.1875 + 300 × 1.2 + 200 × 1.2, in millionths.
        assert_eq!(amount(&prices, USED, None).as_deref(), Some("0.00075375"));
        let short = Usage {
            input_tokens: 999,
            ..USED
        };
        // 299 × 0.15 + 600 × 0.075 + 100 × 0.1875 + 300 × 0.6 + 200 × 1.2
        assert_eq!(
            amount(&prices, short, Some("default")).as_deref(),
            Some("0.0005286")
        );
        // 300 × 0.07 + 600 × 0.03 + 500 × 0.3
        assert_eq!(
            amount(&prices, USED, Some("flex")).as_deref(),
            Some("0.000189")
        );
        assert_eq!(
            amount(&prices, USED, Some("priority")),
            None,
            "nobody knows its price"
        );
        assert_eq!(
            amount(&prices, Usage::default(), None).as_deref(),
            Some("0")
        );
    }

    #[test]
    fn what_has_no_known_price_makes_the_whole_unknown() {
        let prices = prices(r#"{"input":"0.15","output":"0.6"}"#);
        assert_eq!(amount(&prices, USED, None), None);
        let plain = Usage {
            cached_input_tokens: 0,
            cache_write_tokens: 0,
            ..USED
        };
        assert_eq!(amount(&prices, plain, None).as_deref(), Some("0.00045"));
    }

    #[test]
    fn what_no_decimal_can_hold_is_unknown_too() {
        let prices = prices(r#"{"input":"70000000000000000000000000000"}"#);
        let most = Usage {
            input_tokens: u64::MAX,
            ..Usage::default()
        };
        assert_eq!(amount(&prices, most, None), None);
    }

    #[test]
    fn a_million_amounts_add_up_to_the_last_digit() {
        let prices = prices(r#"{"input":"0.1"}"#);
        let one = prices
            .amount(
                &Usage {
                    input_tokens: 1,
                    ..Usage::default()
                },
                None,
            )
            .expect("known");
        let sum: Decimal = std::iter::repeat_n(one, 1_000_000).sum();
        assert_eq!(sum.normalize().to_string(), "0.1");
    }
}
