//! The pools of a run, and the end of the run where no account of one can serve it any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::Instant;

use crate::control::messages::{AccountReport, AccountsReport};
use crate::nats::connection::Error;

/// The time to wait for accounts that no call has ever reached.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pools none of whose accounts can be reached, and since when.
#[derive(Debug, Default)]
pub(super) struct PoolWatch(HashMap<String, Instant>);

impl PoolWatch {
    /// Returns the accounts that serve `pools`. `has_progress` is true once a line of this run has ended.
    ///
    /// # Errors
    /// Returns an error when no account of a pool can serve it any more.
    pub(super) fn check(
        &mut self,
        report: &AccountsReport,
        pools: &BTreeMap<&str, usize>,
        has_progress: bool,
    ) -> Result<Vec<AccountReport>, Error> {
        let mut used_names = HashSet::new();
        for (pool, names) in &report.pools {
            if !pools.contains_key(pool.as_str()) {
                continue;
            }
            used_names.extend(names);
            let is_of_pool = |account: &&AccountReport| names.contains(&account.name);
            let accounts = report.accounts.iter();
            let accounts: Vec<_> = accounts.filter(is_of_pool).collect();
            if are_all(&accounts, AccountReport::is_shut) {
                return Err(Error::Unreachable(anyhow!(
                    "no account serves pool `{pool}` any more ({}); correct that and run the same command again to go on",
                    reasons(&accounts)
                )));
            }
            self.give_up_unreachable(pool, &accounts, has_progress)?;
        }
        let is_used = |account: &&AccountReport| used_names.contains(&account.name);
        let accounts = report.accounts.iter();
        Ok(accounts.filter(is_used).cloned().collect())
    }

    /// Ends the run if no call ever reached a pool's accounts: a wrong address is likelier than an
    /// outage. A later outage is waited out.
    fn give_up_unreachable(
        &mut self,
        pool: &str,
        accounts: &[&AccountReport],
        has_progress: bool,
    ) -> Result<(), Error> {
        let unreachable = are_all(accounts, AccountReport::is_unreachable);
        if !unreachable || has_progress {
            self.0.remove(pool);
            return Ok(());
        }
        let since = *self.0.entry(pool.to_owned()).or_insert_with(Instant::now);
        if since.elapsed() < UNREACHABLE_TIMEOUT {
            return Ok(());
        }
        Err(Error::Unreachable(anyhow!(
            "no account of pool `{pool}` can be reached ({}); correct that and run the same command again to go on",
            reasons(accounts)
        )))
    }
}

/// Returns true if there are accounts and all of them have a property.
fn are_all(accounts: &[&AccountReport], has: fn(&AccountReport) -> bool) -> bool {
    !accounts.is_empty() && accounts.iter().all(|account| has(account))
}

fn reasons(accounts: &[&AccountReport]) -> String {
    let reasons = accounts.iter().flat_map(|account| account.reasons());
    reasons.collect::<Vec<_>>().join(", ")
}
