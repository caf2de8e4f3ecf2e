//! What a call takes: the cost vector, and the dimensions that limits count.

use std::fmt;

use serde::Deserialize;

/// The cost vector of one call: what it takes of each kind of limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Calls; one for a single call.
    pub requests: u64,
    /// Prompt tokens.
    pub input_tokens: u64,
    /// Answer tokens.
    pub output_tokens: u64,
    /// What both together take of a limit on all tokens.
    pub together: Together,
}

/// How a provider counts prompt and answer tokens against one limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Together {
    /// Their sum.
    #[default]
    Sum,
    /// The larger of the two.
    Larger,
    /// Prompt tokens alone.
    Input,
}

/// What a limit over a period counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Calls.
    Requests,
    /// Prompt and answer tokens together.
    Tokens,
    /// Prompt tokens.
    InputTokens,
    /// Answer tokens.
    OutputTokens,
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dimension::Requests => "requests",
            Dimension::Tokens => "tokens",
            Dimension::InputTokens => "input tokens",
            Dimension::OutputTokens => "output tokens",
        })
    }
}

impl Cost {
    /// The least that any call takes.
    pub const LEAST: Cost = Cost {
        requests: 1,
        input_tokens: 1,
        output_tokens: 0,
        together: Together::Sum,
    };

    /// How much of `dimension` this is.
    pub fn of(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Requests => self.requests,
            Dimension::Tokens => match self.together {
                Together::Sum => self.input_tokens.saturating_add(self.output_tokens),
                Together::Larger => self.input_tokens.max(self.output_tokens),
                Together::Input => self.input_tokens,
            },
            Dimension::InputTokens => self.input_tokens,
            Dimension::OutputTokens => self.output_tokens,
        }
    }
}
