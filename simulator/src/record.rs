//! The record of all calls to the simulated provider, and a summary of how well the client used its limits.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use super::account;
use super::fault::InjectedFault;

/// The record of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordEntry {
    /// The time of arrival, since the Unix epoch.
    pub at: Duration,
    /// The name of the account that the call's key belongs to.
    pub account: String,
    /// The key's place in the account, from `key-1`; `none` for an account without keys.
    pub key: String,
    /// The status of the answer; 0 if no whole answer was sent.
    pub status: u16,
    /// The injected fault; `None` if there was none.
    pub fault: Option<InjectedFault>,
    /// The tokens that the call counted for at its admission; 0 if the account has no limit on tokens.
    pub tokens: u64,
}

/// The record of all calls.
#[derive(Debug)]
pub(super) struct CallRecord {
    inner: Mutex<RecordState>,
}

/// The entries, and the file of the record if there is one.
type RecordState = (Vec<RecordEntry>, Option<BufWriter<File>>);

/// A line of the record's file.
#[derive(Serialize)]
struct RecordLine<'a> {
    at: f64,
    account: &'a str,
    key: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<InjectedFault>,
    #[serde(skip_serializing_if = "is_zero")]
    tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

impl CallRecord {
    pub(super) fn new(file: Option<&Path>) -> std::io::Result<Self> {
        let file = file.map(File::create).transpose()?.map(BufWriter::new);
        Ok(Self {
            inner: Mutex::new((Vec::new(), file)),
        })
    }

    pub(super) fn add(&self, entry: RecordEntry) {
        let mut inner = self.inner.lock();
        let (entries, file) = &mut *inner;
        if let Some(file) = file {
            let line = RecordLine {
                at: entry.at.as_secs_f64(),
                account: &entry.account,
                key: &entry.key,
                status: entry.status,
                fault: entry.fault,
                tokens: entry.tokens,
            };
            // A failed write leaves the record too short, which a recount shows.
            let _ = serde_json::to_writer(&mut *file, &line).map_err(std::io::Error::from);
            let _ = file.write_all(b"\n").and_then(|()| file.flush());
        }
        entries.push(entry);
    }

    pub(super) fn entries(&self) -> Vec<RecordEntry> {
        self.inner.lock().0.clone()
    }
}

/// The summary of the calls of one account, or of one of its keys.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordSummary {
    /// The name of the account.
    pub account: String,
    /// The key's place in the account; `None` for the whole account.
    pub key: Option<String>,
    /// The number of calls that arrived.
    pub calls: usize,
    /// The number of calls that were answered with status 429.
    pub refusals: usize,
    /// The rate of calls, (calls − 1) / (last − first), as a share of the allowed rate. `None` for a key, for an
    /// account without a limit on calls, and if all calls arrived at the same time.
    pub share: Option<f64>,
}

/// Summarises the record: each account, then its keys if it has several.
pub fn summarise(entries: &[RecordEntry], accounts: &[account::Config]) -> Vec<RecordSummary> {
    let mut summaries = Vec::new();
    for account in accounts {
        let of_account: Vec<_> = entries
            .iter()
            .filter(|entry| entry.account == account.name)
            .collect();
        summaries.push(summary(account, None, &of_account));
        let mut by_key: BTreeMap<&str, Vec<&RecordEntry>> = BTreeMap::new();
        for entry in of_account {
            let of_key = by_key.entry(&entry.key).or_default();
            of_key.push(entry);
        }
        if account.keys.len() > 1 {
            summaries.extend(
                by_key
                    .into_iter()
                    .map(|(key, entries)| summary(account, Some(key), &entries)),
            );
        }
    }
    summaries
}

fn summary(
    account: &account::Config,
    key: Option<&str>,
    entries: &[&RecordEntry],
) -> RecordSummary {
    let times = || entries.iter().map(|entry| entry.at);
    let span = times()
        .max()
        .zip(times().min())
        .map(|(last, first)| (last - first).as_secs_f64());
    let refusals = entries.iter().filter(|entry| entry.status == 429);
    let rate = account.requests_per_second().filter(|_| key.is_none());
    #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
    let share = span
        .zip(rate)
        .filter(|(span, _)| *span > 0.0)
        .map(|(span, rate)| (entries.len() - 1) as f64 / span / rate);
    RecordSummary {
        account: account.name.clone(),
        key: key.map(str::to_owned),
        calls: entries.len(),
        refusals: refusals.count(),
        share,
    }
}
