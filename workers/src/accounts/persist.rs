//! The state of accounts and of teams' limits that outlives a process. It holds the spent part of long limits, the
//! pauses of keys and models, and the limits that were found.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::accounts::learn::LearnedLimits;
use crate::accounts::ledger::AccountLedger;
use crate::accounts::limit::Limit;
use crate::accounts::meter::Meter;
use crate::accounts::requested_wait::longest_believed;
use crate::accounts::saved::{AccountState, ClockPair, ModelState, SpentLimits};
use crate::accounts::state::ReadyState;
use crate::accounts::{Account, TeamLimits};

impl TeamLimits {
    /// Returns the team's state that outlives this process, as [`Account::saved_state`] does.
    pub fn saved_state(&self, ahead: bool, moment: ClockPair) -> AccountState {
        let mut inner = self.inner();
        let meters = inner.meters.iter_mut();
        let mut spent = SpentLimits::new();
        for (limit, meter) in self.limits.iter().zip(meters) {
            if let Some(parts) = meter.spent_until(ahead, moment) {
                spent.insert(limit.key(), parts);
            }
        }
        AccountState {
            spent,
            ..AccountState::default()
        }
    }

    /// Holds back spending that is not written down yet, as [`Account::keep`] does.
    pub fn keep(&self, requests: &Arc<Notify>) {
        self.each_meter(|meter| meter.keep(requests));
    }

    /// Notes that the last state is written down, as [`Account::confirm`] does.
    pub fn confirm(&self) {
        self.each_meter(Meter::confirm);
        self.wake.release();
    }

    /// Continues from the state that a process before this one left, as [`Account::resume`] does.
    pub fn resume(&self, saved: &AccountState, moment: ClockPair) {
        let mut inner = self.inner();
        let meters = inner.meters.iter_mut();
        for (limit, meter) in self.limits.iter().zip(meters) {
            if let Some(parts) = saved.spent.get(&limit.key()) {
                meter.resume(parts, moment);
            }
        }
    }
}

impl Account {
    /// Returns the state that outlives this process. With `ahead`, the amount that may be spent before the next call of
    /// this method counts as spent.
    pub fn saved_state(&self, ahead: bool, moment: ClockPair) -> AccountState {
        let mut ledger = self.ledger();
        let AccountLedger {
            keys,
            models,
            meters,
            ..
        } = &mut *ledger;
        let mut saved = AccountState::default();
        let configured = self.config.keys.iter();
        for (key, state) in configured.zip(keys) {
            if let Some(paused) = state.paused(moment) {
                let name = key.name.clone();
                saved.keys.insert(name, paused);
            }
        }
        // A limit that several models share is returned with the first of them alone.
        let mut saved_meters = BTreeSet::new();
        for (name, model) in models {
            let mut spent = SpentLimits::new();
            let limits = self.config.limits_of(name);
            for (limit, meter) in limits.zip(&model.meters) {
                if saved_meters.insert(*meter)
                    && let Some(parts) = meters[*meter].spent_until(ahead, moment)
                {
                    spent.insert(limit.key(), parts);
                }
            }
            let learned = model.learned.as_ref();
            let state = ModelState {
                paused: model.state.paused(moment),
                spent,
                found: learned.and_then(LearnedLimits::found),
            };
            if state.is_worth_saving() {
                saved.models.insert(name.clone(), state);
            }
        }
        saved.spent = ledger.spent_of_new_models.clone();
        for parts in saved.spent.values_mut() {
            parts.retain(|(at, _)| *at > moment.wall);
        }
        saved.spent.retain(|_, parts| !parts.is_empty());
        saved
    }

    /// Holds back, from now on, spending of long limits that is not written down yet. The caller writes down
    /// [`Account::saved_state`] in intervals and when `requests` is notified, and reports each write by
    /// [`Account::confirm`].
    pub fn keep(&self, requests: &Arc<Notify>) {
        self.ledger().save_requests = Some(Arc::clone(requests));
    }

    /// Notes that the last result of [`Account::saved_state`] is written down.
    pub fn confirm(&self) {
        let mut ledger = self.ledger();
        ledger.meters.iter_mut().for_each(Meter::confirm);
        drop(ledger);
        self.wake.release();
    }

    /// Continues from the state that a process before this one left.
    pub fn resume(&self, saved: &AccountState, moment: ClockPair) {
        let mut ledger = self.ledger();
        let periods = self.config.limits.iter().filter_map(Limit::period);
        let longest = longest_believed(periods.max());
        let keys = self.config.keys.iter();
        for (key, state) in keys.zip(&mut ledger.keys) {
            if let Some(paused) = saved.keys.get(&key.name) {
                *state = ReadyState::resumed(paused, moment, longest);
            }
        }
        for (name, before) in &saved.models {
            ledger.ensure_model(name, self, moment.instant);
            let AccountLedger { models, meters, .. } = &mut *ledger;
            let Some(model) = models.get_mut(name) else {
                continue;
            };
            if let Some(paused) = &before.paused {
                model.state = ReadyState::resumed(paused, moment, longest);
            }
            let limits = self.config.limits_of(name);
            for (limit, meter) in limits.zip(&model.meters) {
                if let Some(parts) = before.spent.get(&limit.key()) {
                    meters[*meter].resume(parts, moment);
                }
            }
            if let (Some(learned), Some(found)) = (&mut model.learned, before.found) {
                learned.resume(found, meters, moment.instant);
            }
        }
        // Only now: the models above have their own spent parts.
        ledger.spent_of_new_models = saved.spent.clone();
    }
}
