//! What is asked and answered over `ai.ctl.*`.

use std::collections::{BTreeMap, BTreeSet};

use forebay_schemas::{Class, Completion, Status};
use forebay_workers::accounts::{self, ReadyState};
use forebay_workers::{CancelledJobs, PauseTarget, unknown_team};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::control::dead_letters::DeadLetter;

/// The answer to `ai.ctl.queues`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueuesReport {
    /// Jobs in the stream, by queue; those that are being worked on are among them.
    pub queues: Vec<QueueDepth>,
    /// Jobs that wait for their time, or come back from that now.
    pub scheduled: u64,
    /// Jobs that wait in the worker for a permit or for themselves.
    pub prefetched: u64,
    /// Jobs that are being called or finished.
    pub in_flight: u64,
    /// Jobs that ended since the worker started, by status.
    pub ended: Vec<(Status, u64)>,
    /// What pauses.
    pub paused: Vec<PauseTarget>,
}

/// How many jobs a queue holds: those of one pool, team and lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueueDepth {
    /// The pool.
    pub pool: String,
    /// The team.
    pub team: String,
    /// The lane.
    pub lane: forebay_schemas::Lane,
    /// Jobs that have no completion yet.
    pub jobs: u64,
}

/// The answer to `ai.ctl.accounts`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountsReport {
    /// Every account.
    pub accounts: Vec<AccountReport>,
    /// Every pool and the names of its accounts.
    pub pools: Vec<(String, Vec<String>)>,
    /// Every pool and the models of its targets.
    pub models: Vec<(String, Vec<String>)>,
    /// Whether pools are made as they are asked for, so that others than these can be.
    pub makes_pools: bool,
    /// The teams that are served, if others are refused.
    pub teams: Option<BTreeSet<String>>,
}

impl AccountsReport {
    /// Every pool and the models that its jobs may name, where these are known.
    pub fn served(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut served: BTreeMap<_, _> = self
            .pools
            .iter()
            .map(|(name, _)| (name.clone(), BTreeSet::new()))
            .collect();
        served.extend(
            self.models
                .iter()
                .map(|(name, models)| (name.clone(), models.iter().cloned().collect())),
        );
        served
    }

    /// Why jobs of a team would be refused, if they would be.
    pub fn refuses_team(&self, team: &str) -> Option<String> {
        let is_unknown = self
            .teams
            .as_ref()
            .is_some_and(|teams| !teams.contains(team));
        is_unknown.then(|| unknown_team(team))
    }
}

/// An account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountReport {
    /// Its name.
    pub name: String,
    /// Its provider.
    pub provider: String,
    /// Its keys.
    pub keys: Vec<AccessCondition>,
    /// The models that were asked of it.
    pub models: Vec<AccessCondition>,
    /// Calls a second that its limits on calls allow to one model.
    pub requests_per_second: Option<f64>,
    /// Calls that were sent.
    pub calls: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Calls that a limit refused.
    pub refusals: u64,
    /// What was said when a call was last not accepted.
    pub last_problem: Option<String>,
}

impl AccountReport {
    /// Whether nothing can be asked of it until somebody acts: no key is accepted, or no model allowed.
    pub fn is_shut(&self) -> bool {
        let allowed = |model: &AccessCondition| {
            model.reason.as_deref() != Some(Class::ModelNotAllowed.as_str())
        };
        self.keys.iter().all(|key| key.state == "disabled")
            || (!self.models.is_empty() && !self.models.iter().any(allowed))
    }

    /// Whether no call to any model reaches it.
    pub fn is_unreachable(&self) -> bool {
        let unreachable = |model: &AccessCondition| {
            model.reason.as_deref() == Some(Class::NetBeforeSend.as_str())
        };
        !self.models.is_empty() && self.models.iter().all(unreachable)
    }

    /// What is wrong with its keys and models.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        self.keys
            .iter()
            .chain(&self.models)
            .filter_map(|condition| {
                let reason = condition.reason.as_ref()?;
                let said = self
                    .last_problem
                    .as_ref()
                    .map_or_else(String::new, |said| format!(", {said}"));
                Some(format!("{}/{}: {reason}{said}", self.name, condition.name))
            })
    }
}

/// The state of a key, or of a model at an account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessCondition {
    /// Its name.
    pub name: String,
    /// ready, cooling, exhausted, probing or disabled.
    pub state: String,
    /// What happened.
    pub reason: Option<String>,
    /// When it returns by itself.
    pub until: Option<Timestamp>,
    /// A limit that is spent for more than some seconds.
    pub spent: Option<SpentReport>,
    /// What its limits are taken to be, where they are learned.
    #[serde(default)]
    pub learned: Vec<String>,
}

/// A limit that is spent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SpentReport {
    /// The limit.
    pub limit: String,
    /// When a call may start again.
    pub until: Timestamp,
}

/// A request on `ai.ctl.accounts.disable` and `ai.ctl.accounts.enable`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwitchRequest {
    /// The account.
    pub account: String,
    /// One of its keys; all, if none is named.
    pub key: Option<String>,
}

/// A request on `ai.ctl.results`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResultsRequest {
    /// The team.
    pub team: String,
    /// The batch, if the job is of one.
    pub batch: Option<String>,
    /// The job's id.
    pub id: String,
}

/// The answer to `ai.ctl.pause` and `ai.ctl.resume`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OrdersReply {
    /// All that pauses.
    pub paused: Vec<PauseTarget>,
}

/// The answer to `ai.ctl.cancel`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelReply {
    /// What is cancelled.
    pub what: CancelledJobs,
    /// What was published until then.
    pub at: Timestamp,
    /// How many jobs do not wait for their time any more.
    pub rescheduled: usize,
}

/// A request on `ai.ctl.dead.show`, `ai.ctl.dead.replay` and `ai.ctl.dead.drop`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LetterRequest {
    /// The letter's number.
    pub sequence: u64,
    /// The pool that a replay goes to, if not the job's own.
    pub pool: Option<String>,
}

/// The answer to `ai.ctl.dead.show`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownLetter {
    /// The letter.
    pub letter: DeadLetter,
    /// The message, as far as it is text.
    pub message: String,
}

/// The answer to `ai.ctl.results`: null where there is none.
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
            spent: None,
            learned: Vec::new(),
        };
        let model = |model: accounts::ModelSnapshot| AccessCondition {
            learned: model.learned,
            spent: model.spent.map(|(limit, until)| SpentReport {
                limit,
                until: wall_time(until),
            }),
            ..condition(model.name, &model.state)
        };
        Self {
            name: snapshot.name,
            provider: snapshot.provider,
            keys: snapshot
                .keys
                .into_iter()
                .map(|(name, state)| condition(name, &state))
                .collect(),
            models: snapshot.models.into_iter().map(model).collect(),
            requests_per_second: snapshot.requests_per_second,
            calls: snapshot.totals.calls,
            in_flight: snapshot.totals.in_flight,
            refusals: snapshot.totals.refusals,
            last_problem: snapshot.last_problem,
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
