//! Admission of calls: the limits of an account, enforced to the letter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::account::{Config, PeriodLimit};
use super::cost::TokenCount;
use super::window::{PeriodWindow, RemainingLimit};
use parking_lot::{Mutex, MutexGuard};

/// An account that counts its calls.
#[derive(Debug)]
pub(super) struct LimitedAccount {
    config: Config,
    state: Mutex<AccountUsage>,
}

/// The counts of an account: a window for each limit, and the calls in flight.
#[derive(Debug)]
struct AccountUsage {
    calls: Vec<PeriodWindow>,
    tokens: Vec<PeriodWindow>,
    input: Vec<PeriodWindow>,
    output: Vec<PeriodWindow>,
    running: u64,
}

/// The decision of an account about one call. An admitted call is in flight until this is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    account: Arc<LimitedAccount>,
    at: Instant,
    cost: TokenCount,
    /// The rest of each limit after the decision.
    pub(super) left: RemainingLimits,
    /// The reason of a refusal; `None` if the call is admitted.
    pub(super) refused: Option<RefusalReason>,
    /// The limit that refuses the call; `None` without a refusal and for a refusal by calls in flight.
    pub(super) refusing_limit: Option<RemainingLimit>,
}

/// The rest of each limit of an account.
#[derive(Debug, Default)]
pub(super) struct RemainingLimits {
    pub(super) calls: Vec<RemainingLimit>,
    pub(super) tokens: Vec<RemainingLimit>,
    pub(super) input: Vec<RemainingLimit>,
    pub(super) output: Vec<RemainingLimit>,
}

/// Returns the limit with the least rest.
pub(super) fn tightest(rests: &[RemainingLimit]) -> Option<RemainingLimit> {
    let tightest = rests.iter().min_by_key(|rest| rest.remaining);
    tightest.copied()
}

/// The reason of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusalReason {
    /// Too many calls; the duration is the wait until a retry.
    Calls(Duration),
    /// Too many tokens; the duration is the wait until a retry.
    Tokens(Duration),
    /// Too many tokens of prompts; the duration is the wait until a retry.
    Input(Duration),
    /// Too many tokens of answers; the duration is the wait until a retry.
    Output(Duration),
    /// The call has more tokens than a whole limit.
    TooLarge,
    /// Too many calls in flight.
    Busy,
}

impl RefusalReason {
    /// Returns how long to wait until a retry; `None` if a wait does not help.
    pub(super) fn wait(self) -> Option<Duration> {
        match self {
            RefusalReason::Calls(wait)
            | RefusalReason::Tokens(wait)
            | RefusalReason::Input(wait)
            | RefusalReason::Output(wait) => Some(wait),
            RefusalReason::Busy => Some(Duration::from_secs(1)),
            RefusalReason::TooLarge => None,
        }
    }
}

/// Returns the longest wait until `share` fits into each window, and the limit of that window.
fn longest_wait(
    windows: &mut [PeriodWindow],
    share: u64,
    now: Instant,
) -> Option<(Duration, RemainingLimit)> {
    let waits = windows.iter_mut().filter_map(|window| {
        let wait = window.wait(share, now)?;
        Some((wait, window.rest(now)))
    });
    waits.max_by_key(|(wait, _)| *wait)
}

fn take(windows: &mut [PeriodWindow], share: u64, now: Instant) {
    for window in windows {
        window.take(share, now);
    }
}

/// Returns true if `share` is larger than one of the limits.
fn exceeds(limits: &[PeriodLimit], share: u64) -> bool {
    limits.iter().any(|(limit, _)| share > *limit)
}

impl AccountUsage {
    fn rests(&self, now: Instant) -> RemainingLimits {
        let rests = |windows: &[PeriodWindow]| {
            let rests = windows.iter().map(|window| window.rest(now));
            rests.collect()
        };
        RemainingLimits {
            calls: rests(&self.calls),
            tokens: rests(&self.tokens),
            input: rests(&self.input),
            output: rests(&self.output),
        }
    }

    /// Returns the reason why a call of this cost is refused, and the limit that refuses it, if one does.
    fn refusal(
        &mut self,
        config: &Config,
        cost: TokenCount,
        now: Instant,
    ) -> Option<(RefusalReason, Option<RemainingLimit>)> {
        // Every window advances to now, so that the rest of each is current.
        let calls = longest_wait(&mut self.calls, 1, now);
        let tokens = longest_wait(&mut self.tokens, cost.tokens, now);
        let input = longest_wait(&mut self.input, cost.input, now);
        // The length of the answer is not known yet. The call is admitted while any tokens of answers are left.
        let output = longest_wait(&mut self.output, 1, now);
        let too_large =
            exceeds(&config.tokens, cost.tokens) || exceeds(&config.input_tokens, cost.input);
        let busy = config.concurrent.is_some_and(|most| self.running >= most);
        if too_large {
            let refusing_limit = tokens.or(input).map(|(_, rest)| rest);
            Some((RefusalReason::TooLarge, refusing_limit))
        } else if let Some((wait, rest)) = calls {
            Some((RefusalReason::Calls(wait), Some(rest)))
        } else if let Some((wait, rest)) = tokens {
            Some((RefusalReason::Tokens(wait), Some(rest)))
        } else if let Some((wait, rest)) = input {
            Some((RefusalReason::Input(wait), Some(rest)))
        } else if let Some((wait, rest)) = output {
            Some((RefusalReason::Output(wait), Some(rest)))
        } else {
            busy.then_some((RefusalReason::Busy, None))
        }
    }
}

impl LimitedAccount {
    pub(super) fn new(config: Config) -> Arc<Self> {
        let windows = |limits: &[PeriodLimit], algorithm| {
            let window = |(limit, per): &PeriodLimit| {
                PeriodWindow::new(algorithm, *limit, config.scaled(*per), *per)
            };
            limits.iter().map(window).collect()
        };
        let of_tokens = config.tokens_algorithm.unwrap_or(config.algorithm);
        let state = AccountUsage {
            calls: windows(&config.limits, config.algorithm),
            tokens: windows(&config.tokens, of_tokens),
            input: windows(&config.input_tokens, of_tokens),
            output: windows(&config.output_tokens, of_tokens),
            running: 0,
        };
        Arc::new(Self {
            config,
            state: Mutex::new(state),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the name of a key in the record, which is its place in the account.
    pub(super) fn key_name(&self, key: &str) -> Option<String> {
        let mut keys = self.config.keys.iter();
        let index = keys.position(|known| known == key)?;
        Some(format!("key-{}", index + 1))
    }

    fn state(&self) -> MutexGuard<'_, AccountUsage> {
        self.state.lock()
    }

    /// Decides about a call of this cost at `now` and counts it. A refused call counts against limits on calls too,
    /// as at OpenAI, but not in a bucket. Its tokens do not count.
    pub(super) fn admit(self: &Arc<Self>, cost: TokenCount, now: Instant) -> Admission {
        let mut state = self.state();
        let refused = state.refusal(&self.config, cost, now);
        for window in &mut state.calls {
            if refused.is_none() || window.counts_refused() {
                window.take(1, now);
            }
        }
        if refused.is_none() {
            take(&mut state.tokens, cost.tokens, now);
            take(&mut state.input, cost.input, now);
            state.running += 1;
        }
        let left = state.rests(now);
        let (refused, refusing_limit) = refused.unzip();
        let refusing_limit = refusing_limit.flatten();
        Admission {
            account: Arc::clone(self),
            at: now,
            cost,
            left,
            refused,
            refusing_limit,
        }
    }
}

impl Admission {
    /// Counts the real cost of the call instead of its cost at admission.
    pub(super) fn settle(&self, cost: TokenCount, now: Instant) {
        let (before, at) = (self.cost, self.at);
        let mut state = self.account.state();
        for window in &mut state.tokens {
            window.amend(at, before.tokens, cost.tokens);
        }
        for window in &mut state.input {
            window.amend(at, before.input, cost.input);
        }
        take(&mut state.output, cost.output, now);
    }
}

impl Drop for Admission {
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

    fn account(text: &str) -> Arc<LimitedAccount> {
        LimitedAccount::new(format!("name=a,key=k,{text}").parse().expect("a config"))
    }

    fn of(tokens: u64) -> TokenCount {
        TokenCount {
            tokens,
            input: tokens,
            output: 0,
        }
    }

    fn admitted(account: &Arc<LimitedAccount>, now: Instant, calls: usize) -> usize {
        (0..calls)
            .filter(|_| account.admit(of(0), now).refused.is_none())
            .count()
    }

    #[test]
    fn a_sliding_window_never_holds_more_than_its_limit() {
        let account = account("limit=3/1s,algorithm=sliding");
        let start = Instant::now();
        assert_eq!(admitted(&account, start, 3), 3);
        assert_eq!(
            admitted(&account, start + SECOND, 1),
            0,
            "exactly a second later they still count"
        );
        assert_eq!(
            admitted(&account, start + SECOND + Duration::from_millis(1), 3),
            2,
            "and so does the refused one"
        );
    }

    #[test]
    fn a_fixed_window_begins_again() {
        let account = account("limit=3/1s,algorithm=fixed");
        let start = Instant::now();
        assert_eq!(admitted(&account, start + SECOND / 2, 4), 3);
        assert_eq!(admitted(&account, start + SECOND * 3 / 2, 4), 3);
    }

    #[test]
    fn a_bucket_refills_evenly() {
        let account = account("limit=3/1s,algorithm=bucket");
        let start = Instant::now();
        assert_eq!(admitted(&account, start, 5), 3);
        let Some(RefusalReason::Calls(refused)) = account.admit(of(0), start).refused else {
            panic!("empty")
        };
        assert!(
            refused > Duration::from_millis(300) && refused < Duration::from_millis(340),
            "{refused:?}"
        );
        assert_eq!(admitted(&account, start + Duration::from_millis(334), 2), 1);
    }

    #[test]
    fn tokens_are_counted_beside_calls_and_a_refused_call_takes_none() {
        let account = account("limit=9/1s,tokens=100/1s");
        let now = Instant::now();
        assert_eq!(account.admit(of(60), now).refused, None);
        assert_eq!(
            account.admit(of(60), now).refused,
            Some(RefusalReason::Tokens(SECOND))
        );
        assert_eq!(account.admit(of(40), now).refused, None);
        assert_eq!(
            account.admit(of(101), now).refused,
            Some(RefusalReason::TooLarge)
        );
        let rest = tightest(&account.admit(of(0), now).left.tokens).expect("a limit");
        assert_eq!((rest.limit, rest.remaining), (100, 0));
    }

    #[test]
    fn a_refusal_for_calls_reports_the_tokens_that_are_left() {
        let account = account("limit=1/1m,tokens=100/1s");
        let now = Instant::now();
        assert_eq!(account.admit(of(60), now).refused, None);
        let refused = account.admit(of(10), now + 2 * SECOND);
        assert!(matches!(refused.refused, Some(RefusalReason::Calls(_))));
        assert_eq!(
            tightest(&refused.left.tokens).map(|rest| rest.remaining),
            Some(100)
        );
    }

    #[test]
    fn calls_at_once_end_with_the_call() {
        let account = account("concurrent=1");
        let now = Instant::now();
        let first = account.admit(of(0), now);
        assert!(first.refused.is_none());
        assert_eq!(account.admit(of(0), now).refused, Some(RefusalReason::Busy));
        drop(first);
        assert!(account.admit(of(0), now).refused.is_none());
    }

    #[test]
    fn what_was_reserved_is_settled() {
        for algorithm in ["sliding", "fixed", "bucket"] {
            let account = account(&format!("tokens=100/1m,algorithm={algorithm}"));
            let now = Instant::now();
            account.admit(of(80), now).settle(of(30), now);
            assert!(account.admit(of(71), now).refused.is_some(), "{algorithm}");
            let next = account.admit(of(60), now);
            assert_eq!(next.refused, None, "{algorithm}");
            next.settle(of(90), now);
            assert!(
                account.admit(of(1), now).refused.is_some(),
                "{algorithm}: more than reserved"
            );
        }
    }

    #[test]
    fn answers_count_when_they_are_made() {
        let account =
            account("input_tokens=100/1m,output_tokens=10/1m,algorithm=bucket,provider=anthropic");
        let now = Instant::now();
        account.admit(of(20), now).settle(
            TokenCount {
                output: 25,
                ..of(20)
            },
            now,
        );
        assert!(matches!(
            account.admit(of(20), now).refused,
            Some(RefusalReason::Output(_))
        ));
        assert_eq!(account.admit(of(20), now + 100 * SECOND).refused, None);
        assert_eq!(
            account.admit(of(101), now + 100 * SECOND).refused,
            Some(RefusalReason::TooLarge)
        );
    }

    #[test]
    fn a_period_is_reported_as_written_and_counted_as_scaled() {
        let account = account("limit=1/1m,scale=60,algorithm=fixed");
        let now = Instant::now();
        assert_eq!(admitted(&account, now, 2), 1);
        let next = account.admit(of(0), now + SECOND);
        assert_eq!(next.refused, None);
        assert_eq!(next.left.calls[0].per, 60 * SECOND);
    }
}
