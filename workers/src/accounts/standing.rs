//! What of accounts and of teams' limits outlives a process: how far long limits are spent, what keys and
//! models wait for, and what was found out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use forebay_schemas::Class;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::learn::Learned;
use super::ledger::Ledger;
use super::meter::Meter;
use super::state::State;
use super::{Account, Cap};

/// What is spent of limits over more than a minute, by limit, and when each part of it returns.
pub type Spent = BTreeMap<String, Vec<(Timestamp, u64)>>;

/// What of an account, or of a team's limits, outlives its process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its keys that may not be used, by name.
    #[serde(default)]
    pub keys: BTreeMap<String, Paused>,
    /// Its models that were called, by name.
    #[serde(default)]
    pub models: BTreeMap<String, ModelStanding>,
    /// What a team has spent of its limits; an account's are its models'.
    #[serde(default)]
    pub spent: Spent,
}

/// What of a model at an account outlives its process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStanding {
    /// Why it may not be called, if it may not.
    pub paused: Option<Paused>,
    /// What is spent of its limits.
    #[serde(default)]
    pub spent: Spent,
    /// The limit that was found where none is told.
    pub found: Option<Found>,
}

/// A key or a model that may not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// When it returns by itself; never, if an operator disabled it.
    pub until: Option<Timestamp>,
    /// What happened, if it was not an operator's act.
    pub reason: Option<Class>,
}

/// A limit on calls that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Calls.
    pub calls_per_minute: u64,
    /// Whether it is a minute that holds so many, and not a rate.
    pub window: bool,
}

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// On the process's clock.
    pub instant: Instant,
    /// On the wall.
    pub wall: Timestamp,
}

impl Moment {
    /// When `at` is, on the wall.
    pub(super) fn wall(&self, at: Instant) -> Timestamp {
        let after = at.saturating_duration_since(self.instant);
        let before = self.instant.saturating_duration_since(at);
        self.wall
            .checked_add(after)
            .and_then(|at| at.checked_sub(before))
            .unwrap_or(Timestamp::MAX)
    }

    /// When `at` is, on the process's clock; now, if it has passed.
    pub(super) fn instant(&self, at: Timestamp) -> Instant {
        self.instant + Duration::try_from(at.duration_since(self.wall)).unwrap_or_default()
    }

    /// `at` on the wall, put off to the next whole multiple of `step`: so that what is written down does not
    /// change all the time.
    pub(super) fn wall_in_steps(&self, at: Instant, step: Duration) -> Timestamp {
        let (at, step) = (
            self.wall(at).as_millisecond(),
            i64::try_from(step.as_millis()).unwrap_or(i64::MAX),
        );
        let steps = at.saturating_add(step - 1) / step.max(1);
        Timestamp::from_millisecond(steps.saturating_mul(step)).unwrap_or(Timestamp::MAX)
    }
}

impl ModelStanding {
    fn says_something(&self) -> bool {
        self.paused.is_some()
            || self.found.is_some()
            || self.spent.values().any(|parts| !parts.is_empty())
    }
}

impl Cap {
    /// As [`Account::standing`].
    pub fn standing(&self, ahead: bool, moment: Moment) -> Standing {
        let mut inner = self.inner();
        let limits = self.limits.iter().zip(&mut inner.meters);
        let spent = limits
            .filter_map(|(limit, meter)| Some((limit.key(), meter.spent_until(ahead, moment)?)));
        Standing {
            spent: spent.collect(),
            ..Standing::default()
        }
    }

    /// As [`Account::keep`].
    pub fn keep(&self) {
        self.inner().meters.iter_mut().for_each(Meter::keep);
    }

    /// As [`Account::confirm`].
    pub fn confirm(&self) {
        self.inner().meters.iter_mut().for_each(Meter::confirm);
        self.wake.release();
    }

    /// As [`Account::resume`].
    pub fn resume(&self, standing: &Standing, moment: Moment) {
        for (limit, meter) in self.limits.iter().zip(&mut self.inner().meters) {
            if let Some(parts) = standing.spent.get(&limit.key()) {
                meter.resume(parts, moment);
            }
        }
    }
}

impl Account {
    /// What outlives this process; with `ahead` what may be spent before it is asked for again counts as
    /// spent.
    pub fn standing(&self, ahead: bool, moment: Moment) -> Standing {
        let mut ledger = self.ledger();
        let names = self.config.keys.iter().map(|key| &key.name);
        let keys = names.zip(&ledger.keys);
        let keys = keys
            .filter_map(|(name, state)| Some((name.clone(), state.paused(moment)?)))
            .collect();
        let Ledger { models, meters, .. } = &mut *ledger;
        // What several models share is told with the first of them alone.
        let mut told = BTreeSet::new();
        let models = models.iter().filter_map(|(name, model)| {
            let mut spent = BTreeMap::new();
            for (limit, meter) in self.config.limits_of(name).zip(&model.meters) {
                if told.insert(*meter)
                    && let Some(parts) = meters[*meter].spent_until(ahead, moment)
                {
                    spent.insert(limit.key(), parts);
                }
            }
            let found = model.learned.as_ref().and_then(Learned::found);
            let standing = ModelStanding {
                paused: model.state.paused(moment),
                spent,
                found,
            };
            standing.says_something().then(|| (name.clone(), standing))
        });
        Standing {
            keys,
            models: models.collect(),
            spent: Spent::new(),
        }
    }

    /// From now on nothing is spent of long limits that is not written down: who calls this asks for
    /// [`Account::standing`] again and again, and says when it stands.
    pub fn keep(&self) {
        self.ledger().kept = true;
    }

    /// What [`Account::standing`] said last is written down.
    pub fn confirm(&self) {
        self.ledger().meters.iter_mut().for_each(Meter::confirm);
        self.wake.release();
    }

    /// Goes on from what a process before this one left.
    pub fn resume(&self, standing: &Standing, moment: Moment) {
        let mut ledger = self.ledger();
        for (key, state) in self.config.keys.iter().zip(&mut ledger.keys) {
            if let Some(paused) = standing.keys.get(&key.name) {
                *state = State::resumed(paused, moment);
            }
        }
        for (name, before) in &standing.models {
            ledger.know(name, self, moment.instant);
            let Ledger { models, meters, .. } = &mut *ledger;
            let Some(model) = models.get_mut(name) else {
                continue;
            };
            if let Some(paused) = &before.paused {
                model.state = State::resumed(paused, moment);
            }
            for (limit, meter) in self.config.limits_of(name).zip(&model.meters) {
                if let Some(parts) = before.spent.get(&limit.key()) {
                    meters[*meter].resume(parts, moment);
                }
            }
            if let Some((learned, found)) = model.learned.as_mut().zip(before.found) {
                learned.resume(found, meters, moment.instant);
            }
        }
    }
}
