//! The state that all calls share: the accounts, the faults, the random numbers and the record.

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

/// The configuration of a simulated provider.
#[derive(Debug, Clone)]
pub struct Config {
    /// The accounts, each with its keys and limits.
    pub accounts: Vec<account::Config>,
    /// The least and the greatest latency of an answer. Latencies are log-normal around the geometric mean of the
    /// two.
    pub latency: (Duration, Duration),
    /// The injected faults, and the share of each.
    pub faults: FaultPlan,
    /// The seed of the random numbers that choose latencies and faults.
    pub seed: u64,
    /// The file of the record, with one JSON line per call; `None` for no file.
    pub record: Option<std::path::PathBuf>,
}

impl Config {
    /// Returns a configuration without faults, whose answers take 20 ms.
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

/// The state that all calls share.
#[derive(Debug)]
pub(crate) struct SharedState {
    pub(crate) accounts: Vec<Arc<LimitedAccount>>,
    latency: (Duration, Duration),
    faults: Mutex<FaultPlan>,
    rng: Mutex<SmallRng>,
    pub(crate) record: CallRecord,
}

impl SharedState {
    /// Returns the state of a provider before its first call.
    ///
    /// # Errors
    /// Returns an error if the record's file cannot be opened.
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

    /// Chooses the fault and the latency of the next call.
    pub(crate) fn choose(&self) -> (Option<InjectedFault>, Duration) {
        let mut rng = self.rng.lock();
        let latency = draw(self.latency, &mut *rng);
        (self.faults().choose(rng.random()), latency)
    }

    /// Returns the injected faults, which a caller may replace.
    pub(crate) fn faults(&self) -> MutexGuard<'_, FaultPlan> {
        self.faults.lock()
    }
}

/// Draws a log-normal latency, as real calls have. Two standard deviations reach to either end.
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
        // One standard deviation above the median is a factor of the square root of three.
        assert!((high / median - 3f64.sqrt()).abs() < 0.1, "{high}");
        assert_eq!(draw((least, least), &mut rng), least);
    }
}
