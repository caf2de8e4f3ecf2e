//! What must hold of every run.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use forebay_schemas::{Lane, Status};
use forebay_workers::sim::upstream::SimCounting;

use crate::schedule::{Limits, Run};

impl Run {
    /// Every job has one completion, its own answer, and is acked; nothing is held.
    pub(crate) fn nothing_lost(&self) -> &Self {
        let completions = self.queue.completions();
        let ids: BTreeSet<_> = completions
            .iter()
            .map(|completion| completion.id.clone())
            .collect();
        let jobs = self.schedule.jobs;
        assert_eq!(
            (ids.len(), completions.len()),
            (jobs, jobs),
            "seed {}",
            self.schedule.seed
        );
        for completion in &completions {
            let answer = completion
                .response
                .as_ref()
                .map(|response| response.body.get());
            if completion.status == Status::Succeeded {
                let own = format!(r#""messages":[{}]"#, completion.id);
                assert!(
                    answer.is_some_and(|answer| answer.contains(&own)),
                    "{answer:?} answers {own}"
                );
            }
        }
        assert_eq!(
            self.queue.acked(),
            jobs + self.queue.postponed(),
            "seed {}",
            self.schedule.seed
        );
        assert_eq!(self.queue.held(), 0, "seed {}", self.schedule.seed);
        self
    }

    /// Every job succeeded.
    pub(crate) fn all_succeeded(&self) -> &Self {
        let failed = self
            .queue
            .completions()
            .into_iter()
            .find(|one| one.status != Status::Succeeded);
        assert!(failed.is_none(), "seed {}: {failed:?}", self.schedule.seed);
        self
    }

    /// No permit is out.
    pub(crate) fn nothing_leaked(&self) -> &Self {
        for account in self.worker.snapshot().accounts {
            assert_eq!(
                account.totals.in_flight, 0,
                "seed {}: {}",
                self.schedule.seed, account.name
            );
        }
        self
    }

    /// The provider refused nothing, and by another count no trailing window was exceeded.
    pub(crate) fn no_refusal(&self) -> &Self {
        assert_eq!(self.upstream.refusals(), 0, "seed {}", self.schedule.seed);
        let sliding = |(account, _): &(&Limits, &String)| account.counting == SimCounting::Sliding;
        for (account, key) in self
            .schedule
            .accounts
            .iter()
            .zip(&self.keys)
            .filter(sliding)
        {
            let arrivals = self.upstream.arrivals(key);
            for window in arrivals.windows(account.requests + 1) {
                let span = window[account.requests] - window[0];
                assert!(span > account.per, "seed {}: {span:?}", self.schedule.seed);
            }
        }
        self
    }

    /// While a flow has jobs that wait, it is called again within its share of turns, and as many again.
    /// For schedules that publish all at once.
    pub(crate) fn no_starvation(&self) -> &Self {
        let mut calls: Vec<_> = self.queue.completions();
        calls.sort_by_key(|completion| completion.attempts[0].started_at);
        let flows = self.schedule.flows();
        let weight = |lane| match lane {
            Lane::Interactive => 16,
            Lane::Normal => 4,
            Lane::Bulk => 1,
        };
        let mut last = HashMap::new();
        for (turn, call) in calls.iter().enumerate() {
            let flow = &flows[call.id.parse::<usize>().expect("a number")];
            let waited = turn - last.insert(flow, turn).unwrap_or(0);
            let share = 21 * self.schedule.teams.len() / weight(flow.lane);
            let most = 2 * share + flows.len() / 20;
            assert!(
                waited <= most,
                "seed {}: {flow} waited for {waited} turns",
                self.schedule.seed
            );
        }
        self
    }

    /// The share of the allowed rate that an account was used at, from its first to its last call.
    pub(crate) fn share(&self, account: usize) -> f64 {
        self.share_after(account, Duration::ZERO)
    }

    /// The same without the calls of the first `warm_up`.
    pub(crate) fn share_after(&self, account: usize, warm_up: Duration) -> f64 {
        let mut arrivals = self.upstream.accepted(&self.keys[account]);
        let begin = arrivals[0] + warm_up;
        arrivals.retain(|at| *at >= begin);
        let limits = &self.schedule.accounts[account];
        let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
            return 0.0;
        };
        let allowed = limits.requests as f64 / limits.per.as_secs_f64();
        (arrivals.len() - 1) as f64 / (*last - *first).as_secs_f64() / allowed
    }
}
