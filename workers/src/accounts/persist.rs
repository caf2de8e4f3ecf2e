//! The state of accounts and of teams' limits that outlives a process. It holds the spent part of long limits, the pauses
//! of keys and models, and the limits that were found.

use std::collections::{BTreeMap, BTreeSet};

use crate::accounts::learn::LearnedLimits;
use crate::accounts::ledger::AccountLedger;
use crate::accounts::meter::Meter;
use crate::accounts::saved::{AccountState, ClockPair, ModelState, SpentLimits};
use crate::accounts::state::ReadyState;
use crate::accounts::{Account, TeamLimits};

impl TeamLimits {
    /// Returns the team's state that outlives this process, as [`Account::standing`] does.
    pub fn standing(&self, ahead: bool, moment: ClockPair) -> AccountState {
        let mut inner = self.inner();
        let limits = self.limits.iter().zip(&mut inner.meters);
        let spent = limits
            .filter_map(|(limit, meter)| Some((limit.key(), meter.spent_until(ahead, moment)?)));
        AccountState {
            spent: spent.collect(),
            ..AccountState::default()
        }
    }

    /// Holds back spending that is not written down yet, as [`Account::keep`] does.
    pub fn keep(&self) {
        self.inner().meters.iter_mut().for_each(Meter::keep);
    }

    /// Notes that the last state is written down, as [`Account::confirm`] does.
    pub fn confirm(&self) {
        self.inner().meters.iter_mut().for_each(Meter::confirm);
        self.wake.release();
    }

    /// Continues from the state that a process before this one left, as [`Account::resume`] does.
    pub fn resume(&self, standing: &AccountState, moment: ClockPair) {
        for (limit, meter) in self.limits.iter().zip(&mut self.inner().meters) {
            if let Some(parts) = standing.spent.get(&limit.key()) {
                meter.resume(parts, moment);
            }
        }
    }
}

impl Account {
    /// Returns the state that outlives this process. With `ahead`, the amount that may be spent before the next call of
    /// this method counts as spent.
    pub fn standing(&self, ahead: bool, moment: ClockPair) -> AccountState {
        let mut ledger = self.ledger();
        let names = self.config.keys.iter().map(|key| &key.name);
        let keys = names.zip(&ledger.keys);
        let keys = keys
            .filter_map(|(name, state)| Some((name.clone(), state.paused(moment)?)))
            .collect();
        let AccountLedger { models, meters, .. } = &mut *ledger;
        // A limit that several models share is returned with the first of them alone.
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
            let found = model.learned.as_ref().and_then(LearnedLimits::found);
            let standing = ModelState {
                paused: model.state.paused(moment),
                spent,
                found,
            };
            standing.says_something().then(|| (name.clone(), standing))
        });
        AccountState {
            keys,
            models: models.collect(),
            spent: SpentLimits::new(),
        }
    }

    /// Holds back, from now on, spending of long limits that is not written down yet. The caller writes down
    /// [`Account::standing`] in intervals, and reports each write by [`Account::confirm`].
    pub fn keep(&self) {
        self.ledger().kept = true;
    }

    /// Notes that the last result of [`Account::standing`] is written down.
    pub fn confirm(&self) {
        self.ledger().meters.iter_mut().for_each(Meter::confirm);
        self.wake.release();
    }

    /// Continues from the state that a process before this one left.
    pub fn resume(&self, standing: &AccountState, moment: ClockPair) {
        let mut ledger = self.ledger();
        for (key, state) in self.config.keys.iter().zip(&mut ledger.keys) {
            if let Some(paused) = standing.keys.get(&key.name) {
                *state = ReadyState::resumed(paused, moment);
            }
        }
        for (name, before) in &standing.models {
            ledger.ensure_model(name, self, moment.instant);
            let AccountLedger { models, meters, .. } = &mut *ledger;
            let Some(model) = models.get_mut(name) else {
                continue;
            };
            if let Some(paused) = &before.paused {
                model.state = ReadyState::resumed(paused, moment);
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
