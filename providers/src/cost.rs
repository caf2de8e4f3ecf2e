//! The cost vector of a call, and the dimensions that limits count.

use std::fmt;

use serde::Deserialize;

/// The cost vector of one call: what it takes of each kind of limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallCost {
    /// The number of calls; 1 for a single call.
    pub requests: u64,
    /// The number of prompt tokens.
    pub input_tokens: u64,
    /// The number of answer tokens.
    pub output_tokens: u64,
    /// The rule by which prompt and answer tokens count against a limit on all tokens.
    pub together: CountedTogether,
}

/// The rule by which a provider counts prompt and answer tokens against one limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedTogether {
    /// The sum of both.
    #[default]
    Sum,
    /// The larger of the two.
    Larger,
    /// Prompt tokens alone.
    Input,
}

/// The quantity that a limit over a period counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitDimension {
    /// Calls.
    Requests,
    /// Prompt and answer tokens together.
    Tokens,
    /// Prompt tokens.
    InputTokens,
    /// Answer tokens.
    OutputTokens,
}

impl fmt::Display for LimitDimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LimitDimension::Requests => "requests",
            LimitDimension::Tokens => "tokens",
            LimitDimension::InputTokens => "input tokens",
            LimitDimension::OutputTokens => "output tokens",
        })
    }
}

impl CallCost {
    /// The smallest cost of any call.
    pub const LEAST: CallCost = CallCost {
        requests: 1,
        input_tokens: 1,
        output_tokens: 0,
        together: CountedTogether::Sum,
    };

    /// Returns the amount of `dimension` in this cost.
    pub fn of(&self, dimension: LimitDimension) -> u64 {
        match dimension {
            LimitDimension::Requests => self.requests,
            LimitDimension::Tokens => match self.together {
                CountedTogether::Sum => self.input_tokens.saturating_add(self.output_tokens),
                CountedTogether::Larger => self.input_tokens.max(self.output_tokens),
                CountedTogether::Input => self.input_tokens,
            },
            LimitDimension::InputTokens => self.input_tokens,
            LimitDimension::OutputTokens => self.output_tokens,
        }
    }
}
