//! What estimates of prompt tokens have to be multiplied with, learned per model.

/// How much one more answer counts against all before.
const WEIGHT: f64 = 0.05;
/// Estimates are wrong by no more than this.
const BOUNDS: (f64, f64) = (0.25, 4.0);
/// Kept above the mean, so that a prompt that is denser than most still fits its reservation.
const MARGIN: f64 = 1.1;

/// The moving average of reported ÷ estimated.
#[derive(Debug)]
pub(super) struct Factor(Option<f64>);

impl Factor {
    pub(super) fn unknown() -> Self {
        Self(None)
    }

    /// Learns from an answer.
    pub(super) fn learn(&mut self, estimated: u64, reported: u64) {
        if estimated == 0 || reported == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^52")]
        let ratio = (reported as f64 / estimated as f64).clamp(BOUNDS.0, BOUNDS.1);
        self.0 = Some(self.0.map_or(ratio, |mean| mean + WEIGHT * (ratio - mean)));
    }

    /// An estimate, corrected by what was learned.
    pub(super) fn apply(&self, estimated: u64) -> u64 {
        let Some(mean) = self.0 else { return estimated };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "token counts are positive and far below 2^52"
        )]
        let corrected = (estimated as f64 * mean * MARGIN).ceil() as u64;
        corrected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_near_the_truth_and_stays_a_little_above() {
        let mut factor = Factor::unknown();
        assert_eq!(factor.apply(1_000), 1_000);
        for _ in 0..50 {
            factor.learn(1_000, 700);
        }
        assert!((770..=771).contains(&factor.apply(1_000)));
        factor.learn(1_000, 0);
        factor.learn(1, 1_000_000);
        assert!(factor.apply(1_000) < 1_000, "one answer that is far off changes little");
    }
}
