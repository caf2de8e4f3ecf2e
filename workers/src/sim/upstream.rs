//! A provider in memory, with limits, latencies and faults.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::AUTHORIZATION;
use ::http::{HeaderMap, HeaderValue};
use parking_lot::{Mutex, MutexGuard};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::fence::CallFence;
use crate::upstream::{Error, ReceivedReply, Upstream};
use forebay_providers::{Reply, Request};

/// An account of the simulated provider.
#[derive(Debug, Clone)]
pub struct SimAccount {
    /// The key of the account.
    pub key: String,
    /// The limits: a number of calls and its period.
    pub limits: Vec<(usize, Duration)>,
    /// The way in which periods are counted.
    pub counting: SimCounting,
    /// The information about limits in the account's answers.
    pub tells: Tells,
}

/// The information about limits in an account's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tells {
    /// No information, not even the wait after a refusal.
    Nothing,
    /// The wait after a refusal.
    #[default]
    Waits,
    /// The wait after a refusal, and the first limit in every answer.
    Limits,
}

/// The way in which a provider counts a period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SimCounting {
    /// No trailing period holds more than the limit.
    #[default]
    Sliding,
    /// No period of a clock that starts with the first call holds more than the limit.
    Fixed,
    /// No period of an absolute clock holds more than the limit. When the provider began, the clock's next period was
    /// two fifths of a period away.
    Clock,
    /// A bucket of the limit's size is full at first and refills evenly.
    Bucket,
}

/// The behaviour of the simulated provider.
#[derive(Debug, Clone)]
pub struct SimBehaviour {
    /// The accounts of the provider.
    pub accounts: Vec<SimAccount>,
    /// The longest time from the permit until the request leaves; the real one is random.
    pub send_delay: Duration,
    /// The longest time from the request's leaving to its arrival; the real one is random.
    pub way: Duration,
    /// The shortest and the longest time from the arrival to the answer; the real one is random.
    pub latency: (Duration, Duration),
    /// The share of calls that end in a 500.
    pub errors: f64,
    /// The duration of an outage from the beginning. Calls that arrive during it end in a 500.
    pub outage: Duration,
    /// The share of calls whose connection is reset before an answer.
    pub lost: f64,
    /// The seed of all random choices.
    pub seed: u64,
}

/// A provider in memory; clones share it.
#[derive(Debug, Clone)]
pub struct SimUpstream {
    behaviour: Arc<SimBehaviour>,
    state: Arc<Mutex<SimUpstreamState>>,
    began: Instant,
}

#[derive(Debug)]
struct SimUpstreamState {
    rng: SmallRng,
    arrivals: HashMap<String, Vec<Instant>>,
    accepted: HashMap<String, Vec<Instant>>,
    refusals: usize,
}

impl SimUpstream {
    /// Returns a provider before its first call.
    pub fn new(behaviour: SimBehaviour) -> Self {
        let rng = SmallRng::seed_from_u64(behaviour.seed);
        let state = SimUpstreamState {
            rng,
            arrivals: HashMap::new(),
            accepted: HashMap::new(),
            refusals: 0,
        };
        Self {
            behaviour: Arc::new(behaviour),
            state: Arc::new(Mutex::new(state)),
            began: Instant::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, SimUpstreamState> {
        self.state.lock()
    }

    /// Returns the arrival times of an account's calls, including refused ones.
    pub fn arrivals(&self, key: &str) -> Vec<Instant> {
        let state = self.state();
        let arrivals = state.arrivals.get(key);
        arrivals.cloned().unwrap_or_default()
    }

    /// Returns the arrival times of an account's calls that no limit refused.
    pub fn accepted(&self, key: &str) -> Vec<Instant> {
        let state = self.state();
        let accepted = state.accepted.get(key);
        accepted.cloned().unwrap_or_default()
    }

    /// Returns the number of calls that a limit refused.
    pub fn refusals(&self) -> usize {
        self.state().refusals
    }

    /// Returns a random duration up to `most`.
    fn up_to(&self, most: Duration) -> Duration {
        let share: f64 = self.state().rng.random();
        most.mul_f64(share)
    }

    /// Counts an arrival. Returns the wait if a limit refuses it.
    fn admit(&self, account: &SimAccount, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        let key = &account.key;
        let arrivals = state.arrivals.entry(key.clone()).or_default();
        arrivals.push(now);
        let refused = account
            .limits
            .iter()
            .filter_map(|(limit, per)| self.refused(account.counting, arrivals, *limit, *per))
            .max();
        if refused.is_some() {
            state.refusals += 1;
        } else {
            let accepted = state.accepted.entry(key.clone()).or_default();
            accepted.push(now);
        }
        refused
    }

    /// Returns the wait if the last arrival exceeds a limit.
    fn refused(
        &self,
        counting: SimCounting,
        arrivals: &[Instant],
        limit: usize,
        per: Duration,
    ) -> Option<Duration> {
        match counting {
            SimCounting::Sliding => refused_by_window(arrivals, limit, per),
            SimCounting::Fixed => refused_by_clock(arrivals, *arrivals.first()?, limit, per),
            SimCounting::Clock => {
                refused_by_clock(arrivals, clock_origin(self.began, per), limit, per)
            }
            SimCounting::Bucket => refused_by_bucket(arrivals, limit, per),
        }
    }

    /// Returns the headers about an account's first limit, in OpenAI's form.
    fn limit_headers(&self, account: &SimAccount, now: Instant) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let first = account.limits.first();
        let Some((limit, per)) = first.filter(|_| account.tells == Tells::Limits) else {
            return headers;
        };
        let state = self.state();
        let arrivals = state.arrivals.get(&account.key);
        let arrivals = arrivals.map_or(&[][..], Vec::as_slice);
        let origin = match account.counting {
            SimCounting::Clock => Some(clock_origin(self.began, *per)),
            _ => arrivals.first().copied(),
        };
        let origin = origin.unwrap_or(now);
        let (used, whole_in) = account.counting.used(arrivals, origin, *limit, *per, now);
        let remaining = limit.saturating_sub(used);
        let reset = whole_in.as_millis();
        for (part, value) in [
            ("x-ratelimit-limit-requests", limit.to_string()),
            ("x-ratelimit-remaining-requests", remaining.to_string()),
            ("x-ratelimit-reset-requests", format!("{reset}ms")),
        ] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(part, value);
            }
        }
        headers
    }

    fn answer(&self, status: u16, headers: HeaderMap, body: &str) -> ReceivedReply {
        let body = body.to_owned().into();
        let reply = Reply {
            status,
            headers,
            body,
        };
        reply.into()
    }
}

impl Upstream for SimUpstream {
    async fn send<S>(
        &self,
        request: Request,
        fence: Arc<CallFence>,
        sent: S,
    ) -> Result<ReceivedReply, Error>
    where
        S: FnOnce(Instant) + Send + 'static,
    {
        let behaviour = &*self.behaviour;
        sleep(self.up_to(behaviour.send_delay)).await;
        if !fence.is_open() {
            return Err(Error::FenceClosed);
        }
        sent(Instant::now());
        sleep(self.up_to(behaviour.way)).await;
        let key = bearer(&request.headers);
        let mut accounts = behaviour.accounts.iter();
        let Some(account) = accounts.find(|account| Some(&*account.key) == key) else {
            let body =
                r#"{"error":{"message":"Incorrect API key provided.","code":"invalid_api_key"}}"#;
            return Ok(self.answer(401, HeaderMap::new(), body));
        };
        if let Some(wait) = self.admit(account, Instant::now()) {
            let mut headers = self.limit_headers(account, Instant::now());
            if let Ok(value) = HeaderValue::from_str(&wait.as_millis().to_string())
                && account.tells != Tells::Nothing
            {
                headers.insert("retry-after-ms", value);
            }
            let body = r#"{"error":{"message":"Rate limit reached.","type":"requests","code":"rate_limit_exceeded"}}"#;
            return Ok(self.answer(429, headers, body));
        }
        let headers = self.limit_headers(account, Instant::now());
        let broken = self.began.elapsed() < behaviour.outage;
        let (least, most) = behaviour.latency;
        let latency = least + self.up_to(most.saturating_sub(least));
        sleep(latency).await;
        let fate: f64 = self.state().rng.random();
        if fate < behaviour.lost {
            return Err(Error::Unanswered("the connection was reset".to_owned()));
        }
        if broken || fate < behaviour.lost + behaviour.errors {
            let body = r#"{"error":{"message":"oops","type":"server_error"}}"#;
            return Ok(self.answer(500, HeaderMap::new(), body));
        }
        let body = String::from_utf8_lossy(&request.body).into_owned();
        Ok(self.answer(
            200,
            headers,
            &format!(r#"{{"choices":[{{}}],"echo":{body}}}"#),
        ))
    }
}

impl SimCounting {
    /// Returns the used amount of a limit at `now`, and the time until the whole limit is available again.
    fn used(
        self,
        arrivals: &[Instant],
        origin: Instant,
        limit: usize,
        per: Duration,
        now: Instant,
    ) -> (usize, Duration) {
        let Some(last) = arrivals.last() else {
            return (0, Duration::ZERO);
        };
        match self {
            SimCounting::Sliding => {
                let whole_at = *last + per;
                let used = arrivals_within(arrivals, per, now);
                (used, whole_at.saturating_duration_since(now))
            }
            SimCounting::Fixed | SimCounting::Clock => {
                let clock = PeriodClock { origin, per };
                (clock.arrivals_with(arrivals, now), clock.rest(now))
            }
            SimCounting::Bucket => {
                let bucket = SimBucket::after(arrivals, limit, per);
                #[expect(clippy::cast_precision_loss, reason = "limits are small")]
                let used = limit as f64 - bucket.level;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and the limit"
                )]
                let whole = used.ceil() as usize;
                (whole, Duration::from_secs_f64(used / bucket.rate))
            }
        }
    }
}

/// Returns a moment at which a period of the absolute clock begins, for a provider that began at `began`.
fn clock_origin(began: Instant, per: Duration) -> Instant {
    let past = per.mul_f64(0.6);
    began.checked_sub(past).unwrap_or(began)
}

/// Returns the wait if the last arrival exceeds the limit in its period of a clock that starts at `origin`.
fn refused_by_clock(
    arrivals: &[Instant],
    origin: Instant,
    limit: usize,
    per: Duration,
) -> Option<Duration> {
    let last = *arrivals.last()?;
    let clock = PeriodClock { origin, per };
    let count = clock.arrivals_with(arrivals, last);
    (count > limit).then(|| clock.rest(last))
}

/// A clock of periods of length `per`, of which one starts at `origin`.
struct PeriodClock {
    origin: Instant,
    per: Duration,
}

impl PeriodClock {
    /// Returns the number of the period that holds `at`, and the nanoseconds since its start.
    fn place(&self, at: Instant) -> (u128, u128) {
        let since = at.duration_since(self.origin).as_nanos();
        let period = self.per.as_nanos().max(1);
        (since / period, since % period)
    }

    /// Returns the time from `at` until the end of its period.
    fn rest(&self, at: Instant) -> Duration {
        let (_, elapsed) = self.place(at);
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.per - Duration::from_nanos(elapsed)
    }

    /// Returns the number of the latest arrivals in the period of `at`.
    fn arrivals_with(&self, arrivals: &[Instant], at: Instant) -> usize {
        let (period, _) = self.place(at);
        let arrivals = arrivals.iter().rev();
        let same = arrivals.take_while(|arrival| self.place(**arrival).0 == period);
        same.count()
    }
}

/// Returns the number of arrivals that are at most `per` before `now`.
fn arrivals_within(arrivals: &[Instant], per: Duration, now: Instant) -> usize {
    let arrivals = arrivals.iter().rev();
    let within = arrivals.take_while(|at| now.duration_since(**at) <= per);
    within.count()
}

/// Returns the wait if the last arrival exceeds the limit in the period that ends with it.
fn refused_by_window(arrivals: &[Instant], limit: usize, per: Duration) -> Option<Duration> {
    let now = *arrivals.last()?;
    let count = arrivals_within(arrivals, per, now);
    let oldest = arrivals[arrivals.len() - count];
    (count > limit).then(|| per - now.duration_since(oldest))
}

/// Returns the key of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}

/// Returns the wait if the last arrival finds less than one call in a bucket that was full at the first arrival.
fn refused_by_bucket(arrivals: &[Instant], limit: usize, per: Duration) -> Option<Duration> {
    let bucket = SimBucket::after(arrivals, limit, per);
    let wait = bucket.missing / bucket.rate;
    (bucket.missing > 0.0).then(|| Duration::from_secs_f64(wait))
}

/// A bucket that was full at the first arrival, in its state after the last one.
struct SimBucket {
    /// The calls that refill in a second.
    rate: f64,
    level: f64,
    /// The share of a call that was missing at the last arrival.
    missing: f64,
}

impl SimBucket {
    fn after(arrivals: &[Instant], limit: usize, per: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "limits are small")]
        let size = limit as f64;
        let mut bucket = Self {
            rate: size / per.as_secs_f64(),
            level: size,
            missing: 0.0,
        };
        let mut before = arrivals.first().copied();
        for at in arrivals {
            let since = at.duration_since(before.replace(*at).unwrap_or(*at));
            let refilled = since.as_secs_f64() * bucket.rate;
            bucket.level = (bucket.level + refilled).min(size);
            bucket.missing = (1.0 - bucket.level).max(0.0);
            // A refused call takes nothing.
            if bucket.missing <= 1e-9 {
                bucket.level -= 1.0;
                bucket.missing = 0.0;
            }
        }
        bucket
    }
}
