//! The configuration of a worker: its accounts, pools and teams, and the state that a process before it saved.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Lane;
use jiff::Timestamp;

use crate::accounts::{self, AccountState, Limit};
use crate::addressing::SubjectRules;
use crate::controls::WorkerControls;
use crate::fence::CallFence;
use crate::outcome::policy::RetryPolicy;
use crate::pools::{OnDemand, PoolConfig};

/// The configuration of a worker.
#[derive(Debug, Clone)]
pub struct Config {
    /// The accounts.
    pub accounts: Vec<accounts::Config>,
    /// The pools.
    pub pools: Vec<PoolConfig>,
    /// Finds targets for models that no pool has, if pools are made on demand.
    pub on_demand: Option<OnDemand>,
    /// Settings of teams. Other teams have the defaults.
    pub teams: HashMap<String, TeamConfig>,
    /// Which subjects are served.
    pub addressing: SubjectRules,
    /// How often a job is called.
    pub policy: RetryPolicy,
    /// The weight of each lane within a team.
    pub lane_weights: [(Lane, u64); 3],
    /// The time since another process may last have spent the limits; `None` if none did.
    pub idle: Option<Duration>,
    /// The saved state of accounts and teams, by an account's name, or `team.<team>` for a team with limits.
    pub saved_states: HashMap<String, AccountState>,
    /// True if the state is saved. Then nothing is spent of a limit over more than a minute that is not saved.
    pub kept: bool,
    /// The time until which providers may be called.
    pub fence: Arc<CallFence>,
    /// The pauses and cancellations of operators.
    pub controls: WorkerControls,
    /// True if the store has every answer within the dedupe horizon. Otherwise the stream of completions is searched too.
    pub results_are_complete: bool,
    /// The largest job that is fetched from an object store, in bytes.
    pub max_request: usize,
}

impl Config {
    /// The state that counts under each name of a saved state where the true one is not known: keys are disabled, and
    /// limits over more than a minute are spent.
    pub fn unknown_states(&self, now: Timestamp) -> HashMap<String, AccountState> {
        let mut states = HashMap::new();
        for account in &self.accounts {
            let state = AccountState::unknown(&account.keys, &account.limits, now);
            states.insert(account.name.clone(), state);
        }
        for (name, team) in &self.teams {
            if !team.limits.is_empty() {
                let state = AccountState::unknown([], &team.limits, now);
                states.insert(saved_name_of_team(name), state);
            }
        }
        states
    }
}

/// The name under which the state of a team's limits is saved. An account's name has no dot.
pub(crate) fn saved_name_of_team(team: &str) -> String {
    format!("team.{team}")
}

/// The settings of a team.
#[derive(Debug, Clone)]
pub struct TeamConfig {
    /// Its weight among the teams.
    pub weight: u64,
    /// The lanes that it may use. A job on another lane is served in the most urgent one of these.
    pub lanes: Vec<Lane>,
    /// Prefixes of `reply_to` that are allowed besides its inboxes.
    pub reply_prefixes: Vec<String>,
    /// Its limits over all accounts together.
    pub limits: Vec<Limit>,
}

impl Default for TeamConfig {
    fn default() -> Self {
        Self {
            weight: 1,
            lanes: Lane::ALL.to_vec(),
            reply_prefixes: Vec::new(),
            limits: Vec::new(),
        }
    }
}

impl TeamConfig {
    /// Returns the lane in which its jobs on `lane` are served.
    pub fn lane_for(&self, lane: Lane) -> Lane {
        let most_urgent = self.lanes.iter().min();
        match most_urgent {
            Some(most_urgent) if !self.lanes.contains(&lane) => *most_urgent,
            _ => lane,
        }
    }
}
