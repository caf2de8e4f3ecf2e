//! Pools over several providers, each of which answers as a script says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_providers::Endpoint;
use forebay_providers::Secret;
use forebay_providers::cost::LimitDimension;
use forebay_providers::registry::provider;
use forebay_providers::{Reply, Request};
use forebay_schemas::{Cache, Class, Completion, Flow, Lane, Status};
use forebay_workers::accounts::{self, AccountKey, Algorithm, Amount, Limit};
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::fence::CallFence;
use forebay_workers::outcome::patience::Patience;
use forebay_workers::outcome::policy::RetryPolicy;
use forebay_workers::sim::VirtualClock;
use forebay_workers::sim::queue::SimQueue;
use forebay_workers::store::journal::Journal;
use forebay_workers::store::results::{ResultStore, Retention};
use forebay_workers::upstream::{Error, ReceivedReply, Upstream};
use forebay_workers::{Config, PoolConfig, SubjectRules, TargetConfig, Worker};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

/// The status of an answer that does not come in time.
pub(crate) const NO_ANSWER: u16 = 0;
/// The time after which such a call is given up.
const TIMEOUT: Duration = Duration::from_secs(4);

/// A status, a header and a body.
pub(crate) type Answer = (u16, Option<(&'static str, &'static str)>, String);
/// What an account answers to a body.
type Script = dyn Fn(&str, &Value) -> Answer + Send + Sync;

#[derive(Clone)]
pub(crate) struct Scripted {
    script: Arc<Script>,
    /// The accounts that were called, in their order.
    called: Arc<Mutex<Vec<String>>>,
}

impl Upstream for Scripted {
    async fn send<S>(
        &self,
        request: Request,
        _: Arc<CallFence>,
        sent: S,
    ) -> Result<ReceivedReply, Error>
    where
        S: FnOnce(Instant) + Send + 'static,
    {
        sent(Instant::now());
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.called.lock().push(request.account.clone());
        let body = serde_json::from_slice(&request.body).expect("JSON");
        let (status, header, body) = (self.script)(&request.account, &body);
        if status == NO_ANSWER {
            tokio::time::sleep(TIMEOUT).await;
            return Err(Error::TimedOut(TIMEOUT));
        }
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        Ok(Reply {
            status,
            headers,
            body: body.into(),
        }
        .into())
    }
}

/// Accounts of a provider, each a tier of its own that is entered after so many seconds.
pub(crate) struct Tiers {
    pub(crate) provider: &'static str,
    pub(crate) limit: Amount,
    pub(crate) after: &'static [(&'static str, u64)],
}

/// A worker on the simulated queue, whose provider answers as a script says.
pub(crate) struct ScriptedRun {
    pub(crate) queue: SimQueue,
    upstream: Scripted,
    pub(crate) worker: Worker<SimQueue, Scripted>,
    _dir: tempfile::TempDir,
}

const AT_ONCE: Amount = Amount::Concurrent(10);

impl Tiers {
    /// Returns one account that makes `rate` calls a second.
    pub(crate) fn of_rate(rate: u64) -> Self {
        let limit = Amount::PerPeriod {
            dimension: LimitDimension::Requests,
            limit: rate,
            per: Duration::from_secs(1),
            algorithm: Algorithm::Smooth,
            day_in: None,
        };
        Self {
            provider: "openai",
            limit,
            after: &[("one", 0)],
        }
    }

    fn of_openai(after: &'static [(&'static str, u64)]) -> Self {
        Self {
            provider: "openai",
            limit: AT_ONCE,
            after,
        }
    }

    pub(crate) fn config(&self) -> Config {
        let account = |(name, _): &(&str, u64)| accounts::Config {
            name: (*name).to_owned(),
            endpoint: Endpoint::new(
                provider(self.provider).expect("a known provider"),
                "http://provider",
            ),
            keys: vec![AccountKey::new("only", Secret::new(*name))],
            limits: vec![Limit {
                amount: self.limit.clone(),
                models: None,
            }],
        };
        let target = |(tier, (_, after)): (usize, &(&str, u64))| TargetConfig {
            tier: u32::try_from(tier).expect("few tiers"),
            after: Duration::from_secs(*after),
            ..TargetConfig::new(tier, "m")
        };
        let targets = self.after.iter().enumerate().map(target).collect();
        Config {
            accounts: self.after.iter().map(account).collect(),
            on_demand: None,
            pools: vec![PoolConfig {
                name: "p".to_owned(),
                targets,
                content_fallback: false,
                merge: true,
                cache: Cache::Off,
                patience: None,
            }],
            teams: HashMap::new(),
            policy: RetryPolicy {
                max_attempts: 5,
                patience: Patience::default(),
            },
            lane_weights: [(Lane::Interactive, 16), (Lane::Normal, 4), (Lane::Bulk, 1)],
            idle: None,
            saved_states: HashMap::new(),
            kept: false,
            controls: forebay_workers::WorkerControls::default(),
            fence: CallFence::unlimited(Arc::new(SystemClock)),
            addressing: SubjectRules::default(),
            results_are_complete: true,
            max_request: usize::MAX,
        }
    }

    /// Starts a worker whose provider answers by `script`.
    pub(crate) async fn start(
        &self,
        script: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static,
    ) -> ScriptedRun {
        ScriptedRun::start(self.config(), script).await
    }

    /// Publishes chats, half a second apart, and waits an hour at most for their completions.
    async fn run(
        &self,
        jobs: &[Value],
        script: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static,
    ) -> (Vec<Completion>, Vec<String>) {
        let run = self.start(script).await;
        let queue = &run.queue;
        for (index, body) in jobs.iter().enumerate() {
            let flow = Flow {
                pool: "p".to_owned(),
                team: format!("team-{index}"),
                lane: Lane::Normal,
            };
            queue.publish(
                &flow,
                json!({ "id": index.to_string(), "body": body }).to_string(),
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let hour = Duration::from_secs(3_600);
        assert!(
            tokio::time::timeout(hour, queue.completed(jobs.len()))
                .await
                .is_ok(),
            "all end within an hour"
        );
        let called = run.upstream.called.lock().clone();
        (queue.completions(), called)
    }
}

impl ScriptedRun {
    /// Starts a worker whose provider answers by `script`.
    pub(crate) async fn start(
        config: Config,
        script: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static,
    ) -> ScriptedRun {
        let clock = Arc::new(VirtualClock::new(
            "2026-11-24T10:00:00Z".parse().expect("a time"),
        ));
        let dir = tempfile::tempdir().expect("a directory");
        let retention = Retention {
            keep_days: 7,
            horizon_days: 2,
        };
        let results =
            ResultStore::open_in_place(&dir.path().join("results"), retention, clock.now())
                .expect("a store");
        let journal = Journal::open(&dir.path().join("journal")).expect("a journal");
        let queue = SimQueue::new(clock.clone());
        let upstream = Scripted {
            script: Arc::new(script),
            called: Arc::default(),
        };
        let state = (results, journal);
        let worker = Worker::start(config, queue.clone(), upstream.clone(), state, clock).await;
        ScriptedRun {
            queue,
            upstream,
            worker: worker.expect("it starts"),
            _dir: dir,
        }
    }

    /// Publishes chats of a team in a lane. Each one's text begins with `text`.
    pub(crate) fn publish(&self, team: &str, lane: Lane, jobs: usize, text: &str) {
        let flow = Flow {
            pool: "p".to_owned(),
            team: team.to_owned(),
            lane,
        };
        for job in 0..jobs {
            let messages = json!([{ "role": "user", "content": format!("{text} {job}") }]);
            let body = json!({ "messages": messages });
            let job = json!({ "id": format!("{text} {job}"), "body": body });
            self.queue.publish(&flow, job.to_string());
        }
    }
}

fn chat(role: &str) -> Value {
    json!({ "messages": [{ "role": role, "content": "hi" }] })
}

pub(crate) fn answer() -> Answer {
    let message = json!({ "role": "assistant", "content": "hi" });
    let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
    (
        200,
        None,
        json!({ "id": "x", "object": "chat.completion", "choices": [choice] }).to_string(),
    )
}

fn refused(
    status: u16,
    header: Option<(&'static str, &'static str)>,
    message: &str,
    kind: &str,
) -> Answer {
    (
        status,
        header,
        json!({ "error": { "message": message, "type": kind } }).to_string(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_refuses_each_time_is_left_once_it_was_waited_for() {
    let tiers = Tiers::of_openai(&[("main", 0), ("spare", 10)]);
    let (done, called) = tiers
        .run(&[chat("user")], |account, _| match account {
            "main" => refused(
                429,
                Some(("retry-after", "1")),
                "Rate limit reached.",
                "requests",
            ),
            _ => answer(),
        })
        .await;
    assert_eq!(done[0].status, Status::Succeeded);
    let tries = called.iter().filter(|account| *account == "main").count();
    assert!(
        (8..=11).contains(&tries),
        "once a second, for ten seconds: {tries}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_that_its_provider_calls_final_goes_to_the_next() {
    let tiers = Tiers::of_openai(&[("main", 0), ("spare", 3_600)]);
    let (done, called) = tiers
        .run(&[chat("user")], |account, _| match account {
            "main" => refused(
                500,
                Some(("x-should-retry", "false")),
                "boom",
                "server_error",
            ),
            _ => answer(),
        })
        .await;
    assert_eq!(done[0].status, Status::Succeeded);
    assert_eq!(called, ["main", "spare"]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_cannot_be_read_are_counted_for_each_target() {
    let tiers = Tiers::of_openai(&[("a", 0), ("b", 0), ("c", 0)]);
    let (done, called) = tiers
        .run(&[chat("user")], |account, _| match account {
            "a" => refused(500, None, "boom", "server_error"),
            "b" => (200, None, "<html>".to_owned()),
            _ => answer(),
        })
        .await;
    assert_eq!(done[0].status, Status::Succeeded);
    assert_eq!(called, ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn the_words_of_a_job_stop_no_account() {
    let tiers = Tiers::of_openai(&[("main", 0), ("spare", 3_600), ("third", 3_600)]);
    for words in [
        "credit balance is too low",
        "Insufficient balance",
        "incorrect API key",
        "limit: 0",
    ] {
        let (done, called) = tiers
            .run(
                &[chat(words), chat("user")],
                |_, body| match body["messages"][0]["role"].as_str() {
                    Some("user") => answer(),
                    role => {
                        let message = format!("Invalid value: '{}'.", role.unwrap_or_default());
                        refused(400, None, &message, "invalid_request_error")
                    }
                },
            )
            .await;
        let class = |completion: &Completion| completion.error.as_ref().map(|error| error.class);
        let classes: Vec<_> = done.iter().map(class).collect();
        assert_eq!(classes, [Some(Class::BadRequest), None], "{words}");
        assert_eq!(called, ["main", "main"], "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_absurd_number_of_tokens_ends_nothing() {
    let per = Duration::from_secs(60);
    let dimension = LimitDimension::Tokens;
    let algorithm = Algorithm::Counted;
    let limit = Amount::PerPeriod {
        dimension,
        limit: 100_000,
        per,
        algorithm,
        day_in: None,
    };
    let tiers = Tiers {
        provider: "ollama",
        limit,
        after: &[("one", 0)],
    };
    let (done, _) = tiers
        .run(&[chat("user"), chat("user"), chat("user")], |_, _| {
            let message = json!({ "role": "assistant", "content": "hi" });
            let body = json!({ "model": "m", "message": message, "done": true, "done_reason": "stop",
                "prompt_eval_count": u64::MAX, "eval_count": 1 });
            (200, None, body.to_string())
        })
        .await;
    assert!(
        done.iter()
            .all(|completion| completion.status == Status::Succeeded),
        "{done:?}"
    );
}
