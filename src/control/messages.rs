//! Requests and replies of `ai.ctl.*`.

use std::collections::{BTreeMap, BTreeSet};

use forebay_schemas::{Class, Completion, Status};
use forebay_workers::accounts::{self, ReadyState};
use forebay_workers::{CancelledJobs, PauseTarget, unknown_team};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::control::dead_letters::DeadLetterEntry;

/// The reply to `ai.ctl.queues`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuesReport {
    /// Jobs in the stream by queue. Jobs in flight are included.
    pub queues: Vec<QueueDepth>,
    /// Jobs that are postponed, or return from that now.
    pub scheduled: u64,
    /// Jobs in the worker that wait for a permit or for their own time.
    pub prefetched: u64,
    /// Jobs in flight: those that are being called or completed.
    pub in_flight: u64,
    /// Number of jobs that ended since the worker started, by status.
    pub ended: Vec<(Status, u64)>,
    /// The paused pools, accounts and teams.
    pub paused: Vec<PauseTarget>,
}

/// The depth of a queue: the number of jobs of one pool, team and lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueDepth {
    /// The pool.
    pub pool: String,
    /// The team.
    pub team: String,
    /// The lane.
    pub lane: forebay_schemas::Lane,
    /// Number of jobs without a completion.
    pub jobs: u64,
}

/// The reply to `ai.ctl.accounts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountsReport {
    /// All accounts.
    pub accounts: Vec<AccountReport>,
    /// All pools, each with the names of its accounts.
    pub pools: Vec<(String, Vec<String>)>,
    /// All pools, each with the models of its targets.
    pub models: Vec<(String, Vec<String>)>,
    /// True if pools are created on demand. Jobs may then name pools that are not listed here.
    pub makes_pools: bool,
    /// The teams that are served. `None` means all.
    pub teams: Option<BTreeSet<String>>,
}

impl AccountsReport {
    /// Returns each pool with the models that its jobs may name. The set is empty where the models
    /// are unknown.
    pub fn served(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut served = BTreeMap::new();
        for (name, _) in &self.pools {
            served.insert(name.clone(), BTreeSet::new());
        }
        for (name, models) in &self.models {
            let models = BTreeSet::from_iter(models.iter().cloned());
            served.insert(name.clone(), models);
        }
        served
    }

    /// Returns why jobs of a team are refused. `None` means that they are accepted.
    pub fn refuses_team(&self, team: &str) -> Option<String> {
        let is_unknown = self
            .teams
            .as_ref()
            .is_some_and(|teams| !teams.contains(team));
        is_unknown.then(|| unknown_team(team))
    }
}

/// The state of an account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountReport {
    /// The account's name.
    pub name: String,
    /// The provider's name.
    pub provider: String,
    /// The states of its keys.
    pub keys: Vec<AccessCondition>,
    /// The states of the models that were requested through it.
    pub models: Vec<AccessCondition>,
    /// Calls per second that its request limits allow for one model. `None` means no such limit.
    pub requests_per_second: Option<f64>,
    /// Number of calls that were sent.
    pub calls: u64,
    /// Number of calls in flight.
    pub in_flight: u64,
    /// Number of calls that a limit refused.
    pub refusals: u64,
    /// The message of the last call that was not accepted.
    pub last_problem: Option<String>,
    /// True if its saved state was lost: keys are disabled, and limits over more than a minute count as spent.
    #[serde(default)]
    pub has_unknown_state: bool,
}

impl AccountReport {
    /// Returns true if the account serves nothing until an operator acts: no key is accepted, or it
    /// refuses every job.
    pub fn is_shut(&self) -> bool {
        let is_disabled = |key: &AccessCondition| key.state == "disabled";
        let all_are_disabled = self.keys.iter().all(is_disabled);
        all_are_disabled || self.all_models_have(Class::BadRequest)
    }

    /// Returns true if no call to any of its models reaches the provider.
    pub fn is_unreachable(&self) -> bool {
        self.all_models_have(Class::NetBeforeSend)
    }

    /// Returns true if there are models and all of them have this reason.
    fn all_models_have(&self, reason: Class) -> bool {
        let has_reason = |model: &AccessCondition| model.reason.as_deref() == Some(reason.as_str());
        let models = &self.models;
        !models.is_empty() && models.iter().all(has_reason)
    }

    /// Returns the reason of each key and model that has one, with the account's last problem.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        let conditions = self.conditions();
        conditions.filter_map(|condition| self.reason_of(condition))
    }

    /// Returns the states of its keys, and then those of its models.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &AccessCondition> {
        let keys = self.keys.iter();
        keys.chain(&self.models)
    }

    fn reason_of(&self, condition: &AccessCondition) -> Option<String> {
        let reason = condition.reason.as_ref()?;
        let problem = self.last_problem.as_ref();
        let problem = problem.map_or_else(String::new, |problem| format!(", {problem}"));
        let (account, name) = (&self.name, &condition.name);
        Some(format!("{account}/{name}: {reason}{problem}"))
    }
}

/// The state of a key, or of a model at an account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessCondition {
    /// The name of the key or model.
    pub name: String,
    /// `ready`, `cooling`, `exhausted`, `probing` or `disabled`.
    pub state: String,
    /// The reason of the state.
    pub reason: Option<String>,
    /// The time at which the state ends by itself. `None` means that it does not, or that the time
    /// is unknown.
    pub until: Option<Timestamp>,
    /// The end of a wait that the provider requests and that is not believed. A call probes before it, at `until`.
    #[serde(default)]
    pub doubted_until: Option<Timestamp>,
    /// A limit that is spent for more than a few seconds.
    pub spent: Option<SpentReport>,
    /// Its learned limits, in words.
    #[serde(default)]
    pub learned: Vec<String>,
}

/// A limit that is spent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpentReport {
    /// The limit, in words.
    pub limit: String,
    /// The time at which a call may start again.
    pub until: Timestamp,
}

/// A request on `ai.ctl.accounts.disable` and `ai.ctl.accounts.enable`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwitchRequest {
    /// The account.
    pub account: String,
    /// One of its keys. `None` means all.
    pub key: Option<String>,
}

/// A request on `ai.ctl.results`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResultsRequest {
    /// The team.
    pub team: String,
    /// The batch. `None` if the job belongs to none.
    pub batch: Option<String>,
    /// The job's id.
    pub id: String,
}

/// The reply to `ai.ctl.pause` and `ai.ctl.resume`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OrdersReply {
    /// The paused pools, accounts and teams.
    pub paused: Vec<PauseTarget>,
}

/// The reply to `ai.ctl.cancel`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelReply {
    /// The cancelled jobs.
    pub what: CancelledJobs,
    /// Jobs that were published until this time are cancelled.
    pub at: Timestamp,
    /// Number of postponed jobs that return at once.
    pub rescheduled: usize,
}

/// A request on `ai.ctl.dead.show`, `ai.ctl.dead.replay` and `ai.ctl.dead.drop`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LetterRequest {
    /// The letter's sequence number.
    pub sequence: u64,
    /// The pool of the replayed job. `None` means its own.
    pub pool: Option<String>,
}

/// The reply to `ai.ctl.dead.show`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownLetter {
    /// The letter.
    pub letter: DeadLetterEntry,
    /// The message. Bytes that are not UTF-8 are replaced.
    pub message: String,
}

/// The reply to `ai.ctl.results`: a completion, or null.
pub type ResultsReply = Option<Completion>;

impl From<accounts::AccountSnapshot> for AccountReport {
    fn from(snapshot: accounts::AccountSnapshot) -> Self {
        let condition = |name, state: &ReadyState| AccessCondition {
            name,
            state: state.name().to_owned(),
            reason: match state {
                ReadyState::Disabled { reason: None } => Some("operator".to_owned()),
                state => state.reason().map(|reason| reason.to_string()),
            },
            until: state.until().map(wall_time),
            doubted_until: None,
            spent: None,
            learned: Vec::new(),
        };
        let model = |model: accounts::ModelSnapshot| AccessCondition {
            learned: model.learned,
            doubted_until: model.doubted_until.map(wall_time),
            spent: model.spent.map(|(limit, until)| SpentReport {
                limit,
                until: wall_time(until),
            }),
            ..condition(model.name, &model.state)
        };
        let key = |key: accounts::KeySnapshot| AccessCondition {
            doubted_until: key.doubted_until.map(wall_time),
            ..condition(key.name, &key.state)
        };
        let keys = snapshot.keys.into_iter().map(key);
        let models = snapshot.models.into_iter().map(model);
        Self {
            name: snapshot.name,
            provider: snapshot.provider,
            keys: keys.collect(),
            models: models.collect(),
            requests_per_second: snapshot.requests_per_second,
            calls: snapshot.totals.calls,
            in_flight: snapshot.totals.in_flight,
            refusals: snapshot.totals.refusals,
            last_problem: snapshot.last_problem,
            has_unknown_state: snapshot.has_unknown_state,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "for people: a moment of this process on their clock"
)]
fn wall_time(at: Instant) -> Timestamp {
    let wait = at.saturating_duration_since(Instant::now());
    Timestamp::now().checked_add(wait).unwrap_or(Timestamp::MAX)
}
