//! The effort of reasoning, and the tokens for it where thoughts have a budget.

use serde::Deserialize;

use super::{ChatRequest, ToolChoice};
use crate::unsupported::Unsupported;

/// The maximum length of an answer, in tokens, where a job sets none and the API needs one. The
/// smallest model that is served allows no more (recalled).
pub(crate) const MOST_UNSTATED: u64 = 4_096;
/// The smallest budget of thought for Anthropic's models, in tokens.
const LEAST_THOUGHT: u64 = 1_024;
/// The smallest `top_p` with which Anthropic's models think.
const LEAST_TOP_P: f64 = 0.95;

/// The effort of reasoning before an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReasoningEffort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

/// The limits for an answer of Anthropic's models, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EffortShare {
    /// The maximum of the whole answer.
    pub(crate) most: u64,
    /// The part of the maximum for thought; `None` if the model does not think.
    pub(crate) thought: Option<u64>,
}

impl ReasoningEffort {
    /// Returns the budget in tokens for this effort, where the API needs one (LiteLLM's figures).
    pub(crate) fn budget(self) -> u64 {
        match self {
            ReasoningEffort::None => 0,
            ReasoningEffort::Minimal | ReasoningEffort::Low => 1_024,
            ReasoningEffort::Medium => 2_048,
            ReasoningEffort::High => 4_096,
            ReasoningEffort::Xhigh => 8_192,
            ReasoningEffort::Max => 16_384,
        }
    }

    /// Returns OpenAI's word for the effort.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            ReasoningEffort::None => "none",
            ReasoningEffort::Minimal => "minimal",
            ReasoningEffort::Low => "low",
            ReasoningEffort::Medium => "medium",
            ReasoningEffort::High => "high",
            ReasoningEffort::Xhigh => "xhigh",
            ReasoningEffort::Max => "max",
        }
    }

    /// Returns the nearest of the three efforts that every provider has; `None` for no thought at
    /// all.
    pub(crate) fn of_three(self) -> Option<&'static str> {
        match self {
            ReasoningEffort::None => None,
            ReasoningEffort::Minimal | ReasoningEffort::Low => Some("low"),
            ReasoningEffort::Medium => Some("medium"),
            ReasoningEffort::High | ReasoningEffort::Xhigh | ReasoningEffort::Max => Some("high"),
        }
    }
}

impl ChatRequest {
    /// Returns the limits for an answer of Anthropic's models where thoughts have a budget. Where
    /// the job sets a maximum, at most half of that is for thought, so that tokens for the answer
    /// remain. The budget is never less than 1,024 tokens, though, which is more than half of a
    /// small maximum. Where the job sets none, the budget is added to the default maximum.
    pub(crate) fn share(&self) -> Result<EffortShare, Unsupported> {
        let stated = self.most_tokens();
        let Some(effort) = self
            .reasoning_effort
            .filter(|effort| *effort != ReasoningEffort::None)
        else {
            return Ok(EffortShare {
                most: stated.unwrap_or(MOST_UNSTATED),
                thought: None,
            });
        };
        self.may_think()?;
        let budget = effort.budget();
        match stated {
            None => Ok(EffortShare {
                most: MOST_UNSTATED + budget,
                thought: Some(budget),
            }),
            Some(most) if most <= LEAST_THOUGHT => {
                let problem = format!(
                    "thinking takes at least {LEAST_THOUGHT} tokens, more than the answer may have"
                );
                Err(Unsupported::new("body.reasoning_effort", problem))
            }
            Some(most) => Ok(EffortShare {
                most,
                thought: Some(budget.min(most / 2).max(LEAST_THOUGHT)),
            }),
        }
    }

    /// Returns the same limits where thoughts have no budget.
    pub(crate) fn share_without_budget(&self) -> EffortShare {
        EffortShare {
            most: self.most_tokens().unwrap_or(MOST_UNSTATED),
            thought: None,
        }
    }

    /// Checks that Anthropic's models can think. They do not where the job restricts the sampling
    /// or forces a call (vendor's documentation).
    fn may_think(&self) -> Result<(), Unsupported> {
        let number = |number: &Option<serde_json::Number>| number.as_ref()?.as_f64();
        let is_forced = matches!(self.tool_choice, ToolChoice::Required | ToolChoice::One(_));
        let kept = [
            (
                "temperature",
                number(&self.temperature).is_some_and(|number| number < 1.0),
            ),
            (
                "top_p",
                number(&self.top_p).is_some_and(|number| number < LEAST_TOP_P),
            ),
            ("top_k", self.top_k.is_some()),
            ("tool_choice", is_forced),
        ];
        let Some((name, _)) = kept.into_iter().find(|(_, given)| *given) else {
            return Ok(());
        };
        let problem = "keeps Anthropic's models from thinking, leave it or `reasoning_effort` out";
        Err(Unsupported::new(format!("body.{name}"), problem))
    }
}
