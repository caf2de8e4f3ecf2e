use super::*;
use crate::clock::SystemClock;
use forebay_providers::cost::{CountedTogether, LimitDimension};
use forebay_providers::registry::provider;
use forebay_providers::{Endpoint, ErrorScope, RateLimitHeaders};

const SECOND: Duration = Duration::from_secs(1);

fn per_second(limit: u64, algorithm: Algorithm) -> Limit {
    let amount = Amount::PerPeriod {
        dimension: LimitDimension::Requests,
        limit,
        per: SECOND,
        algorithm,
        day_in: None,
    };
    Limit {
        amount,
        models: None,
    }
}

fn at_once(calls: u64) -> Limit {
    Limit {
        amount: Amount::Concurrent(calls),
        models: None,
    }
}

pub(super) fn account(limits: Vec<Limit>, keys: usize) -> Arc<Account> {
    account_after(limits, keys, None)
}

fn account_after(limits: Vec<Limit>, keys: usize, spent_at: Option<Instant>) -> Arc<Account> {
    account_on(limits, keys, spent_at, Arc::new(SystemClock))
}

pub(super) fn account_on(
    limits: Vec<Limit>,
    keys: usize,
    spent_at: Option<Instant>,
    clock: Arc<dyn Clock>,
) -> Arc<Account> {
    let key = |index| AccountKey::new(format!("key-{index}"), Secret::new("s"));
    let config = Config {
        name: "q".to_owned(),
        endpoint: Endpoint::new(
            provider("openai").expect("a known provider"),
            "http://127.0.0.1",
        ),
        keys: (0..keys).map(key).collect(),
        limits,
    };
    Account::new(config, Arc::default(), Arc::default(), spent_at, clock)
}

pub(super) const ONE: CallCost = CallCost {
    requests: 1,
    input_tokens: 10,
    output_tokens: 10,
    together: CountedTogether::Sum,
};

#[tokio::test(start_paused = true)]
async fn a_slot_returns_a_period_after_the_call_was_sent_not_after_it_was_granted() {
    let account = account(vec![per_second(1, Algorithm::Counted)], 1);
    let start = Instant::now();
    let permit = account.reserve("m", ONE, start).expect("room");
    // The call waits for its connection for longer than a period.
    let sent = start + 5 * SECOND;
    assert_eq!(
        account.reserve("m", ONE, sent).err(),
        Some(Denied::UntilRelease)
    );
    permit.send_marker().sent(sent);
    let Err(Denied::Until(free)) = account.reserve("m", ONE, sent) else {
        panic!("one a second")
    };
    assert!(free > sent + SECOND, "a period and some slack");
    drop(permit);
    assert!(
        account
            .reserve("m", ONE, free - Duration::from_millis(1))
            .is_err(),
        "a sent call stays counted"
    );
    assert!(account.reserve("m", ONE, free).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_was_never_sent_gives_everything_back() {
    let shared = Limit {
        amount: Amount::Concurrent(1),
        models: Some(vec!["m".to_owned(), "n".to_owned()]),
    };
    let account = account(vec![per_second(2, Algorithm::Counted), shared], 1);
    let now = Instant::now();
    for _ in 0..100 {
        let permit = account.reserve("m", ONE, now).expect("room");
        assert_eq!(
            account.reserve("n", ONE, now).err(),
            Some(Denied::UntilRelease),
            "m and n share one place"
        );
        drop(permit);
    }
    for meter in &mut account.ledger().meters {
        assert_eq!(meter.taken(now), 0);
    }
    assert_eq!(account.snapshot(now).totals, AccountTotals::default());
}

#[tokio::test(start_paused = true)]
async fn meters_are_taken_together_or_not_at_all() {
    let tokens = Amount::PerPeriod {
        dimension: LimitDimension::Tokens,
        limit: 35,
        per: SECOND,
        algorithm: Algorithm::Counted,
        day_in: None,
    };
    let account = account(
        vec![
            per_second(10, Algorithm::Counted),
            Limit {
                amount: tokens,
                models: None,
            },
        ],
        1,
    );
    let now = Instant::now();
    let mut first = account.reserve("m", ONE, now).expect("25 of 35 tokens");
    assert!(
        account.reserve("m", ONE, now).is_err(),
        "25 more do not fit"
    );
    assert_eq!(
        account.ledger().meters[0].taken(now),
        1,
        "the refused call took no request"
    );
    first.send_marker().sent(now);
    first.settle(
        CallCost {
            input_tokens: 5,
            output_tokens: 5,
            ..ONE
        },
        true,
    );
    assert!(
        account.reserve("m", ONE, now).is_ok(),
        "settled at 10, so 25 fit"
    );
    let huge = CallCost {
        input_tokens: 36,
        output_tokens: 0,
        ..ONE
    };
    assert!(
        matches!(account.reserve("m", huge, now), Err(Denied::Until(_))),
        "larger than the limit: it goes alone"
    );
    assert!(account.reserve("m", huge, now + 2 * SECOND).is_ok());
    let many = CallCost {
        requests: 11,
        ..ONE
    };
    assert_eq!(
        account.reserve("m", many, now).err(),
        Some(Denied::TooLarge)
    );
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_speaks_of_the_key_leaves_the_other_key_in_use() {
    let account = account(vec![at_once(256)], 2);
    let now = Instant::now();
    let permit = account.reserve("m", ONE, now).expect("room");
    let refused = permit.key().name.clone();
    permit.refused(ErrorScope::Key, Class::RateLimited, Some(10 * SECOND), now);
    drop(permit);
    for _ in 0..4 {
        let permit = account.reserve("m", ONE, now).expect("the other key");
        assert_ne!(permit.key().name, refused);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_cools_alone_and_returns_through_one_probe() {
    let account = account(vec![at_once(256)], 1);
    let now = Instant::now();
    let permit = account.reserve("m", ONE, now).expect("room");
    permit.refused(ErrorScope::Model, Class::RateLimited, Some(2 * SECOND), now);
    account.cool_model("m", Class::RateLimited, SECOND, now);
    drop(permit);
    assert_eq!(
        account.reserve("m", ONE, now + SECOND).err(),
        Some(Denied::Until(now + 2 * SECOND))
    );
    assert!(
        account.reserve("n", ONE, now).is_ok(),
        "another model is not cooled"
    );
    let later = now + 2 * SECOND;
    drop(account.reserve("m", ONE, later).expect("one probe"));
    let mut probe = account
        .reserve("m", ONE, later)
        .expect("another, as the first was not answered");
    assert_eq!(
        account.reserve("m", ONE, later).err(),
        Some(Denied::Until(later + 30 * SECOND))
    );
    probe.mark_answered();
    drop(probe);
    let (_one, _two) = (
        account.reserve("m", ONE, later).expect("ready"),
        account.reserve("m", ONE, later).expect("ready"),
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_up_on_keeps_its_place_among_calls_at_once() {
    let account = account(vec![at_once(1)], 1);
    let now = Instant::now();
    let mut permit = account.reserve("m", ONE, now).expect("room");
    permit.send_marker().sent(now);
    permit.abandoned(now, 10 * SECOND);
    drop(permit);
    assert_eq!(
        account.reserve("m", ONE, now + SECOND).err(),
        Some(Denied::Until(now + 10 * SECOND))
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_spent_for_long_says_so_and_until_when() {
    let amount = Amount::PerPeriod {
        dimension: LimitDimension::Tokens,
        limit: 30,
        per: 60 * SECOND,
        algorithm: Algorithm::Counted,
        day_in: None,
    };
    let account = account(
        vec![
            Limit {
                amount,
                models: None,
            },
            per_second(1, Algorithm::Counted),
        ],
        1,
    );
    let now = Instant::now();
    let large = CallCost {
        input_tokens: 100,
        ..ONE
    };
    let permit = account
        .reserve("m", large, now)
        .expect("nothing else is taken");
    permit.send_marker().sent(now);
    drop(permit);
    let (limit, until) = account.snapshot(now).models[0]
        .spent
        .clone()
        .expect("spent");
    assert_eq!(limit, "30 tokens per 60s");
    assert!(
        until > now + 60 * SECOND,
        "not the limit that returns in a second"
    );
    assert_eq!(account.snapshot(until).models[0].spent, None);
}

#[tokio::test(start_paused = true)]
async fn smooth_calls_come_out_even_from_the_first_one() {
    let account = account(vec![per_second(10, Algorithm::Smooth)], 1);
    let start = Instant::now();
    let mut times = Vec::new();
    let mut now = start;
    while times.len() < 101 {
        match account.reserve("m", ONE, now) {
            Ok(permit) => {
                permit.send_marker().sent(now);
                times.push(now);
            }
            Err(Denied::Until(at)) => now = at,
            Err(other) => panic!("{other:?}"),
        }
    }
    for window in times.windows(11) {
        assert!(
            window[10] - window[0] > SECOND,
            "never eleven within a second"
        );
    }
    assert!(
        times[30] - start < 3 * SECOND + Duration::from_millis(65),
        "and nearly thirty in three"
    );
    assert!(
        times[100] - times[70] < 3 * SECOND + Duration::from_millis(20),
        "and nearer once it is proven"
    );
}

#[tokio::test(start_paused = true)]
async fn a_disabled_key_ends_calls_until_an_operator_acts() {
    let account = account(vec![at_once(256)], 1);
    let now = Instant::now();
    let permit = account.reserve("m", ONE, now).expect("room");
    permit.disable_key(Class::BadKey);
    drop(permit);
    account.cool_model("m", Class::RateLimited, SECOND, now);
    let later = now + 100 * 24 * 3600 * SECOND;
    assert_eq!(
        account.reserve("m", ONE, later).err(),
        Some(Denied::Disabled(Some(Class::BadKey)))
    );
}

#[tokio::test(start_paused = true)]
async fn what_the_process_before_may_have_spent_counts_as_spent() {
    let before = Instant::now();
    tokio::time::advance(Duration::from_millis(50)).await;
    let now = Instant::now();
    for (algorithm, least) in [
        (Algorithm::Smooth, Duration::from_millis(100)),
        (Algorithm::Counted, SECOND),
        (Algorithm::Bucket, Duration::from_millis(100)),
    ] {
        let account = account_after(vec![per_second(10, algorithm)], 1, Some(before));
        let Err(Denied::Until(at)) = account.reserve("m", ONE, now) else {
            panic!("{algorithm:?}: spent")
        };
        let wait = at - before;
        assert!(
            wait >= least && wait < least + Duration::from_millis(25),
            "{algorithm:?}: {wait:?}"
        );
        let much_later = now + 10 * SECOND;
        let account = account_after(vec![per_second(10, algorithm)], 1, Some(before));
        assert!(
            account.reserve("m", ONE, much_later).is_ok(),
            "{algorithm:?}: long ago"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_that_the_process_before_may_have_spent_count_as_spent() {
    let before = Instant::now();
    tokio::time::advance(Duration::from_millis(50)).await;
    let now = Instant::now();
    for algorithm in [Algorithm::Smooth, Algorithm::Counted, Algorithm::Fixed] {
        let amount = Amount::PerPeriod {
            dimension: LimitDimension::Tokens,
            limit: 1_000,
            per: SECOND,
            algorithm,
            day_in: None,
        };
        let limit = Limit {
            amount,
            models: None,
        };
        let account = account_after(vec![limit], 1, Some(before));
        let Err(Denied::Until(at)) = account.reserve("m", ONE, now) else {
            panic!("{algorithm:?}: spent")
        };
        assert!(at >= before + SECOND, "{algorithm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn headers_replace_the_search_and_count_what_others_use() {
    let account = account(vec![], 1);
    let now = Instant::now();
    let permit = account.reserve("m", ONE, now).expect("room");
    permit.send_marker().sent(now);
    assert!(
        matches!(account.reserve("m", ONE, now), Err(Denied::Until(at)) if at > now + SECOND),
        "gently"
    );
    let told = |remaining| RateLimitHeaders {
        dimension: LimitDimension::Requests,
        limit: 600,
        remaining,
        whole_in: Some(60 * SECOND),
        resolution: Duration::from_millis(20),
        per: None,
    };
    permit.observe(&[told(599)], now);
    assert_eq!(account.snapshot(now).requests_per_second, Some(10.0));
    assert_eq!(
        account.snapshot(now).models[0].learned,
        ["600 requests per 60s"]
    );
    let another = account.reserve("m", ONE, now).expect("limits are known");
    another.send_marker().sent(now);
    another.observe(&[told(0)], now);
    let later = now + SECOND;
    let Err(Denied::Until(at)) = account.reserve("m", ONE, later) else {
        panic!("somebody else used it up")
    };
    assert_eq!(at, now + 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_configured_limit_is_a_ceiling_below_which_refusals_show_the_true_one() {
    let account = account(vec![per_second(20, Algorithm::Smooth)], 1);
    let mut now = Instant::now();
    let mut accepted_at = Vec::new();
    // The provider allows ten calls in each second.
    for _ in 0..400 {
        let mut permit = loop {
            match account.reserve("m", ONE, now) {
                Ok(permit) => break permit,
                Err(Denied::Until(at)) => now = at,
                Err(denied) => panic!("{denied:?}"),
            }
        };
        permit.send_marker().sent(now);
        permit.mark_answered();
        accepted_at.retain(|at| *at + SECOND > now);
        if accepted_at.len() < 10 {
            accepted_at.push(now);
            permit.accepted(now);
        } else {
            permit.refused(ErrorScope::Model, Class::RateLimited, Some(SECOND), now);
        }
    }
    let model = account.snapshot(now).models.remove(0);
    assert!(account.snapshot(now).totals.refusals < 12, "{model:?}");
    let learned = model.learned.first().expect("a learned limit");
    let rate = learned
        .split(' ')
        .next()
        .and_then(|rate| rate.parse::<u64>().ok());
    assert!(
        rate.is_some_and(|rate| (500..=610).contains(&rate)),
        "{learned}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_outlives_a_process_is_taken_up_by_the_next() {
    let day = Limit {
        amount: Amount::PerPeriod {
            dimension: LimitDimension::Requests,
            limit: 100,
            per: 24 * 3_600 * SECOND,
            algorithm: Algorithm::Counted,
            day_in: None,
        },
        models: None,
    };
    let before = account(vec![day.clone()], 3);
    let wall = "2026-11-24T10:00:00Z".parse().expect("a time");
    let moment = ClockPair {
        instant: Instant::now(),
        wall,
    };
    for _ in 0..90 {
        let permit = before.reserve("m", ONE, moment.instant).expect("room");
        permit.send_marker().sent(moment.instant);
    }
    before.disable_by_hand(Some("key-1"));
    before.ledger().keys[2] = ReadyState::Disabled {
        reason: Some(Class::BadKey),
    };
    before.cool_model("n", Class::QuotaExhausted, 600 * SECOND, moment.instant);
    before.cool_model(
        "misspelt",
        Class::ModelNotAllowed,
        3_600 * SECOND,
        moment.instant,
    );
    let json = |ahead| serde_json::to_string(&before.saved_state(ahead, moment)).expect("JSON");
    let resumed = |text: &str, moment| {
        let after = account(vec![day.clone()], 3);
        after.resume(&serde_json::from_str(text).expect("a state"), moment);
        after
    };
    let left = |account: &Arc<Account>, now| {
        std::iter::from_fn(|| account.reserve("m", ONE, now).ok())
            .map(|permit| permit.send_marker().sent(now))
            .count()
    };
    assert_eq!(left(&resumed(&json(false), moment), moment.instant), 10);
    let later = ClockPair {
        instant: moment.instant,
        wall: wall + 25 * 3_600 * SECOND,
    };
    assert_eq!(
        left(&resumed(&json(false), later), moment.instant),
        100,
        "the day has passed meanwhile"
    );
    let after = resumed(&json(false), moment);
    let state = |key: usize| after.snapshot(moment.instant).keys[key].state.clone();
    assert_eq!(state(1), ReadyState::Disabled { reason: None });
    assert_eq!(
        state(2),
        ReadyState::Ready,
        "whoever mends a key starts anew"
    );
    assert!(matches!(
        after.reserve("n", ONE, moment.instant),
        Err(Denied::Until(_))
    ));
    assert!(
        after.reserve("misspelt", ONE, moment.instant).is_ok(),
        "and so does whoever mends a model's name"
    );
}

fn per_day(limit: u64, algorithm: Algorithm) -> Limit {
    let per = 24 * 3_600 * SECOND;
    let amount = Amount::PerPeriod {
        dimension: LimitDimension::Requests,
        limit,
        per,
        algorithm,
        day_in: None,
    };
    Limit {
        amount,
        models: None,
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_spent_of_a_day_that_is_not_written_down() {
    let wall = "2026-11-24T10:00:00Z".parse().expect("a time");
    let moment = ClockPair {
        instant: Instant::now(),
        wall,
    };
    let limit = || vec![per_day(1_000, Algorithm::Counted)];
    let (mut spent, mut written) = (0, AccountState::default());
    // Each process is killed when it waits for the next writing down.
    for _ in 0..3 {
        let account = account(limit(), 1);
        let requests = Arc::default();
        account.keep(&requests);
        account.resume(&written, moment);
        for _ in 0..4 {
            while let Ok(permit) = account.reserve("m", ONE, moment.instant) {
                permit.send_marker().sent(moment.instant);
                spent += 1;
            }
            assert_eq!(
                account.reserve("m", ONE, moment.instant).err(),
                Some(Denied::UntilRelease)
            );
            requests.notified().await;
            written = account.saved_state(true, moment);
            account.confirm();
        }
    }
    assert_eq!(spent, 3 * 3 * 6, "a 200th and one at a time");
    let after = account(limit(), 1);
    after.resume(&written, moment);
    let left = std::iter::from_fn(|| after.reserve("m", ONE, moment.instant).ok())
        .map(|permit| permit.send_marker().sent(moment.instant))
        .count();
    assert_eq!(
        left,
        1_000 - 3 * 4 * 6,
        "what was written down counts as spent"
    );
}

#[tokio::test(start_paused = true)]
async fn a_days_bucket_goes_on_as_full_as_it_was() {
    let start = Instant::now();
    let wall: jiff::Timestamp = "2026-11-24T10:00:00Z".parse().expect("a time");
    let before = account(vec![per_day(24, Algorithm::Bucket)], 1);
    for _ in 0..23 {
        before
            .reserve("m", ONE, Instant::now())
            .expect("room")
            .send_marker()
            .sent(Instant::now());
        tokio::time::advance(3_600 * SECOND).await;
    }
    let moment = ClockPair {
        instant: Instant::now(),
        wall: wall + start.elapsed(),
    };
    let after = account(vec![per_day(24, Algorithm::Bucket)], 1);
    after.resume(&before.saved_state(false, moment), moment);
    let _first = after
        .reserve("m", ONE, moment.instant)
        .expect("it is nearly full");
}

#[tokio::test(start_paused = true)]
async fn an_operators_act_stays_whatever_the_provider_says_after_it() {
    let account = account(vec![at_once(8)], 2);
    let now = Instant::now();
    account.disable_by_hand(Some("key-0"));
    account.disable(Class::BillingStop);
    let state = |key: usize| account.snapshot(now).keys[key].state.clone();
    assert_eq!(state(0), ReadyState::Disabled { reason: None });
    assert_eq!(
        state(1),
        ReadyState::Disabled {
            reason: Some(Class::BillingStop)
        }
    );
    account.enable(None);
    assert_eq!((state(0), state(1)), (ReadyState::Ready, ReadyState::Ready));
}

#[tokio::test(start_paused = true)]
async fn a_calendar_day_returns_whole_at_midnight_of_its_zone() {
    #[derive(Debug)]
    struct ShowsElevenAt(Instant);
    impl Clock for ShowsElevenAt {
        fn now(&self) -> jiff::Timestamp {
            let eleven: jiff::Timestamp = "2026-11-24T07:00:00Z".parse().expect("a time");
            eleven + self.0.elapsed()
        }

        fn since_boot(&self) -> Duration {
            self.0.elapsed()
        }

        fn boot(&self) -> Option<String> {
            None
        }
    }
    // In the evening, in Los Angeles.
    let start = Instant::now();
    let zone = jiff::tz::TimeZone::get("America/Los_Angeles").expect("a zone");
    let amount = Amount::PerPeriod {
        dimension: LimitDimension::Requests,
        limit: 2,
        per: 24 * 3_600 * SECOND,
        algorithm: Algorithm::Counted,
        day_in: Some(zone),
    };
    let account = account_on(
        vec![Limit {
            amount,
            models: None,
        }],
        1,
        None,
        Arc::new(ShowsElevenAt(start)),
    );
    for wait in [0, 60] {
        tokio::time::advance(wait * SECOND).await;
        account
            .reserve("m", ONE, Instant::now())
            .expect("room")
            .send_marker()
            .sent(Instant::now());
    }
    let Err(Denied::Until(at)) = account.reserve("m", ONE, Instant::now()) else {
        panic!("the day is spent")
    };
    assert_eq!(at, start + 3_605 * SECOND, "midnight and some slack");
    tokio::time::advance(at - Instant::now()).await;
    let _both = [(); 2].map(|()| {
        account
            .reserve("m", ONE, Instant::now())
            .expect("the whole day is back at once")
    });
}

/// Plays a provider that counts strictly in windows of ten seconds, on a clock of its own. It states their ends as
/// `round` rounds them. Returns the number of refused calls.
async fn refusals_by_a_clock_that_reports(
    round: fn(Duration) -> Duration,
    resolution: Duration,
) -> usize {
    let (limit, per) = (10, 10 * SECOND);
    let amount = Amount::PerPeriod {
        dimension: LimitDimension::Requests,
        limit,
        per,
        algorithm: Algorithm::Fixed,
        day_in: None,
    };
    let account = account(
        vec![Limit {
            amount,
            models: None,
        }],
        1,
    );
    let ahead = Duration::from_millis(5_950);
    let start = Instant::now();
    let (mut window, mut calls, mut refused) = (0, 0, 0);
    for milli in 0..60_000_u64 {
        let now = Instant::now();
        let clock = now - start + ahead;
        let this = clock.as_millis() / per.as_millis();
        if this != window {
            (window, calls) = (this, 0);
        }
        // Few calls at first, so that some are left when the window ends.
        let wanted = if milli > 4_400 {
            usize::MAX
        } else {
            usize::from(milli % 700 == 0)
        };
        for _ in 0..wanted {
            let Ok(permit) = account.reserve("m", ONE, now) else {
                break;
            };
            permit.send_marker().sent(now);
            calls += 1;
            refused += usize::from(calls > limit);
            let end = per * u32::try_from(this + 1).expect("few windows");
            let headers = RateLimitHeaders {
                dimension: LimitDimension::Requests,
                limit,
                remaining: limit.saturating_sub(calls),
                whole_in: Some(round(end - clock)),
                per: None,
                resolution,
            };
            permit.observe(&[headers], now);
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    refused
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_reported_in_whole_seconds_is_not_exceeded_however_they_are_rounded() {
    let up =
        |rest: Duration| Duration::from_secs(rest.as_secs() + u64::from(rest.subsec_nanos() > 0));
    let down = |rest: Duration| Duration::from_secs(rest.as_secs());
    assert_eq!(
        refusals_by_a_clock_that_reports(up, SECOND).await,
        0,
        "rounded up"
    );
    assert_eq!(
        refusals_by_a_clock_that_reports(down, SECOND).await,
        0,
        "cut off"
    );
    assert_eq!(
        refusals_by_a_clock_that_reports(|rest| rest, Duration::ZERO).await,
        0,
        "exact"
    );
}
