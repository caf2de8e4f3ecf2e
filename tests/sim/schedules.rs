//! Many schedules, drawn from seeds.

use std::time::Duration;

use crate::schedule::{Limits, MILLI, Schedule};

#[tokio::test(start_paused = true)]
async fn calm_schedules_lose_nothing_and_are_refused_nothing() {
    for seed in 0..60 {
        let run = Schedule::calm(seed).run().await;
        run.nothing_lost().all_succeeded().nothing_leaked().no_refusal();
    }
}

#[tokio::test(start_paused = true)]
async fn faults_lose_nothing() {
    for seed in 1_000..1_040 {
        let run = Schedule::stormy(seed).run().await;
        run.nothing_lost().nothing_leaked().no_refusal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_drained_at_nearly_the_allowed_rate() {
    for seed in 2_000..2_010 {
        let mut schedule = Schedule::calm(seed);
        schedule.accounts = vec![
            Limits { requests: 100, per: Duration::from_secs(10), configured: 100 },
            Limits { requests: 50, per: Duration::from_secs(10), configured: 50 },
        ];
        (schedule.jobs, schedule.gap) = (600, Duration::ZERO);
        schedule.behaviour.send_delay = 3 * MILLI;
        let run = schedule.run().await;
        run.nothing_lost().all_succeeded().nothing_leaked().no_refusal();
        for account in 0..2 {
            let share = run.share(account);
            assert!(share >= 0.97, "seed {seed}: account {account} at {share}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lower_than_configured_costs_refusals_and_nothing_else() {
    for seed in 3_000..3_010 {
        let mut schedule = Schedule::calm(seed);
        schedule.accounts = vec![
            Limits { requests: 10, per: Duration::from_secs(5), configured: 20 },
            Limits { requests: 20, per: Duration::from_secs(5), configured: 20 },
        ];
        let run = schedule.run().await;
        run.nothing_lost().all_succeeded().nothing_leaked();
        let attempts = run.queue.completions().into_iter().flat_map(|completion| completion.attempts);
        let refused = attempts.filter(|attempt| attempt.outcome == "rate_limited").count();
        assert_eq!(refused, run.upstream.refusals(), "seed {seed}");
        // Each refusal cools the account until its window has room, so there are fewer than answers.
        assert!(refused > 0 && refused < 200, "seed {seed}: {refused} refusals in 200 jobs");
    }
}
