//! The progress of a batch on stderr: a bar on a terminal, plain lines elsewhere.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use forebay_workers::clock::{Clock as _, SystemClock};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::batch::totals::RunTotals;
use crate::control::messages::{AccessCondition, AccountReport};

/// The interval of plain lines.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// Number of samples over which the rate is calculated: about ten seconds.
const MAX_SAMPLES: usize = 11;

/// The progress of one batch.
#[derive(Debug)]
pub struct RunProgress {
    bar: Option<ProgressBar>,
    quiet: bool,
    printed: Instant,
    started: Option<Instant>,
    /// The number of calls of the worker at the last samples, the oldest first.
    samples: VecDeque<(Instant, u64)>,
    in_flight: u64,
    allowed: Option<f64>,
    done_before: Option<usize>,
    note: String,
    /// True while no call may start for a while, so that the rate until now says nothing about the rest.
    waits: bool,
    /// True until the first wait was printed.
    is_first_wait: bool,
}

fn progress_bar(lines: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(lines as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

impl RunProgress {
    /// Creates a bar if stderr is a terminal, and plain lines otherwise. With `quiet`, nothing is
    /// shown.
    pub fn new(lines: usize, quiet: bool) -> Self {
        let shows_bar = !quiet && std::io::stderr().is_terminal();
        let bar = shows_bar.then(|| progress_bar(lines));
        let now = Instant::now();
        Self {
            bar,
            quiet,
            printed: now,
            started: None,
            samples: VecDeque::new(),
            in_flight: 0,
            allowed: None,
            done_before: None,
            note: String::new(),
            waits: false,
            is_first_wait: true,
        }
    }

    /// Takes a sample of the worker's accounts.
    pub fn sample(&mut self, accounts: Vec<AccountReport>) {
        let total = |count: fn(&AccountReport) -> u64| accounts.iter().map(count).sum();
        let calls = total(|account| account.calls);
        self.samples.push_back((Instant::now(), calls));
        if self.samples.len() > MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.in_flight = total(|account| account.in_flight);
        self.allowed = accounts
            .iter()
            .map(|account| account.requests_per_second)
            .sum();
        let now = SystemClock.now();
        let waits: Vec<_> = accounts
            .iter()
            .flat_map(|account| waits(account, now))
            .collect();
        self.waits = !waits.is_empty();
        self.note = waits.join(", ");
    }

    /// Prints a line on stderr, also where no progress is shown.
    pub fn say(&self, text: &str) {
        let print = || writeln!(std::io::stderr(), "{text}");
        // If stderr is closed, nothing is shown.
        let _ = match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        };
    }

    /// Sets a note that is shown at the end of the line.
    pub fn note(&mut self, note: String) {
        self.note = note;
    }

    /// Shows the current progress.
    pub fn show(&mut self, totals: &RunTotals) {
        self.started.get_or_insert_with(Instant::now);
        self.done_before.get_or_insert(totals.done());
        if let Some(bar) = &self.bar {
            bar.set_position(totals.done() as u64);
            bar.set_message(self.line(totals));
        } else if !self.quiet && (self.printed.elapsed() >= PLAIN_INTERVAL || self.has_first_wait())
        {
            self.printed = Instant::now();
            self.print(totals);
        }
    }

    /// Returns true once, when calls wait for the first time. A person may wonder why nothing happens.
    fn has_first_wait(&mut self) -> bool {
        self.waits && std::mem::take(&mut self.is_first_wait)
    }

    /// Shows the final state.
    pub fn end(mut self, totals: &RunTotals) {
        self.note.clear();
        match &self.bar {
            Some(bar) => {
                bar.set_position(totals.done() as u64);
                bar.abandon_with_message(self.line(totals));
            }
            None if !self.quiet => self.print(totals),
            None => {}
        }
    }

    fn print(&self, totals: &RunTotals) {
        let (done, lines) = (totals.done(), totals.lines);
        // If stderr is closed, nothing is shown.
        let _ = writeln!(std::io::stderr(), "{done}/{lines} {}", self.line(totals));
    }

    fn line(&self, totals: &RunTotals) -> String {
        let waiting = totals.lines.saturating_sub(totals.done());
        let in_flight = self.in_flight.min(waiting as u64);
        let mut line = format!(
            "done, {} failed, {in_flight} in flight, {} waiting",
            totals.failed,
            waiting as u64 - in_flight
        );
        if let Some(rate) = self.rate() {
            line.push_str(&format!(" | {rate:.1}/s"));
            if let Some(allowed) = self.allowed {
                line.push_str(&format!(" of {allowed:.1}/s allowed"));
            }
        }
        if let Some(left) = self.time_left(totals) {
            line.push_str(&format!(" | {} left", humantime::format_duration(left)));
        }
        if !self.note.is_empty() {
            line.push_str(&format!(" | {}", self.note));
        }
        line
    }

    /// Returns the calls per second over the last samples.
    fn rate(&self) -> Option<f64> {
        let (first, before) = self.samples.front()?;
        let (last, calls) = self.samples.back()?;
        let elapsed = (*last - *first).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
        (elapsed > 0.0).then(|| calls.saturating_sub(*before) as f64 / elapsed)
    }

    fn time_left(&self, totals: &RunTotals) -> Option<Duration> {
        let done = totals.done() - self.done_before?;
        let left = totals.lines - totals.done();
        if done == 0 || left == 0 || self.waits {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of lines")]
        let seconds = self.started?.elapsed().as_secs_f64() / done as f64 * left as f64;
        Some(Duration::from_secs(
            Duration::try_from_secs_f64(seconds).ok()?.as_secs() + 1,
        ))
    }
}

/// Returns the keys and models of an account that calls wait for, each with the reason.
fn waits(account: &AccountReport, now: Timestamp) -> impl Iterator<Item = String> {
    account.conditions().filter_map(move |condition| {
        let why = wait_reason(condition, now)?;
        Some(format!("{}/{} {why}", account.name, condition.name))
    })
}

fn wait_reason(condition: &AccessCondition, now: Timestamp) -> Option<String> {
    let AccessCondition {
        state,
        reason,
        until,
        doubted_until,
        spent,
        ..
    } = condition;
    let left = |at: &Option<Timestamp>| at.and_then(|at| time_until(at, now));
    match (reason, spent) {
        (Some(reason), _) => {
            let next = left(until).map(|left| format!(" until the next call, in {left}"));
            let asked = left(doubted_until).map(|left| format!("; the provider asks for {left}"));
            Some(format!(
                "{state} ({reason}){}{}",
                next.unwrap_or_default(),
                asked.unwrap_or_default()
            ))
        }
        (None, Some(spent)) => Some(match time_until(spent.until, now) {
            Some(left) => format!("has spent {}, back in {left}", spent.limit),
            None => format!("has spent {}", spent.limit),
        }),
        (None, None) => None,
    }
}

/// Formats the time until `at` in whole seconds, or in whole minutes where it is long; `None` if it has passed.
fn time_until(at: Timestamp, now: Timestamp) -> Option<String> {
    let left = Duration::try_from(at.duration_since(now)).ok()?.as_secs() + 1;
    let left = if left > 3_600 { left / 60 * 60 } else { left };
    Some(humantime::format_duration(Duration::from_secs(left)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::messages::SpentReport;

    #[test]
    fn a_wait_says_until_when() {
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().expect("a time");
        let at = |text: &str| Some(text.parse::<Timestamp>().expect("a time"));
        let cooling = AccessCondition {
            name: "m".to_owned(),
            state: "cooling".to_owned(),
            reason: Some("rate_limited".to_owned()),
            until: at("2026-11-24T10:00:59.5Z"),
            doubted_until: at("2026-11-25T09:59:30Z"),
            spent: None,
            learned: Vec::new(),
        };
        assert_eq!(
            wait_reason(&cooling, now).as_deref(),
            Some(
                "cooling (rate_limited) until the next call, in 1m; the provider asks for 23h 59m"
            )
        );
        let disabled = AccessCondition {
            until: None,
            doubted_until: None,
            ..cooling.clone()
        };
        let said = wait_reason(&disabled, now);
        assert_eq!(said.as_deref(), Some("cooling (rate_limited)"));
        let spent = AccessCondition {
            reason: None,
            spent: Some(SpentReport {
                limit: "10 requests a day".to_owned(),
                until: "2026-11-24T10:00:04Z".parse().expect("a time"),
            }),
            ..disabled
        };
        let said = wait_reason(&spent, now);
        assert_eq!(
            said.as_deref(),
            Some("has spent 10 requests a day, back in 5s")
        );
    }
}
