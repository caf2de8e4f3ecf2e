//! A provider that does not exist: it speaks the API of any provider, enforces limits strictly, and can fail.
//!
//! It shares no pacing code with the workers, so that the two cannot be wrong together. Answers are
//! made from the request alone, so that two runs can be compared byte by byte.

pub mod account;
mod admission;
mod answer;
mod asked;
mod call;
mod cost;
mod dialect;
mod failure;
pub mod fault;
mod fixture;
mod limits;
mod multipart;
mod parts;
pub mod record;
mod refusal;
mod route;
mod schema;
mod serve;
mod signature;
mod vendor;
mod window;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, LogNormal};
use tokio::net::TcpListener;

use admission::Account;
pub use failure::{Failure, failures};
use fault::{Fault, Faults};
use record::{Entry, Record};
pub use vendor::Vendor;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// The accounts, each with its keys and limits.
    pub accounts: Vec<account::Config>,
    /// How long an answer takes: log-normal around the geometric mean of the two, and never beyond them.
    pub latency: (Duration, Duration),
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// For the choice of latencies and faults.
    pub seed: u64,
    /// A file for the record, a JSON line per call.
    pub record: Option<std::path::PathBuf>,
}

/// A running simulated provider. It ends when this is dropped.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    accounts: Vec<Arc<Account>>,
    latency: (Duration, Duration),
    faults: Mutex<Faults>,
    rng: Mutex<SmallRng>,
    record: Record,
}

impl Provider {
    /// Starts to serve on `listener`.
    ///
    /// # Errors
    /// When the record's file cannot be opened, the listener has no address, or a key opens two accounts.
    pub fn start(config: Config, listener: TcpListener) -> std::io::Result<Self> {
        if let Some(conflict) = account::conflict(&config.accounts) {
            return Err(std::io::Error::other(conflict));
        }
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            accounts: config.accounts.into_iter().map(Account::new).collect(),
            latency: config.latency,
            faults: Mutex::new(config.faults),
            rng: Mutex::new(SmallRng::seed_from_u64(config.seed)),
            record: Record::new(config.record.as_deref())?,
        });
        let router = Router::new()
            .fallback(any(serve::handle))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // Serving ends with the listener; there is nobody to tell.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address, as a `base_url` of OpenAI's.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it was asked so far.
    pub fn calls(&self) -> Vec<Entry> {
        self.shared.record.entries()
    }

    /// From now on this goes wrong.
    pub fn fail(&self, faults: Faults) {
        *self.shared.faults() = faults;
    }

    /// The vector that a text is answered with.
    pub fn vector(text: &str) -> Vec<f64> {
        answer::vector(text, answer::DIMENSIONS)
    }

    /// The accounts that it has.
    pub fn accounts(&self) -> Vec<account::Config> {
        self.shared
            .accounts
            .iter()
            .map(|account| account.config().clone())
            .collect()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn choose(&self) -> (Option<Fault>, Duration) {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let latency = draw(self.latency, &mut *rng);
        (self.faults().choose(rng.random()), latency)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
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
