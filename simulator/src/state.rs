//! What all calls share: the accounts, what goes wrong, chance and the record.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal};

use crate::account;
use crate::admission::LimitedAccount;
use crate::fault::{FaultPlan, InjectedFault};
use crate::record::CallRecord;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// The accounts, each with its keys and limits.
    pub accounts: Vec<account::Config>,
    /// How long an answer takes: log-normal around the geometric mean of the two, and never beyond them.
    pub latency: (Duration, Duration),
    /// What goes wrong, and how often.
    pub faults: FaultPlan,
    /// For the choice of latencies and faults.
    pub seed: u64,
    /// A file for the record, a JSON line per call.
    pub record: Option<std::path::PathBuf>,
}

impl Config {
    /// Accounts whose calls never fail; an answer takes 20 ms.
    pub fn new(accounts: Vec<account::Config>) -> Self {
        let latency = Duration::from_millis(20);
        Self {
            accounts,
            latency: (latency, latency),
            faults: FaultPlan::default(),
            seed: 0,
            record: None,
        }
    }
}

/// What all calls share.
#[derive(Debug)]
pub(crate) struct SharedState {
    pub(crate) accounts: Vec<Arc<LimitedAccount>>,
    latency: (Duration, Duration),
    faults: Mutex<FaultPlan>,
    rng: Mutex<SmallRng>,
    pub(crate) record: CallRecord,
}

impl SharedState {
    /// The state of a provider of which nothing has been asked.
    ///
    /// # Errors
    /// When the record's file cannot be opened.
    pub(crate) fn new(config: Config) -> std::io::Result<Self> {
        Ok(Self {
            accounts: config
                .accounts
                .into_iter()
                .map(LimitedAccount::new)
                .collect(),
            latency: config.latency,
            faults: Mutex::new(config.faults),
            rng: Mutex::new(SmallRng::seed_from_u64(config.seed)),
            record: CallRecord::new(config.record.as_deref())?,
        })
    }

    /// What goes wrong with the next call, and how long its answer takes.
    pub(crate) fn choose(&self) -> (Option<InjectedFault>, Duration) {
        let mut rng = self.rng.lock();
        let latency = draw(self.latency, &mut *rng);
        (self.faults().choose(rng.random()), latency)
    }

    /// What goes wrong, and how often.
    pub(crate) fn faults(&self) -> MutexGuard<'_, FaultPlan> {
        self.faults.lock()
    }
}

/// A time that is log-normal, as those of real calls are: two standard deviations reach to either end.
fn draw((least, most): (Duration, Duration), rng: &mut impl Rng) -> Duration {
    let (low, high) = (
        least.as_secs_f64().max(1e-6).ln(),
        most.as_secs_f64().max(1e-6).ln(),
    );
    match LogNormal::new(f64::midpoint(low, high), (high - low) / 4.0) {
        Ok(times) if least < most => Duration::from_secs_f64(times.sample(rng)).clamp(least, most),
        _ => least,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_log_normal_and_within_their_bounds() {
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(9));
        let mut rng = SmallRng::seed_from_u64(1);
        let mut times: Vec<_> = (0..10_000).map(|_| draw((least, most), &mut rng)).collect();
        times.sort();
        assert!(times[0] >= least && times[9_999] <= most);
        let (median, high) = (times[5_000].as_secs_f64(), times[8_413].as_secs_f64());
        assert!((median - 3.0).abs() < 0.1, "{median}");
        // A standard deviation above: the square root of three times as long.
        assert!((high / median - 3f64.sqrt()).abs() < 0.1, "{high}");
        assert_eq!(draw((least, least), &mut rng), least);
    }
}
