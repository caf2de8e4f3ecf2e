//! Forecasts what a set of jobs will take: calls, tokens, money, and time under the configured limits.
//!
//! The forecast plays the ledger's own rules ahead of time. Every call is reserved, sent and settled as a real one,
//! but the time between these steps passes at once. Two facts are assumed, because they cannot be known: the duration
//! of a call, and the tokens of its prompt in the provider's count. No call is assumed to fail.

mod clock;
mod player;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use forebay_schemas::Job;
use jiff::Timestamp;
use rust_decimal::Decimal;

use crate::config::Config;
use player::ForecastPlayer;

/// The assumed duration of a call. It matters for limits on calls in flight, and for the end of the last call.
pub const CALL: Duration = Duration::from_secs(2);

/// The forecast of a set of jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The number of jobs.
    pub jobs: usize,
    /// The number of calls to each target, which is an account and a model.
    pub calls: BTreeMap<(String, String), usize>,
    /// The number of jobs that no target can serve, because of their request or because they are larger than a limit.
    pub unserved: usize,
    /// The likely number of tokens of all prompts.
    pub input_tokens: u64,
    /// The most tokens of all answers, as far as they are known.
    pub output_tokens: u64,
    /// The number of jobs for which neither the job nor the target states the longest answer.
    pub unbounded: usize,
    /// The number of jobs whose prompt is likely to be too long for every target.
    pub too_long: usize,
    /// The likely cost of the prompts, in US dollars, as far as prices are known.
    pub prompts: Decimal,
    /// The highest cost of the answers, in US dollars, as far as prices are known.
    pub answers: Decimal,
    /// The number of jobs whose prices are not known.
    pub unpriced: usize,
    /// The time until the last answer; `None` if an account would be called whose limits are not configured.
    pub takes: Option<Duration>,
    /// The accounts that would be called and whose limits are not configured.
    pub unlimited: BTreeSet<String>,
}

/// Returns the forecast of the `jobs` of `team`, each with its pool, as if all of them began at `now`.
pub fn forecast(
    config: Config,
    team: &str,
    jobs: impl IntoIterator<Item = (String, Job)>,
    now: Timestamp,
) -> Forecast {
    let mut player = ForecastPlayer::new(config, team, now);
    let mut seen = HashSet::new();
    for (pool, job) in jobs {
        player.forecast.jobs += 1;
        player.take_in(&pool, &job, team, &mut seen);
    }
    player.play()
}
