//! What of accounts and of teams' limits outlives a process: how far long limits are spent, what keys and
//! models wait for, and what was found out.

use std::collections::{BTreeMap, BTreeSet};

use crate::accounts::learn::LearnedLimits;
use crate::accounts::ledger::AccountLedger;
use crate::accounts::meter::Meter;
use crate::accounts::saved::{AccountState, ClockPair, ModelState, SpentLimits};
use crate::accounts::state::ReadyState;
use crate::accounts::{Account, TeamLimits};

impl TeamLimits {
    /// As [`Account::standing`].
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
    pub fn resume(&self, standing: &AccountState, moment: ClockPair) {
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
    pub fn standing(&self, ahead: bool, moment: ClockPair) -> AccountState {
        let mut ledger = self.ledger();
        let names = self.config.keys.iter().map(|key| &key.name);
        let keys = names.zip(&ledger.keys);
        let keys = keys
            .filter_map(|(name, state)| Some((name.clone(), state.paused(moment)?)))
            .collect();
        let AccountLedger { models, meters, .. } = &mut *ledger;
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
