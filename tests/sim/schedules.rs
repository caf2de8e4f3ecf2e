//! Many schedules, drawn from seeds.

use std::time::Duration;

use forebay_workers::accounts::Algorithm;
use forebay_workers::sim::upstream::{SimCounting, Tells};

use jiff::SignedDuration;

use crate::schedule::{Limits, MILLI, Run, Schedule, Time};

#[tokio::test(start_paused = true)]
async fn calm_schedules_lose_nothing_and_are_refused_nothing() {
    for seed in 0..60 {
        let run = Schedule::calm(seed).run().await;
        run.nothing_lost()
            .all_succeeded()
            .nothing_leaked()
            .no_refusal();
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
async fn a_clock_that_is_set_and_an_hour_of_absence_lose_nothing_and_exceed_no_limit() {
    let hours = SignedDuration::from_hours;
    let absence = Time::Absence(Duration::from_secs(3_600));
    let times = [
        Time::Set(hours(1)),
        absence,
        Time::Set(hours(-2)),
        Time::Set(hours(24 * 30)),
        absence,
    ];
    for seed in 10_000..10_020 {
        let mut schedule = Schedule::calm(seed);
        schedule.times = times.to_vec();
        let run = schedule.run().await;
        run.nothing_lost()
            .all_succeeded()
            .nothing_leaked()
            .no_refusal();
        let mut schedule = Schedule::stormy(seed);
        schedule.times = times.iter().rev().copied().collect();
        schedule.run().await.nothing_lost().nothing_leaked();
    }
}

/// Calls of 30 s under a limit of a minute, each up to `way` under way before the provider counts it.
async fn long_calls(seed: u64, limits: &Limits, way: Duration) -> Run {
    let mut schedule = Schedule::calm(seed);
    schedule.accounts = vec![limits.clone()];
    (schedule.jobs, schedule.gap) = (60, Duration::ZERO);
    schedule.behaviour.latency = (30_000 * MILLI, 30_000 * MILLI);
    (schedule.behaviour.send_delay, schedule.behaviour.way) = (50 * MILLI, way);
    let run = schedule.run().await;
    run.nothing_lost().all_succeeded().nothing_leaked();
    run
}

#[tokio::test(start_paused = true)]
async fn long_calls_that_arrive_within_the_guard_are_never_refused_and_those_beyond_it_seldom() {
    // A five-hundredth of the minute.
    let guard = 120 * MILLI;
    let minute = Duration::from_secs(60);
    for limits in [Limits::smooth, Limits::counted] {
        for counting in [SimCounting::Sliding, SimCounting::Fixed] {
            // With one call a minute nothing evens out what single calls are late by.
            let (many, one) = (limits(30, minute, counting), limits(1, minute, counting));
            let mut beyond = 0;
            for seed in 8_000..8_004 {
                long_calls(seed, &many, guard).await.no_refusal();
                let inside = long_calls(seed, &one, guard).await;
                inside.no_refusal();
                assert!(
                    inside.share(0) >= 0.99,
                    "{counting:?}, seed {seed}: {}",
                    inside.share(0)
                );
                let refusals = long_calls(seed, &one, 2 * guard).await.upstream.refusals();
                assert!(
                    refusals <= 1,
                    "{counting:?}, seed {seed}: {refusals}; the first widens the guard"
                );
                beyond += refusals;
            }
            // A fixed window slides away from calls that are more than a period apart.
            let kept = beyond > 0 || counting == SimCounting::Fixed;
            assert!(
                kept,
                "{counting:?}: it is the guard that keeps them from being refused"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_is_down_is_left_alone_and_found_again() {
    for seed in 7_000..7_005 {
        let mut schedule = Schedule::calm(seed);
        schedule.accounts = vec![
            Limits::smooth(100, Duration::from_secs(5), SimCounting::Sliding),
            Limits::smooth(100, Duration::from_secs(5), SimCounting::Sliding),
        ];
        (schedule.jobs, schedule.gap) = (1_000, Duration::ZERO);
        (schedule.behaviour.send_delay, schedule.behaviour.latency) =
            (3 * MILLI, (50 * MILLI, 100 * MILLI));
        schedule.behaviour.outage = Duration::from_secs(120);
        let run = schedule.run().await;
        run.nothing_lost().nothing_leaked().no_refusal();
        let completions = run.queue.completions();
        let attempts = completions
            .iter()
            .flat_map(|completion| &completion.attempts);
        let failed = attempts
            .filter(|attempt| attempt.outcome == "server_error")
            .count();
        // Both accounts together could make 4,800 calls; ten fail, those under way, and then one in a break.
        assert!(
            (12..60).contains(&failed),
            "seed {seed}: {failed} calls to a provider that is down"
        );
        run.all_succeeded();
    }
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_drained_at_nearly_the_allowed_rate() {
    for seed in 2_000..2_010 {
        let mut schedule = Schedule::calm(seed);
        schedule.accounts = vec![
            Limits::smooth(100, Duration::from_secs(10), SimCounting::Sliding),
            Limits::smooth(50, Duration::from_secs(10), SimCounting::Sliding),
        ];
        (schedule.jobs, schedule.gap) = (600, Duration::ZERO);
        schedule.behaviour.send_delay = 3 * MILLI;
        let run = schedule.run().await;
        run.nothing_lost()
            .all_succeeded()
            .nothing_leaked()
            .no_refusal();
        for account in 0..2 {
            let share = run.share(account);
            assert!(share >= 0.97, "seed {seed}: account {account} at {share}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_team_and_no_lane_starves() {
    for seed in 9_000..9_010 {
        let mut schedule = Schedule::calm(seed);
        schedule.accounts = vec![Limits::smooth(
            100,
            Duration::from_secs(5),
            SimCounting::Sliding,
        )];
        (schedule.jobs, schedule.gap) = (600, Duration::ZERO);
        (schedule.behaviour.send_delay, schedule.behaviour.latency) =
            (3 * MILLI, (50 * MILLI, 100 * MILLI));
        let run = schedule.run().await;
        run.nothing_lost()
            .all_succeeded()
            .nothing_leaked()
            .no_refusal()
            .no_starvation();
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_exceeds_no_limit_long_or_short() {
    for seed in 6_000..6_020 {
        let mut schedule = Schedule::calm(seed);
        schedule.accounts = vec![
            Limits::counted(40, Duration::from_secs(600), SimCounting::Sliding),
            Limits::smooth(20, Duration::from_secs(10), SimCounting::Fixed),
        ];
        (schedule.gap, schedule.restarts) = (Duration::ZERO, 3);
        let run = schedule.run().await;
        run.nothing_lost()
            .all_succeeded()
            .nothing_leaked()
            .no_refusal();
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lower_than_configured_costs_refusals_and_nothing_else() {
    for seed in 3_000..3_010 {
        let mut schedule = Schedule::calm(seed);
        schedule.accounts = vec![
            Limits {
                configured: 20,
                ..Limits::smooth(10, Duration::from_secs(5), SimCounting::Sliding)
            },
            Limits::smooth(20, Duration::from_secs(5), SimCounting::Sliding),
        ];
        let run = schedule.run().await;
        run.nothing_lost().all_succeeded().nothing_leaked();
        let attempts = run
            .queue
            .completions()
            .into_iter()
            .flat_map(|completion| completion.attempts);
        let refused = attempts
            .filter(|attempt| attempt.outcome == "rate_limited")
            .count();
        assert_eq!(refused, run.upstream.refusals(), "seed {seed}");
        // Each refusal cools the account until its window has room, so there are fewer than answers.
        assert!(
            refused > 0 && refused < 200,
            "seed {seed}: {refused} refusals in 200 jobs"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn flows_that_go_idle_are_let_go_and_read_again_when_something_comes() {
    for seed in 5_000..5_010 {
        let mut schedule = Schedule::calm(seed);
        (schedule.jobs, schedule.gap) = (12, Duration::from_secs(100));
        let run = schedule.run().await;
        run.nothing_lost()
            .all_succeeded()
            .nothing_leaked()
            .no_refusal();
        assert!(run.queue.forgotten() > 0, "seed {seed}");
    }
}

/// An account whose limits are to be learned, asked for `minutes` of its work.
fn unknown(seed: u64, limits: Limits, minutes: usize) -> Schedule {
    let mut schedule = Schedule::calm(seed);
    let a_minute = limits.requests * 60 / usize::try_from(limits.per.as_secs()).expect("a period");
    schedule.accounts = vec![Limits {
        learned: true,
        ..limits
    }];
    (schedule.jobs, schedule.gap) = (a_minute * minutes, Duration::ZERO);
    (schedule.behaviour.send_delay, schedule.behaviour.way) = (3 * MILLI, 20 * MILLI);
    schedule.behaviour.latency = (50 * MILLI, 100 * MILLI);
    schedule
}

#[tokio::test(start_paused = true)]
async fn limits_that_headers_tell_are_reached_within_a_minute() {
    for counting in [
        SimCounting::Sliding,
        SimCounting::Fixed,
        SimCounting::Bucket,
    ] {
        for (seed, (requests, seconds)) in [(600, 60), (60, 60), (20, 1)].into_iter().enumerate() {
            let limits = Limits::smooth(requests, Duration::from_secs(seconds), counting);
            let run = unknown(
                seed as u64,
                Limits {
                    tells: Tells::Limits,
                    ..limits
                },
                3,
            )
            .run()
            .await;
            run.nothing_lost().all_succeeded().nothing_leaked();
            let (refusals, share) = (
                run.upstream.refusals(),
                run.share_after(0, Duration::from_secs(60)),
            );
            let case =
                format!("{counting:?}, {requests} per {seconds} s: {refusals} refusals, {share}");
            assert!(refusals <= 3 && share >= 0.95, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn limits_that_nobody_tells_are_found() {
    for tells in [Tells::Nothing, Tells::Waits] {
        for counting in [
            SimCounting::Sliding,
            SimCounting::Fixed,
            SimCounting::Bucket,
        ] {
            for (seed, (requests, seconds)) in [(600, 60), (60, 60), (10, 1), (6, 60)]
                .into_iter()
                .enumerate()
            {
                let limits = Limits::smooth(requests, Duration::from_secs(seconds), counting);
                let run = unknown(seed as u64, Limits { tells, ..limits }, 5)
                    .run()
                    .await;
                run.nothing_lost().all_succeeded().nothing_leaked();
                let (refusals, share) = (
                    run.upstream.refusals(),
                    run.share_after(0, Duration::from_secs(120)),
                );
                let case = format!(
                    "{tells:?}, {counting:?}, {requests} per {seconds} s: {refusals}, {share}"
                );
                // What finding a limit costs at least weighs more where there are few jobs.
                assert!(
                    refusals <= 10 + run.schedule.jobs / 100 && share >= 0.75,
                    "{case}"
                );
            }
        }
    }
}

/// Seconds that an account needs for so many calls when every one goes as soon as its provider permits.
fn oracle(jobs: usize, requests: usize, per: f64, counting: SimCounting) -> f64 {
    let bursts = (jobs - 1) / requests;
    match counting {
        SimCounting::Sliding | SimCounting::Fixed => bursts as f64 * per,
        SimCounting::Clock => (bursts as f64 - 0.6) * per,
        SimCounting::Bucket => (jobs - requests) as f64 * per / requests as f64,
    }
}

#[tokio::test(start_paused = true)]
async fn a_named_algorithm_uses_all_that_it_permits_the_first_burst_included() {
    for (counting, algorithm) in [
        (SimCounting::Sliding, Algorithm::Counted),
        (SimCounting::Fixed, Algorithm::Fixed),
        (SimCounting::Clock, Algorithm::Fixed),
        (SimCounting::Bucket, Algorithm::Bucket),
    ] {
        for seed in 4_000..4_006 {
            let mut schedule = Schedule::calm(seed);
            let limits = Limits::smooth(60, Duration::from_secs(6), counting);
            schedule.accounts = vec![Limits {
                algorithm,
                tells: Tells::Limits,
                ..limits
            }];
            (schedule.jobs, schedule.gap) = (400, Duration::ZERO);
            (schedule.behaviour.send_delay, schedule.behaviour.latency) =
                (3 * MILLI, (50 * MILLI, 200 * MILLI));
            let run = schedule.run().await;
            run.nothing_lost().all_succeeded().nothing_leaked();
            assert_eq!(run.upstream.refusals(), 0, "{counting:?}, seed {seed}");
            let arrivals = run.upstream.arrivals(&run.keys[0]);
            let took = (arrivals[399] - arrivals[0]).as_secs_f64();
            let least = oracle(400, 60, 6.0, counting);
            assert!(
                took <= least * 1.03,
                "{counting:?}, seed {seed}: {took} s, an oracle {least} s"
            );
        }
    }
}
