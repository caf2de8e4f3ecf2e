//! How a provider counts tokens at admission, learned from its refusals.
//!
//! A refusal may state what the call counted for. Of the three rules, the one that comes nearest counts from then on, if it
//! comes much nearer than the present one. The estimate of a prompt may be off, and so one figure decides little.
//!
//! The tokens that an answer reports for a prompt may be fewer than those that were counted at its admission. Each refusal that
//! the meters did not expect adds a reserve to them.

use std::time::Duration;

use tokio::time::Instant;

use forebay_providers::cost::{CallCost, CountedTogether, LimitDimension};

/// The largest deviation of the nearest rule, as a part of the stated figure.
const NEAR: f64 = 0.3;
/// The rule that counted before must be off by this many times as much.
const MUCH_NEARER: f64 = 2.0;
/// The reserve on the reported tokens of a prompt, in parts of them; what a refusal adds, and the most.
const FIRST_RESERVE: f64 = 0.01;
const RESERVE_STEP: f64 = 0.02;
const LARGEST_RESERVE: f64 = 0.5;
/// Time within which further refusals add nothing: they may have the same reason.
const STEP_TIME: Duration = Duration::from_secs(30);
/// Time without a refusal after which a step of the reserve is given up.
const RESERVE_TIME: Duration = Duration::from_secs(3 * 60);
const RULES: [CountedTogether; 3] = [
    CountedTogether::Sum,
    CountedTogether::Larger,
    CountedTogether::Input,
];

/// The counting of a provider, as far as it is learned.
#[derive(Debug)]
pub(super) struct LearnedCounting {
    /// The rule; `None` while the documented one counts.
    rule: Option<CountedTogether>,
    reserve: f64,
    /// The time at which the reserve was changed.
    since: Instant,
    /// The time of the last refusal that added to it.
    refused_at: Option<Instant>,
}

impl LearnedCounting {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rule: None,
            reserve: FIRST_RESERVE,
            since: now,
            refused_at: None,
        }
    }

    /// Returns `cost` as the provider counts it. Prompts that are counted alone remain so.
    pub(super) fn apply(&self, cost: CallCost) -> CallCost {
        let rule = self
            .rule
            .filter(|_| cost.together != CountedTogether::Input);
        let together = rule.unwrap_or(cost.together);
        CallCost { together, ..cost }
    }

    /// Returns what the provider counted at the admission of a call for which `reserved` was taken and which took `actual`.
    pub(super) fn admitted(&self, reserved: CallCost, actual: CallCost) -> CallCost {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "token counts are positive and far below 2^52"
        )]
        let input_tokens = (actual.input_tokens as f64 * (1.0 + self.reserve)).ceil() as u64;
        let output_tokens = match reserved.together {
            // Providers that are not documented may count what was used.
            CountedTogether::Sum => reserved.output_tokens.max(actual.output_tokens),
            CountedTogether::Larger | CountedTogether::Input => reserved.output_tokens,
        };
        CallCost {
            input_tokens,
            output_tokens,
            ..reserved
        }
    }

    /// Notes that a limit on tokens refused a call, permitted at `granted`, for which there was room.
    pub(super) fn refused(&mut self, granted: Instant, now: Instant) {
        if self.refused_at.is_none_or(|at| granted >= at + STEP_TIME) {
            self.reserve = (self.reserve + RESERVE_STEP).min(LARGEST_RESERVE);
            self.since = now;
            self.refused_at = Some(now);
        }
    }

    /// Gives up a step of the reserve, if it is time.
    pub(super) fn relax(&mut self, now: Instant) {
        if self.reserve > FIRST_RESERVE && now >= self.since + RESERVE_TIME {
            self.reserve = (self.reserve - RESERVE_STEP).max(FIRST_RESERVE);
            self.since = now;
        }
    }

    /// Learns from a refusal of a call of `cost` that states what was requested.
    pub(super) fn learn(&mut self, cost: &CallCost, requested: u64) {
        let deviation = |together| {
            let counted = CallCost { together, ..*cost }.of(LimitDimension::Tokens);
            #[expect(clippy::cast_precision_loss, reason = "a ratio")]
            let part = counted.abs_diff(requested) as f64 / requested.max(1) as f64;
            part
        };
        let nearer = |left: &CountedTogether, right: &CountedTogether| {
            deviation(*left).total_cmp(&deviation(*right))
        };
        let Some(nearest) = RULES.into_iter().min_by(nearer) else {
            return;
        };
        let before = deviation(cost.together);
        if deviation(nearest) < NEAR && deviation(nearest) * MUCH_NEARER < before {
            self.rule = Some(nearest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: CallCost = CallCost {
        requests: 1,
        input_tokens: 1_000,
        output_tokens: 500,
        together: CountedTogether::Larger,
    };

    fn learned(requested: u64) -> CountedTogether {
        let mut counting = LearnedCounting::new(Instant::now());
        counting.learn(&COST, requested);
        counting.apply(COST).together
    }

    #[test]
    fn a_known_prompt_counts_with_the_answer_that_was_reserved() {
        let mut counting = LearnedCounting::new(Instant::now());
        let actual = CallCost {
            input_tokens: 2_000,
            output_tokens: 900,
            ..COST
        };
        let tokens = |counting: &LearnedCounting, together| {
            let reserved = CallCost { together, ..COST };
            counting
                .admitted(reserved, actual)
                .of(LimitDimension::Tokens)
        };
        assert_eq!(tokens(&counting, CountedTogether::Larger), 2_020);
        assert_eq!(tokens(&counting, CountedTogether::Sum), 2_920);
        let granted = counting.since + Duration::from_secs(1);
        counting.refused(granted, granted);
        counting.refused(granted + STEP_TIME / 2, granted + STEP_TIME / 2);
        assert_eq!(
            tokens(&counting, CountedTogether::Larger),
            2_060,
            "once a burst"
        );
        counting.relax(granted + RESERVE_TIME);
        assert_eq!(tokens(&counting, CountedTogether::Larger), 2_020);
    }

    #[test]
    fn the_rule_that_comes_much_nearer_counts() {
        assert_eq!(learned(1_480), CountedTogether::Sum);
        assert_eq!(learned(1_010), CountedTogether::Larger);
        assert_eq!(
            learned(1_200),
            CountedTogether::Larger,
            "the estimate may be off"
        );
        assert_eq!(
            learned(9_000),
            CountedTogether::Larger,
            "no rule explains it"
        );
    }
}
