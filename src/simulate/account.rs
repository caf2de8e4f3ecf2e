//! An account's limits, enforced to the letter.

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::window::{Algorithm, Window};

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
    /// Tokens and period.
    pub tokens: Vec<(u64, Duration)>,
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

    /// Reads `name=one,key=sk-one,limit=600/1m,tokens=200000/1m,algorithm=sliding,concurrent=8,headers=waits`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut config = Config {
            name: String::new(),
            keys: Vec::new(),
            limits: Vec::new(),
            tokens: Vec::new(),
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
                "tokens" => config.tokens.push(limit(value)?),
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
                        "`{field}` is not one of name, key, limit, tokens, algorithm, concurrent, headers"
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
    calls: Vec<Window>,
    tokens: Vec<Window>,
    running: u64,
}

/// What an account says to one call; while it lives, the call counts among those at once.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    account: &'a Account,
    /// The tightest limit on calls.
    pub(super) calls: Option<Rest>,
    /// The tightest limit on tokens.
    pub(super) tokens: Option<Rest>,
    /// Why the call is refused, if it is.
    pub(super) refused: Option<Refused>,
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    /// The whole limit.
    pub(super) limit: u64,
    /// What is left of it.
    pub(super) remaining: u64,
    /// When all of it is back.
    pub(super) whole_in: Duration,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Calls: too many; may come again after this.
    Calls(Duration),
    /// Tokens: too many; may come again after this.
    Tokens(Duration),
    /// It has more tokens than a whole limit.
    TooLarge,
}

impl Account {
    pub(super) fn new(config: Config) -> Self {
        let windows = |limits: &[(u64, Duration)]| {
            limits.iter().map(|(limit, per)| Window::new(config.algorithm, *limit, *per)).collect()
        };
        let state = State { calls: windows(&config.limits), tokens: windows(&config.tokens), running: 0 };
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

    /// Counts a call of so many tokens at `now`. Refused calls count as calls too, as at OpenAI, but not in
    /// a bucket; their tokens do not.
    pub(super) fn admit(&self, tokens: u64, now: Instant) -> Admission<'_> {
        let mut state = self.state();
        let busy = self.config.concurrent.is_some_and(|most| state.running >= most);
        let wait =
            |windows: &mut [Window], share| windows.iter_mut().filter_map(|w| w.wait(share, now)).max();
        // Both are asked, so that what is told of either is as of now.
        let (calls, held) = (wait(&mut state.calls, 1), wait(&mut state.tokens, tokens));
        let mut refused = calls.map(Refused::Calls);
        if self.config.tokens.iter().any(|(limit, _)| tokens > *limit) {
            refused = Some(Refused::TooLarge);
        }
        refused = refused.or_else(|| held.map(Refused::Tokens));
        refused = refused.or_else(|| busy.then_some(Refused::Calls(Duration::from_secs(1))));
        for window in &mut state.calls {
            if refused.is_none() || window.counts_refused() {
                window.take(1, now);
            }
        }
        if refused.is_none() {
            state.tokens.iter_mut().for_each(|window| window.take(tokens, now));
            state.running += 1;
        }
        let tightest =
            |windows: &[Window]| windows.iter().map(|w| w.rest(now)).min_by_key(|rest| rest.remaining);
        Admission { account: self, calls: tightest(&state.calls), tokens: tightest(&state.tokens), refused }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.refused.is_none() {
            self.account.state().running -= 1;
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
        (0..calls).filter(|_| account.admit(0, now).refused.is_none()).count()
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
        let Some(Refused::Calls(refused)) = account.admit(0, start).refused else { panic!("empty") };
        assert!(refused > Duration::from_millis(300) && refused < Duration::from_millis(340), "{refused:?}");
        assert_eq!(admitted(&account, start + Duration::from_millis(334), 2), 1);
    }

    #[test]
    fn tokens_are_counted_beside_calls_and_a_refused_call_takes_none() {
        let account = Account::new("name=a,key=k,limit=9/1s,tokens=100/1s".parse().expect("a config"));
        let now = Instant::now();
        assert_eq!(account.admit(60, now).refused, None);
        assert_eq!(account.admit(60, now).refused, Some(Refused::Tokens(SECOND)));
        assert_eq!(account.admit(40, now).refused, None);
        assert_eq!(account.admit(101, now).refused, Some(Refused::TooLarge));
        let rest = account.admit(0, now).tokens.expect("a limit");
        assert_eq!((rest.limit, rest.remaining), (100, 0));
    }

    #[test]
    fn a_call_refused_for_calls_is_told_what_is_left_of_tokens_now() {
        let account = Account::new("name=a,key=k,limit=1/1m,tokens=100/1s".parse().expect("a config"));
        let now = Instant::now();
        assert_eq!(account.admit(60, now).refused, None);
        let refused = account.admit(10, now + 2 * SECOND);
        assert!(matches!(refused.refused, Some(Refused::Calls(_))));
        assert_eq!(refused.tokens.map(|rest| rest.remaining), Some(100));
    }

    #[test]
    fn calls_at_once_end_with_the_call() {
        let account = Account::new("name=a,key=k,concurrent=1".parse().expect("a config"));
        let now = Instant::now();
        let first = account.admit(0, now);
        assert!(first.refused.is_none());
        assert!(account.admit(0, now).refused.is_some());
        drop(first);
        assert!(account.admit(0, now).refused.is_none());
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
