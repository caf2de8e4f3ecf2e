//! What a worker is told: its accounts, pools and teams, and what a process before it left.

use std::collections::HashMap;
use std::time::Duration;

use forebay_schemas::Lane;

use crate::accounts::{self, AccountState, Limit};
use crate::addressing::SubjectRules;
use crate::controls::WorkerControls;
use crate::outcome::policy::RetryPolicy;
use crate::pools::{OnDemand, PoolConfig};

/// What a worker does, and for whom.
#[derive(Debug, Clone)]
pub struct Config {
    /// The accounts.
    pub accounts: Vec<accounts::Config>,
    /// The pools.
    pub pools: Vec<PoolConfig>,
    /// What serves models that no pool is for, where pools are made as they are asked for.
    pub on_demand: Option<OnDemand>,
    /// What is known of teams; others have the defaults.
    pub teams: HashMap<String, TeamConfig>,
    /// Which subjects are served.
    pub addressing: SubjectRules,
    /// How often a job is tried.
    pub policy: RetryPolicy,
    /// How lanes share.
    pub lane_weights: [(Lane, u64); 3],
    /// How long ago another process may have spent the limits, if ever.
    pub idle: Option<Duration>,
    /// What a process before this one left, by [`Config::standing_names`].
    pub standings: HashMap<String, AccountState>,
    /// Whether what outlives the process is written down: then nothing is spent of long limits that is not.
    pub kept: bool,
    /// What operators ordered.
    pub orders: WorkerControls,
    /// Whether all that was answered within the horizon is in the store, so that the stream of completions need not
    /// be asked.
    pub results_are_complete: bool,
    /// The largest job that is fetched from an object store, in bytes.
    pub max_request: usize,
}

impl Config {
    /// The names of what outlives the process: of accounts their own, of teams with limits `team.<team>`.
    pub fn standing_names(&self) -> Vec<String> {
        let capped = self
            .teams
            .iter()
            .filter(|(_, team)| !team.limits.is_empty());
        let teams = capped.map(|(name, _)| standing_of_team(name));
        self.accounts
            .iter()
            .map(|account| account.name.clone())
            .chain(teams)
            .collect()
    }
}

/// The name under which it is written down how far a team's limits are spent: no account's name has a dot.
pub(crate) fn standing_of_team(team: &str) -> String {
    format!("team.{team}")
}

/// What is known of a team.
#[derive(Debug, Clone)]
pub struct TeamConfig {
    /// Its share of a lane.
    pub weight: u64,
    /// Prefixes of `reply_to` that are allowed beside its inboxes.
    pub reply_prefixes: Vec<String>,
    /// What it may use of all accounts together.
    pub limits: Vec<Limit>,
}

impl Default for TeamConfig {
    fn default() -> Self {
        Self {
            weight: 1,
            reply_prefixes: Vec::new(),
            limits: Vec::new(),
        }
    }
}
