//! The provider's own figures of a limit: the end of a fixed window, use by others, and a lower limit.

use std::time::Duration;

use forebay_providers::RateLimitHeaders;
use tokio::time::Instant;

use super::{Meter, MeterStrategy, NO_CALL};
use crate::accounts::limit::Amount;

/// How long a limit counts that the provider stated below the configured one, unless it states it again.
const STATED_TIME: Duration = Duration::from_secs(10 * 60);
/// Number of equal parts in which what others used returns.
const RETURNED_PARTS: u32 = 10;

impl Meter {
    /// Takes in the rate-limit headers of an answer, as of some moment between `asked` and `now`. If they report the end of
    /// a fixed window of this limit, what was sent in the window returns when it ends.
    pub(in crate::accounts) fn observe(
        &mut self,
        headers: &RateLimitHeaders,
        asked: Instant,
        now: Instant,
    ) {
        let (
            MeterStrategy::Windowed(window),
            Amount::PerPeriod {
                dimension,
                limit,
                per,
                ..
            },
            Some(rest),
        ) = (&mut self.strategy, &self.amount, headers.whole_in)
        else {
            return;
        };
        let per = *per;
        let is_this_limit = (*dimension, *limit) == (headers.dimension, headers.limit);
        let is_used = headers.remaining < headers.limit;
        if !is_this_limit || !is_used || rest > per {
            return;
        }
        // The rest may have been rounded either way.
        let resolution = headers.resolution;
        let earliest = (asked + rest).checked_sub(resolution).unwrap_or(asked);
        if !window.ends(earliest, now + rest + resolution) {
            return;
        }
        let margin = self.margin.width();
        let Some(end) = window.latest(margin) else {
            return;
        };
        let later = self.returns.split_off(&(end, 0));
        for ((at, call), share) in later {
            let sent = at.checked_sub(per + margin);
            let end = sent.and_then(|sent| window.back(sent, margin));
            let at = end.map_or(at, |end| at.min(end));
            *self.returns.entry((at, call)).or_default() += share;
            self.sent
                .entry(call)
                .and_modify(|returns_at| *returns_at = at);
        }
        self.check();
    }

    /// Corrects a configured limit by what the provider states of it. A configured limit is a ceiling: a lower one that is
    /// stated counts for [`STATED_TIME`], and what was used of it but not taken here is taken too.
    pub(in crate::accounts) fn correct_by(&mut self, stated: &RateLimitHeaders, now: Instant) {
        let Amount::PerPeriod {
            dimension,
            limit,
            per,
            ..
        } = self.amount
        else {
            return;
        };
        if dimension != stated.dimension || stated.per != Some(per) {
            return;
        }
        let configured = self.lowered.map_or(limit, |(configured, _)| configured);
        if (1..configured).contains(&stated.limit) {
            self.lowered = Some((configured, now + STATED_TIME));
            self.set_limit(stated.limit);
        } else if stated.limit >= configured {
            self.restore();
        }
        // Of a larger limit, this much is left to others.
        let used = self.limit().saturating_sub(stated.remaining);
        let whole_in = stated.whole_in.unwrap_or(per).min(per);
        let waits = (1..=RETURNED_PARTS).map(|part| whole_in * part / RETURNED_PARTS);
        self.used_elsewhere(used, &waits.collect::<Vec<_>>(), now);
    }

    /// Lets the configured limit count again.
    pub(super) fn restore(&mut self) {
        if let Some((configured, _)) = self.lowered.take() {
            self.set_limit(configured);
        }
    }

    fn set_limit(&mut self, new: u64) {
        if let Amount::PerPeriod { limit, .. } = &mut self.amount
            && *limit != new
        {
            *limit = new;
            self.respace();
        }
    }

    /// Returns the limit, if the provider stated that it is lower than the configured one.
    pub(in crate::accounts) fn lowered(&self) -> Option<&Amount> {
        self.lowered.map(|_| &self.amount)
    }

    /// The provider has counted `used`. What is more than was taken here is used elsewhere, and returns in equal parts after
    /// each of `waits`.
    pub(in crate::accounts) fn used_elsewhere(
        &mut self,
        used: u64,
        waits: &[Duration],
        now: Instant,
    ) {
        self.return_until(now);
        let mut rest = used.saturating_sub(self.taken);
        if rest == 0 || waits.is_empty() {
            return;
        }
        self.taken += rest;
        for (index, wait) in waits.iter().enumerate() {
            let part = rest / (waits.len() - index) as u64;
            rest -= part;
            *self.returns.entry((now + *wait, NO_CALL)).or_default() += part;
        }
        self.check();
    }
}

#[cfg(test)]
mod tests {
    use forebay_providers::cost::{CallCost, LimitDimension};

    use super::*;
    use crate::accounts::limit::Algorithm;

    const MINUTE: Duration = Duration::from_secs(60);

    fn of_a_minute(limit: u64, now: Instant) -> Meter {
        let amount = Amount::PerPeriod {
            dimension: LimitDimension::Tokens,
            limit,
            per: MINUTE,
            algorithm: Algorithm::Counted,
            day_in: None,
        };
        Meter::new(amount, now, None)
    }

    fn stated(limit: u64, remaining: u64) -> RateLimitHeaders {
        RateLimitHeaders {
            dimension: LimitDimension::Tokens,
            limit,
            remaining,
            whole_in: None,
            resolution: Duration::ZERO,
            per: Some(MINUTE),
        }
    }

    fn tokens(input_tokens: u64) -> CallCost {
        CallCost {
            requests: 1,
            input_tokens,
            ..CallCost::default()
        }
    }

    /// Returns true if a call of so many tokens may start.
    fn admits(meter: &mut Meter, input_tokens: u64, now: Instant) -> bool {
        meter.peek(&tokens(input_tokens), now).is_ok()
    }

    #[test]
    fn a_lower_limit_that_is_stated_counts_until_a_higher_one_is_or_ten_minutes_are_over() {
        let now = Instant::now();
        let mut meter = of_a_minute(600, now);
        meter.take(1, &tokens(200));
        assert!(admits(&mut meter, 400, now));
        meter.correct_by(&stated(300, 100), now);
        assert!(admits(&mut meter, 100, now) && !admits(&mut meter, 101, now));
        let described = meter.lowered().map(ToString::to_string);
        assert_eq!(described.as_deref(), Some("300 tokens per 60s"));
        let later = now + STATED_TIME;
        assert!(admits(&mut meter, 400, later) && meter.lowered().is_none());
        meter.correct_by(&stated(300, 100), later);
        meter.correct_by(&stated(900, 900), later);
        assert!(admits(&mut meter, 400, later) && !admits(&mut meter, 401, later));
    }

    #[test]
    fn what_others_leave_counts_and_returns_in_parts_of_the_period() {
        let now = Instant::now();
        let mut meter = of_a_minute(600, now);
        meter.correct_by(&stated(10_000, 2_000), now);
        assert!(admits(&mut meter, 600, now), "others leave all of it");
        meter.correct_by(&stated(10_000, 150), now);
        assert!(admits(&mut meter, 150, now) && !admits(&mut meter, 151, now));
        assert!(admits(&mut meter, 330, now + MINUTE / 2));
        assert!(admits(&mut meter, 600, now + MINUTE));
        meter.correct_by(
            &RateLimitHeaders {
                per: None,
                ..stated(600, 0)
            },
            now,
        );
        assert!(
            admits(&mut meter, 600, now + MINUTE),
            "of an unknown period"
        );
    }
}
