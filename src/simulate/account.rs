//! An account's limits, enforced to the letter.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How a period is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// No trailing period holds more than the limit.
    #[default]
    Sliding,
    /// No period of a clock that starts with the account holds more than the limit.
    Fixed,
    /// A bucket of the limit's size that refills evenly.
    Bucket,
}

/// What its answers tell of its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Headers {
    /// The tightest limit in every answer, and how long to wait after a refusal.
    #[default]
    Limits,
    /// How long to wait after a refusal.
    Waits,
    /// Nothing.
    None,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// Its keys.
    pub keys: Vec<String>,
    /// Calls and period.
    pub limits: Vec<(u64, Duration)>,
    /// How periods are counted.
    pub algorithm: Algorithm,
    /// Calls at once.
    pub concurrent: Option<u64>,
    /// What its answers tell.
    pub headers: Headers,
}

impl Config {
    /// Calls a second that the tightest limit allows.
    pub fn requests_per_second(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
        let rates = self.limits.iter().map(|(limit, per)| *limit as f64 / per.as_secs_f64());
        rates.reduce(f64::min)
    }
}

impl FromStr for Config {
    type Err = String;

    /// Reads `name=one,key=sk-one,limit=600/1m,algorithm=sliding,concurrent=8,headers=waits`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut config = Config {
            name: String::new(),
            keys: Vec::new(),
            limits: Vec::new(),
            algorithm: Algorithm::default(),
            concurrent: None,
            headers: Headers::default(),
        };
        for part in text.split(',') {
            let (field, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is no FIELD=VALUE"))?;
            match field {
                "name" => config.name = value.to_owned(),
                "key" => config.keys.push(value.to_owned()),
                "limit" => config.limits.push(limit(value)?),
                "algorithm" => {
                    config.algorithm = match value {
                        "sliding" => Algorithm::Sliding,
                        "fixed" => Algorithm::Fixed,
                        "bucket" => Algorithm::Bucket,
                        _ => return Err(format!("`{value}` is not sliding, fixed or bucket")),
                    }
                }
                "concurrent" => {
                    config.concurrent = Some(value.parse().map_err(|_| format!("`{value}` is no number"))?);
                }
                "headers" => {
                    config.headers = match value {
                        "limits" => Headers::Limits,
                        "waits" => Headers::Waits,
                        "none" => Headers::None,
                        _ => return Err(format!("`{value}` is not limits, waits or none")),
                    }
                }
                _ => {
                    return Err(format!(
                        "`{field}` is not one of name, key, limit, algorithm, concurrent, headers"
                    ));
                }
            }
        }
        if config.name.is_empty() || config.keys.is_empty() {
            return Err("needs name=NAME and at least one key=KEY".to_owned());
        }
        Ok(config)
    }
}

fn limit(text: &str) -> Result<(u64, Duration), String> {
    let wrong = || format!("`{text}` is no limit, write for example 600/1m");
    let (calls, per) = text.split_once('/').ok_or_else(wrong)?;
    let calls = calls.parse().ok().filter(|calls| *calls > 0).ok_or_else(wrong)?;
    let per = humantime::parse_duration(per).ok().filter(|per| !per.is_zero()).ok_or_else(wrong)?;
    Ok((calls, per))
}

/// A running account.
#[derive(Debug)]
pub(super) struct Account {
    config: Config,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    windows: Vec<Window>,
    running: u64,
}

/// What an account says to one call; while it lives, the call counts among those at once.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    account: &'a Account,
    /// The tightest limit.
    pub(super) limit: Option<u64>,
    /// What is left of it.
    pub(super) remaining: u64,
    /// When all of it is back.
    pub(super) whole_in: Duration,
    /// The wait, when the call is refused.
    pub(super) refused: Option<Duration>,
}

impl Account {
    pub(super) fn new(config: Config) -> Self {
        let windows = config.limits.iter().map(|(limit, per)| Window::new(config.algorithm, *limit, *per));
        let state = State { windows: windows.collect(), running: 0 };
        Self { config, state: Mutex::new(state) }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// The name of a key in the record: its place in the account.
    pub(super) fn key_name(&self, key: &str) -> Option<String> {
        let index = self.config.keys.iter().position(|known| known == key)?;
        Some(format!("key-{}", index + 1))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call at `now`; refused calls count too, as at OpenAI.
    pub(super) fn admit(&self, now: Instant) -> Admission<'_> {
        let mut state = self.state();
        let busy = self.config.concurrent.is_some_and(|most| state.running >= most);
        let mut admission =
            Admission { account: self, limit: None, remaining: 0, whole_in: Duration::ZERO, refused: None };
        for window in &mut state.windows {
            let refused = window.count(now);
            admission.refused = admission.refused.max(refused);
            let (remaining, whole_in) = window.rest(now);
            if admission.limit.is_none() || remaining < admission.remaining {
                admission.limit = Some(window.limit);
                admission.remaining = remaining;
                admission.whole_in = whole_in;
            }
        }
        if busy && admission.refused.is_none() {
            admission.refused = Some(Duration::from_secs(1));
        }
        if admission.refused.is_none() {
            state.running += 1;
        }
        admission
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.refused.is_none() {
            self.account.state().running -= 1;
        }
    }
}

#[derive(Debug)]
struct Window {
    algorithm: Algorithm,
    limit: u64,
    per: Duration,
    /// Sliding: when each counted call came. Fixed: only how many there are counts.
    calls: VecDeque<Instant>,
    /// Fixed: the start of the running period. Bucket: when it was last filled.
    since: Option<Instant>,
    /// Bucket: what is in it.
    level: f64,
}

impl Window {
    fn new(algorithm: Algorithm, limit: u64, per: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
        let level = limit as f64;
        Self { algorithm, limit, per, calls: VecDeque::new(), since: None, level }
    }

    fn used(&self) -> u64 {
        self.calls.len() as u64
    }

    /// Counts a call; returns the wait if it is one too many.
    fn count(&mut self, now: Instant) -> Option<Duration> {
        self.advance(now);
        match self.algorithm {
            Algorithm::Sliding => {
                self.calls.push_back(now);
                if self.used() <= self.limit {
                    return None;
                }
                let index = usize::try_from(self.used() - self.limit - 1).unwrap_or(usize::MAX);
                let oldest = self.calls.get(index).copied().unwrap_or(now);
                Some((oldest + self.per).saturating_duration_since(now))
            }
            Algorithm::Fixed => {
                self.calls.push_back(now);
                let end = self.since.unwrap_or(now) + self.per;
                (self.used() > self.limit).then(|| end.saturating_duration_since(now))
            }
            Algorithm::Bucket => {
                if self.level >= 1.0 {
                    self.level -= 1.0;
                    return None;
                }
                #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
                let missing = self.per.mul_f64((1.0 - self.level) / self.limit as f64);
                Some(missing)
            }
        }
    }

    fn advance(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        match self.algorithm {
            Algorithm::Sliding => {
                // Strict: a call that came exactly a period ago still counts.
                while self.calls.front().is_some_and(|first| now.saturating_duration_since(*first) > self.per)
                {
                    self.calls.pop_front();
                }
            }
            Algorithm::Fixed => {
                let elapsed = now.saturating_duration_since(since);
                if elapsed >= self.per {
                    let periods = elapsed.as_nanos() / self.per.as_nanos().max(1);
                    self.since = Some(since + self.per * u32::try_from(periods).unwrap_or(u32::MAX));
                    self.calls.clear();
                }
            }
            Algorithm::Bucket => {
                let elapsed = now.saturating_duration_since(since).as_secs_f64() / self.per.as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
                let limit = self.limit as f64;
                self.level = (self.level + elapsed * limit).min(limit);
                self.since = Some(now);
            }
        }
    }

    /// What is left, and when all of it is back.
    fn rest(&self, now: Instant) -> (u64, Duration) {
        match self.algorithm {
            Algorithm::Sliding => {
                let last = self.calls.back().copied().unwrap_or(now);
                let whole = (last + self.per).saturating_duration_since(now);
                (self.limit.saturating_sub(self.used()), whole)
            }
            Algorithm::Fixed => {
                let end = self.since.unwrap_or(now) + self.per;
                (self.limit.saturating_sub(self.used()), end.saturating_duration_since(now))
            }
            Algorithm::Bucket => {
                #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
                let limit = self.limit as f64;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a level is between 0 and the limit"
                )]
                let left = self.level as u64;
                (left, self.per.mul_f64((limit - self.level) / limit))
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a moment to count from")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn account(algorithm: &str) -> Account {
        Account::new(format!("name=a,key=k,limit=3/1s,algorithm={algorithm}").parse().expect("a config"))
    }

    fn admitted(account: &Account, now: Instant, calls: usize) -> usize {
        (0..calls).filter(|_| account.admit(now).refused.is_none()).count()
    }

    #[test]
    fn a_sliding_window_never_holds_more_than_its_limit() {
        let account = account("sliding");
        let start = Instant::now();
        assert_eq!(admitted(&account, start, 3), 3);
        assert_eq!(admitted(&account, start + SECOND, 1), 0, "exactly a second later they still count");
        assert_eq!(
            admitted(&account, start + SECOND + Duration::from_millis(1), 3),
            2,
            "and so does the refused one"
        );
    }

    #[test]
    fn a_fixed_window_begins_anew() {
        let account = account("fixed");
        let start = Instant::now();
        assert_eq!(admitted(&account, start + SECOND / 2, 4), 3);
        assert_eq!(admitted(&account, start + SECOND * 3 / 2, 4), 3);
    }

    #[test]
    fn a_bucket_refills_evenly() {
        let account = account("bucket");
        let start = Instant::now();
        assert_eq!(admitted(&account, start, 5), 3);
        let refused = account.admit(start).refused.expect("empty");
        assert!(refused > Duration::from_millis(300) && refused < Duration::from_millis(340), "{refused:?}");
        assert_eq!(admitted(&account, start + Duration::from_millis(334), 2), 1);
    }

    #[test]
    fn calls_at_once_end_with_the_call() {
        let account = Account::new("name=a,key=k,concurrent=1".parse().expect("a config"));
        let now = Instant::now();
        let first = account.admit(now);
        assert!(first.refused.is_none());
        assert!(account.admit(now).refused.is_some());
        drop(first);
        assert!(account.admit(now).refused.is_none());
    }

    #[test]
    fn a_config_that_cannot_be_meant_says_why() {
        for (text, expected) in [
            ("name=a", "key=KEY"),
            ("name=a,key=k,limit=600", "600/1m"),
            ("name=a,key=k,limit=0/1m", "0/1m"),
            ("name=a,key=k,colour=blue", "colour"),
            ("name", "FIELD=VALUE"),
        ] {
            let error = text.parse::<Config>().expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
