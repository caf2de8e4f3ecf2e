//! What a set of jobs is going to take: calls, tokens, money, and time under the configured limits.
//!
//! The ledger's own rules are played ahead of time: every call is reserved, sent and settled as it will be, only that
//! the time between them passes at once. What cannot be known is assumed: how long a call lasts, and how many tokens
//! its prompt has as its provider counts them. No call is taken to fail.

mod player;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use forebay_schemas::Job;
use jiff::Timestamp;
use rust_decimal::Decimal;

use crate::config::Config;
use player::ForecastPlayer;

/// How long a call is taken to last. It matters where limits are on calls at once, and at the very end.
pub const CALL: Duration = Duration::from_secs(2);

/// What a set of jobs is going to take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The jobs.
    pub jobs: usize,
    /// Calls to providers, at each target: account and model.
    pub calls: BTreeMap<(String, String), usize>,
    /// Jobs that no target can serve, because of what they ask or because they are larger than limits.
    pub unserved: usize,
    /// Tokens that the prompts are likely to have.
    pub input_tokens: u64,
    /// Tokens that the answers have at most, as far as that is known.
    pub output_tokens: u64,
    /// Jobs of whose answers nobody says how long they may be.
    pub unbounded: usize,
    /// Jobs whose prompt is likely to be too long for every target.
    pub too_long: usize,
    /// What the prompts are likely to cost, in US dollars, as far as prices are known.
    pub prompts: Decimal,
    /// What the answers cost at most, likewise.
    pub answers: Decimal,
    /// Jobs whose prices are not known.
    pub unpriced: usize,
    /// Until the last answer; `None` where an account's limits are not configured.
    pub takes: Option<Duration>,
    /// Accounts that would be called and whose limits are not configured.
    pub unlimited: BTreeSet<String>,
}

/// Plays `jobs`, each with its pool, of `team` ahead of time, as if they all began at `now`.
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
