//! Rate-limit headers of the provider: the end of a fixed window, and use by others.

use std::time::Duration;

use forebay_providers::RateLimitHeaders;
use tokio::time::Instant;

use super::{Meter, MeterStrategy, NO_CALL};
use crate::accounts::limit::Amount;

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
