//! A flow is the queue of a pool, a team and a lane. This module also has the rules for their
//! names.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The team of a job whose subject names none.
pub const DEFAULT_TEAM: &str = "default";
/// The token for "no batch" in a completion's subject.
pub const NO_BATCH: &str = "_";
/// The longest name of a team, pool or batch, in bytes.
const MAX_NAME: usize = 64;
/// The rule for names, for people.
pub(crate) const NAME_RULE: &str = "1 to 64 of A-Z a-z 0-9 _ -";
/// The rule for names of teams, for people.
const TEAM_RULE: &str = "1 to 64 of A-Z a-z 0-9 _ -, the first of them a letter";

/// The urgency of a job.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// A client waits for the answer.
    Interactive,
    /// The default.
    #[default]
    Normal,
    /// The job is served when there is room, and is never starved.
    Bulk,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Lane; 3] = [Lane::Interactive, Lane::Normal, Lane::Bulk];

    /// Returns the lane's token in subjects and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Interactive => "interactive",
            Lane::Normal => "normal",
            Lane::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Lane {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Lane::ALL
            .into_iter()
            .find(|lane| lane.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no lane: expected interactive, normal or bulk"))
    }
}

/// A pool, a team and a lane: one durable pull consumer, and the unit of fairness.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// The pool that the jobs request.
    pub pool: String,
    /// The team that the jobs belong to.
    pub team: String,
    /// The urgency of the jobs.
    pub lane: Lane,
}

impl Flow {
    /// Returns true if pool and team are names, so that subjects and consumers can be made of them.
    pub fn has_names(&self) -> bool {
        is_name(&self.pool) && is_name(&self.team)
    }

    /// Returns the problem of the pool's or the team's name, for the publisher; `None` if both can
    /// be served.
    pub fn problem(&self) -> Option<String> {
        problem_of_name("pool", &self.pool).or_else(|| problem_of_team(&self.team))
    }

    /// Returns the model that a publisher may mean by a subject that ends with a model's name. A
    /// dot in that name separates it into a pool and a team.
    pub fn dotted_model(&self) -> String {
        format!("{}.{}", self.pool, self.team)
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.pool, self.team, self.lane)
    }
}

/// Returns true if `name` can be a pool or a batch: 1 to 64 of `[A-Za-z0-9_-]`, and not `_` alone.
/// A team's name has a further rule, see [`is_team`].
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name != NO_BATCH
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Returns true if `name` can be a team: a name that begins with a letter. The part of a model's
/// name behind a dot often does not, such as `1-mini` of gpt-4.1-mini.
pub fn is_team(name: &str) -> bool {
    is_name(name) && name.starts_with(|first: char| first.is_ascii_alphabetic())
}

/// Returns the problem of the name of a pool, a batch or another `what`, for people; `None` if it
/// is a name.
pub fn problem_of_name(what: &str, name: &str) -> Option<String> {
    (!is_name(name)).then(|| no_name(what, name, NAME_RULE, is_name))
}

/// Returns the problem of a team's name, for people; `None` if it is one.
pub fn problem_of_team(name: &str) -> Option<String> {
    (!is_team(name)).then(|| no_name("team", name, TEAM_RULE, is_team))
}

fn no_name(what: &str, name: &str, rule: &str, is_one: fn(&str) -> bool) -> String {
    let near = pool_of_model(name);
    let hint = if is_one(&near) {
        format!("; write `{near}`")
    } else {
        String::new()
    };
    format!("`{name}` is no {what} name: use {rule}{hint}")
}

/// Returns the pool of a model: every character that a name cannot contain becomes `_`, and the
/// rest beyond 64 characters is cut off.
pub fn pool_of_model(model: &str) -> String {
    let name = model.chars().map(of_name);
    name.take(MAX_NAME).collect()
}

fn of_name(c: char) -> char {
    match c {
        '-' => c,
        _ if c.is_ascii_alphanumeric() => c,
        _ => '_',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_pool_is_a_name() {
        assert_eq!(
            pool_of_model("meta-llama/Llama-3.3:free"),
            "meta-llama_Llama-3_3_free"
        );
        assert!(is_name(&pool_of_model("gpt-4.1")));
        assert!(!is_name("_"));
    }
}
