//! The right to make one named call now.

use std::sync::Arc;
use std::time::Duration;

use forebay_schemas::Class;
use tokio::time::Instant;

use super::circuit::BreakerPermit;
use super::ledger::{AccountLedger, ModelLedger};
use super::{Account, AccountKey};
use crate::accounts::team_limits::{TeamLimits, TeamShare};
use forebay_providers::RateLimitHeaders;
use forebay_providers::cost::CallCost;

/// The right to make one call to one model with one key, taken from all meters at once. Dropping it
/// gives back whatever the call has not used: everything, if the call was never sent.
#[derive(Debug)]
#[must_use = "a permit that is dropped gives its room back"]
pub struct Permit {
    account: Arc<Account>,
    call: u64,
    model: String,
    key: usize,
    /// There until the permit is dropped.
    passage: Option<BreakerPermit>,
    granted: Instant,
    /// Whether the provider said anything: a probe without a word has shown nothing.
    answered: bool,
    /// A call that was given up on may still run at the provider until then.
    runs_until: Option<Instant>,
    /// What it takes of its team's limits, if the team has some.
    share: Option<TeamShare>,
}

impl Permit {
    pub(super) fn new(
        account: Arc<Account>,
        call: u64,
        model: String,
        key: usize,
        passage: BreakerPermit,
        granted: Instant,
    ) -> Self {
        let passage = Some(passage);
        Self {
            account,
            call,
            model,
            key,
            passage,
            granted,
            answered: false,
            runs_until: None,
            share: None,
        }
    }

    /// Holds what the call takes of its team's limits.
    pub(crate) fn charge(&mut self, share: TeamShare) {
        self.share = Some(share);
    }

    /// Takes the tokens of one more job for the same call, which was not sent yet, from all meters or from none.
    /// Returns whether they were free.
    pub(crate) fn take_on(&self, cost: &CallCost, now: Instant) -> bool {
        let mut ledger = self.account.ledger();
        let AccountLedger { models, meters, .. } = &mut *ledger;
        let Some(ModelLedger {
            factor,
            meters: used,
            ..
        }) = models.get(&self.model)
        else {
            return false;
        };
        let more = CallCost {
            requests: 0,
            input_tokens: factor.apply(cost.input_tokens),
            ..*cost
        };
        let is_free = used
            .iter()
            .all(|meter| meters[*meter].has_room_for(&more, now));
        let is_free = is_free
            && self.share.as_ref().is_none_or(|share| {
                // A team's limits count what was estimated, until it is known.
                share.take_on(
                    &CallCost {
                        requests: 0,
                        ..*cost
                    },
                    now,
                )
            });
        if is_free {
            used.iter()
                .for_each(|meter| meters[*meter].take_on(self.call, &more));
        }
        is_free
    }

    /// The account that was charged.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The model that may be called.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The key to use.
    pub fn key(&self) -> &AccountKey {
        &self.account.config.keys[self.key]
    }

    /// The note of when the call leaves, to be written by whoever hands it to the network.
    pub fn stamp(&self) -> SendMarker {
        SendMarker {
            account: Arc::clone(&self.account),
            call: self.call,
            model: self.model.clone(),
            granted: self.granted,
            share: self.share.as_ref().map(TeamShare::stamp),
        }
    }

    /// The provider answered, whatever it said.
    pub fn answered(&mut self) {
        self.answered = true;
    }

    /// The provider reported so many prompt tokens where so many were estimated.
    pub fn learn(&mut self, estimated: u64, reported: u64) {
        if let Some(model) = self.account.ledger().models.get_mut(&self.model) {
            model.factor.learn(estimated, reported);
        }
    }

    /// Corrects the tokens that were reserved for the call: up always, down only if the provider
    /// gives back what was not used.
    pub fn settle(&mut self, actual: CallCost, provider_settles: bool) {
        if let Some(share) = &self.share {
            share.settle(&actual);
        }
        let mut ledger = self.account.ledger();
        ledger.each_meter_of(&self.model, |meter| {
            meter.correct(self.call, &actual, provider_settles)
        });
    }

    /// Whether the provider did what it is for, be it to refuse, or failed, and how.
    pub fn went(&self, failure: Option<Class>, now: Instant) {
        let Some(passage) = &self.passage else { return };
        match failure {
            None => passage.answered(now),
            Some(class) => passage.failed(class, now),
        }
    }

    /// The provider took the call in, whatever came of it.
    pub fn accepted(&mut self, now: Instant) {
        self.account
            .ledger()
            .accepted(self.call, &self.model, self.granted, now);
    }

    /// What the headers of the answer said of limits, where they are learned.
    pub fn observe(&self, figures: &[RateLimitHeaders], now: Instant) {
        let age = now.saturating_duration_since(self.granted);
        self.account
            .ledger()
            .observe(&self.model, figures, age, now);
    }

    /// A limit refused the call: it cools the key if the refusal speaks of the key, else the model. One that
    /// does not say for how long cools longer each time.
    pub fn refused(
        &mut self,
        speaks_of_key: bool,
        reason: Class,
        wait: Option<Duration>,
        now: Instant,
    ) {
        let mut ledger = self.account.ledger();
        ledger.totals.refusals += 1;
        if reason == Class::RateLimited && !speaks_of_key {
            ledger.refused(&self.model, self.granted, wait, now);
        }
        let wait = wait.unwrap_or_else(|| ledger.unsaid_wait(&self.model, self.granted, now));
        drop(ledger);
        self.cool(speaks_of_key, reason, wait, now);
    }

    /// Cools the key or the model for `wait`.
    pub fn cool(&mut self, key: bool, reason: Class, wait: Duration, now: Instant) {
        if key {
            self.account.ledger().keys[self.key].cool(reason, wait, now);
        } else {
            self.account.cool_model(&self.model, reason, wait, now);
        }
    }

    /// The key is not accepted: no more calls with it until an operator acts.
    pub fn disable_key(&mut self, reason: Class) {
        self.account.ledger().keys[self.key].shut(reason);
    }

    /// The call left and was given up on at `now`, but may run on at the provider for `rest`: it keeps its place
    /// among the calls at once until then.
    pub fn abandoned(&mut self, now: Instant, rest: Duration) {
        self.runs_until = Some(now + rest);
        if let Some(share) = &mut self.share {
            share.abandoned(now + rest);
        }
    }
}

/// Notes when a permitted call leaves: until then its slots of a period cannot begin to return.
#[derive(Debug)]
pub struct SendMarker {
    account: Arc<Account>,
    call: u64,
    model: String,
    granted: Instant,
    share: Option<(Arc<TeamLimits>, u64)>,
}

impl SendMarker {
    /// The call was handed to the network at `at`.
    pub fn sent(self, at: Instant) {
        let mut ledger = self.account.ledger();
        ledger.totals.calls += 1;
        let delay = at.saturating_duration_since(self.granted);
        ledger.each_meter_of(&self.model, |meter| meter.sent(self.call, at, delay));
        drop(ledger);
        if let Some((cap, call)) = &self.share {
            cap.sent(*call, at, delay);
        }
        self.account.wake.release();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut ledger = self.account.ledger();
        ledger.totals.in_flight -= 1;
        let (call, until) = (self.call, self.runs_until);
        ledger.each_meter_of(&self.model, |meter| meter.release(call, until));
        let now = Instant::now();
        if let Some(model) = ledger.models.get_mut(&self.model) {
            model.state.probe_ended(call, self.answered, now);
        }
        ledger.keys[self.key].probe_ended(call, self.answered, now);
        drop(ledger);
        // Whoever is woken must find all of it given back.
        drop((self.passage.take(), self.share.take()));
        self.account.wake.release();
    }
}
