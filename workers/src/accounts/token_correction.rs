//! The factor that corrects estimates of prompt tokens, learned per model.

/// Least weight of one more answer against all before. The first answers have equal weights.
const MIN_WEIGHT: f64 = 0.05;
/// Assumed deviation of answers from the mean after the first answer, as a part of it.
const FIRST_DEVIATION: f64 = 0.2;
/// Bounds of the reported tokens of one answer, as multiples of the estimate.
const REPORTED_BOUNDS: (f64, f64) = (0.25, 4.0);
/// Reserve above the mean, in mean deviations. Prompts that are denser than most then still fit, though only their sum
/// over a period must.
const RESERVED_DEVIATIONS: f64 = 2.0;
/// Reserve while no answer has reported the tokens of a prompt, as a part of the estimate. Each answer gives back what was too
/// much.
const UNKNOWN_RESERVE: f64 = 0.5;
/// Bounds of this reserve, as parts of the mean.
const RESERVE_BOUNDS: (f64, f64) = (0.01, 0.5);

/// Moving averages of estimated and reported tokens; `None` before the first answer. Large prompts have more weight, as
/// they do against a limit.
#[derive(Debug)]
pub(super) struct TokenCorrection(Option<Means>);

#[derive(Debug, Clone, Copy)]
struct Means {
    estimated: f64,
    reported: f64,
    /// The mean deviation of the reported tokens from the corrected estimate.
    deviation: f64,
    answers: u32,
}

impl Means {
    fn factor(&self) -> f64 {
        self.reported / self.estimated
    }
}

impl TokenCorrection {
    pub(super) fn unknown() -> Self {
        Self(None)
    }

    /// Learns from the tokens that were estimated for a prompt, and those that its answer reported.
    pub(super) fn learn(&mut self, estimated: u64, reported: u64) {
        if estimated == 0 || reported == 0 {
            return;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "token counts are far below 2^52"
        )]
        let (estimated, reported) = (estimated as f64, reported as f64);
        let reported = reported.clamp(estimated * REPORTED_BOUNDS.0, estimated * REPORTED_BOUNDS.1);
        let Some(before) = self.0 else {
            let deviation = reported * FIRST_DEVIATION;
            self.0 = Some(Means {
                estimated,
                reported,
                deviation,
                answers: 1,
            });
            return;
        };
        let answers = before.answers.saturating_add(1);
        let weight = MIN_WEIGHT.max(1.0 / f64::from(answers));
        let mean = |before: f64, now: f64| before + weight * (now - before);
        self.0 = Some(Means {
            answers,
            estimated: mean(before.estimated, estimated),
            reported: mean(before.reported, reported),
            deviation: mean(
                before.deviation,
                (reported - before.factor() * estimated).abs(),
            ),
        });
    }

    /// Returns an estimate, corrected by the learned factor and the reserve.
    pub(super) fn apply(&self, estimated: u64) -> u64 {
        let Some(means) = self.0 else {
            return times(estimated, 1.0 + UNKNOWN_RESERVE);
        };
        let margin = (RESERVED_DEVIATIONS * means.deviation / means.reported)
            .clamp(RESERVE_BOUNDS.0, RESERVE_BOUNDS.1);
        times(estimated, means.factor() * (1.0 + margin))
    }
}

fn times(tokens: u64, factor: f64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "token counts are positive and far below 2^52"
    )]
    let product = (tokens as f64 * factor).ceil() as u64;
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_near_the_truth_and_stays_a_little_above() {
        let mut factor = TokenCorrection::unknown();
        assert_eq!(factor.apply(1_000), 1_500);
        factor.learn(1_000, 700);
        assert!(
            (980..=981).contains(&factor.apply(1_000)),
            "one answer says little of the others"
        );
        for _ in 0..3 {
            factor.learn(1_000, 700);
        }
        assert!((769..=771).contains(&factor.apply(1_000)), "nor do a few");
        for _ in 0..36 {
            factor.learn(1_000, 700);
        }
        assert!((707..=708).contains(&factor.apply(1_000)));
        factor.learn(1_000, 0);
        factor.learn(1, 1_000_000);
        assert!(
            factor.apply(1_000) < 800,
            "one small answer that is far off changes little"
        );
        for _ in 0..20 {
            factor.learn(1_000, 300);
            factor.learn(1_000, 1_100);
        }
        let (least, most) = (
            factor.0.expect("learned").factor() * 1_000.0,
            factor.apply(1_000) as f64,
        );
        assert!((most / least - 1.5).abs() < 0.01, "answers differ much");
    }
}
