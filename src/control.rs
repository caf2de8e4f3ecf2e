//! What operators and those who wait for an answer can ask over NATS, as services that `nats micro ls`
//! shows.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::service::{Request, Service, ServiceExt, error};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use forebay_schemas::subjects::REPLY_TO_HEADER;
use forebay_schemas::{Class, Completion, Flow, Identity, Names, Status};
use forebay_workers::queue::jetstream::JetStreamQueue;
use forebay_workers::quota::{self, State};
use forebay_workers::upstream::http::HttpUpstream;
use futures::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::standing::Writer;

/// The worker that runs in this process.
pub type Worker = forebay_workers::Worker<JetStreamQueue, HttpUpstream>;

/// How long a request on `ai.ask` is remembered; whoever asked has gone long before.
const LONGEST_ASK: Duration = Duration::from_secs(60 * 60);

/// The answer to `ai.ctl.queues`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Queues {
    /// Jobs in the stream, by flow; those that are being worked on are among them.
    pub flows: Vec<FlowDepth>,
    /// Jobs that wait in the worker for a permit or for themselves.
    pub staged: u64,
    /// Jobs that are being called or finished.
    pub in_flight: u64,
    /// Jobs that ended since the worker started, by status.
    pub ended: Vec<(Status, u64)>,
}

/// How many jobs a flow holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowDepth {
    /// The pool.
    pub pool: String,
    /// The team.
    pub team: String,
    /// The lane.
    pub lane: forebay_schemas::Lane,
    /// Jobs that have no completion yet.
    pub jobs: u64,
}

/// The answer to `ai.ctl.keys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Keys {
    /// Every account.
    pub quotas: Vec<Quota>,
    /// Every pool and the names of its quotas.
    pub pools: Vec<(String, Vec<String>)>,
}

/// An account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Quota {
    /// Its name.
    pub name: String,
    /// Its provider.
    pub provider: String,
    /// Its keys.
    pub keys: Vec<Condition>,
    /// The models that were asked of it.
    pub models: Vec<Condition>,
    /// Calls a second that its limits on calls allow to one model.
    pub requests_per_second: Option<f64>,
    /// Calls that were sent.
    pub calls: u64,
    /// Calls under way.
    pub in_flight: u64,
    /// Calls that a limit refused.
    pub refusals: u64,
    /// What was said when a call was last not accepted.
    pub last_problem: Option<String>,
}

impl Quota {
    /// Whether nothing can be asked of it until somebody acts: no key is accepted, or no model allowed.
    pub fn is_shut(&self) -> bool {
        let allowed = |model: &Condition| model.reason.as_deref() != Some(Class::ModelNotAllowed.as_str());
        self.keys.iter().all(|key| key.state == "disabled")
            || (!self.models.is_empty() && !self.models.iter().any(allowed))
    }

    /// Whether no call to any model reaches it.
    pub fn is_unreachable(&self) -> bool {
        let unreachable = |model: &Condition| model.reason.as_deref() == Some(Class::NetBeforeSend.as_str());
        !self.models.is_empty() && self.models.iter().all(unreachable)
    }

    /// What is wrong with its keys and models.
    pub fn reasons(&self) -> impl Iterator<Item = String> {
        self.keys.iter().chain(&self.models).filter_map(|condition| {
            let reason = condition.reason.as_ref()?;
            let said = self.last_problem.as_ref().map_or_else(String::new, |said| format!(", {said}"));
            Some(format!("{}/{}: {reason}{said}", self.name, condition.name))
        })
    }
}

/// The state of a key, or of a model at an account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// ready, cooling, exhausted, probing or disabled.
    pub state: String,
    /// What happened.
    pub reason: Option<String>,
    /// When it returns by itself.
    pub until: Option<Timestamp>,
    /// A limit that is spent for more than some seconds.
    pub spent: Option<Spent>,
    /// What its limits are taken to be, where they are learned.
    #[serde(default)]
    pub learned: Vec<String>,
}

/// A limit that is spent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spent {
    /// The limit.
    pub limit: String,
    /// When a call may start again.
    pub until: Timestamp,
}

/// A request on `ai.ctl.keys.disable` and `ai.ctl.keys.enable`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SwitchRequest {
    /// The account.
    pub quota: String,
    /// One of its keys; all, if none is named.
    pub key: Option<String>,
}

/// A request on `ai.ctl.results`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResultsRequest {
    /// The team.
    pub team: String,
    /// The batch, if the job is of one.
    pub batch: Option<String>,
    /// The job's id.
    pub id: String,
}

/// The answer to `ai.ctl.results`: null where there is none.
pub type ResultsReply = Option<Completion>;

/// The services of a running worker.
pub struct Control {
    service: Service,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Control {
    /// Starts to answer.
    ///
    /// # Errors
    /// When a subject cannot be served.
    pub async fn start(
        client: Client,
        context: Context,
        names: Names,
        worker: Arc<Worker>,
        writer: Writer,
    ) -> Result<Self, async_nats::Error> {
        let service = client
            .service_builder()
            .description("An asynchronous broker for AI requests")
            .start("forebay", env!("CARGO_PKG_VERSION"))
            .await?;
        let desk = Arc::new(Desk { client, context, names: names.clone(), worker, writer });
        let mut tasks = Vec::new();
        let subjects = [
            ("queues", names.ctl("queues")),
            ("keys", names.ctl("keys")),
            ("keys-disable", names.ctl("keys.disable")),
            ("keys-enable", names.ctl("keys.enable")),
            ("results", names.ctl("results")),
            ("ask", names.ask()),
        ];
        for (name, subject) in subjects {
            let mut requests = service.endpoint_builder().name(name).add(subject).await?;
            let desk = Arc::clone(&desk);
            tasks.push(tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    tokio::spawn(Arc::clone(&desk).answer(name, request));
                }
            }));
        }
        Ok(Self { service, tasks })
    }

    /// Ends the services.
    pub async fn stop(self) {
        for task in self.tasks {
            task.abort();
        }
        if let Err(error) = self.service.stop().await {
            warn!(%error, "the services did not stop cleanly");
        }
    }
}

struct Desk {
    client: Client,
    context: Context,
    names: Names,
    worker: Arc<Worker>,
    writer: Writer,
}

type Answer = Result<Bytes, error::Error>;

impl Desk {
    async fn answer(self: Arc<Self>, endpoint: &'static str, request: Request) {
        let answer = match endpoint {
            "queues" => self.queues().await,
            "keys" => json(&self.keys()),
            "keys-disable" => self.switch(&request.message.payload, false).await,
            "keys-enable" => self.switch(&request.message.payload, true).await,
            "results" => self.results(&request.message.payload),
            _ => self.ask(&request).await,
        };
        if let Err(error) = request.respond(answer).await {
            warn!(%error, endpoint, "an answer cannot be sent");
        }
    }

    async fn queues(&self) -> Answer {
        let snapshot = self.worker.snapshot();
        let flows = depths(&self.context, &self.names).await.map_err(|problem| failed(503, problem))?;
        json(&Queues { flows, staged: snapshot.staged, in_flight: snapshot.in_flight, ended: snapshot.ended })
    }

    fn keys(&self) -> Keys {
        let snapshot = self.worker.snapshot();
        Keys { quotas: snapshot.quotas.into_iter().map(Quota::from).collect(), pools: snapshot.pools }
    }

    /// Disables or enables keys; answers what all keys are once that is written down, and so stays over a
    /// restart.
    async fn switch(&self, payload: &[u8], on: bool) -> Answer {
        let request: SwitchRequest = serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        if !self.worker.switch(&request.quota, request.key.as_deref(), on) {
            return Err(failed(404, unknown_key(&request, &self.keys().quotas)));
        }
        let act = if on { "enabled" } else { "disabled" };
        info!(quota = request.quota, key = request.key, "{act} by an operator");
        if !self.writer.write().await {
            return Err(failed(
                503,
                format!("{act}, but not written down, so a restart may undo it; ask again"),
            ));
        }
        json(&self.keys())
    }

    fn results(&self, payload: &[u8]) -> Answer {
        let request: ResultsRequest = serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        let identity = Identity { team: request.team, batch: request.batch, id: request.id };
        let record = tokio::task::block_in_place(|| self.worker.result(&identity))
            .map_err(|error| failed(500, error))?;
        json(&record.map(|record| record.completion))
    }

    /// Publishes the request as a job and waits for the copy of its completion.
    async fn ask(&self, request: &Request) -> Answer {
        let flow = self
            .names
            .flow_of_ask(&request.message.subject)
            .ok_or_else(|| failed(400, "the subject names no pool and team"))?;
        let inbox = self.client.new_inbox();
        let mut copies = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(503, error))?;
        let mut headers = HeaderMap::new();
        headers.insert(REPLY_TO_HEADER, inbox);
        let published = self
            .context
            .publish_with_headers(self.names.job(&flow), headers, request.message.payload.clone())
            .await
            .map_err(|error| failed(503, error))?;
        published.await.map_err(|error| failed(503, error))?;
        match tokio::time::timeout(LONGEST_ASK, copies.next()).await {
            Ok(Some(copy)) => Ok(copy.payload),
            _ => Err(failed(504, "no completion yet; the job is still queued")),
        }
    }
}

/// Jobs in the stream, by flow.
///
/// # Errors
/// When the stream cannot be read.
pub async fn depths(context: &Context, names: &Names) -> Result<Vec<FlowDepth>, String> {
    let stream = context
        .get_stream_no_info(names.jobs_stream())
        .await
        .map_err(|error| format!("the stream of jobs cannot be read: {error}"))?;
    let mut subjects =
        stream.info_with_subjects(names.all_jobs()).await.map_err(|error| error.to_string())?;
    let mut flows = std::collections::BTreeMap::<Flow, u64>::new();
    while let Some(entry) = subjects.next().await {
        let (subject, jobs) = entry.map_err(|error| error.to_string())?;
        if let Some(flow) = names.flow_of(&subject) {
            *flows.entry(flow).or_default() += jobs as u64;
        }
    }
    let depth =
        |(flow, jobs): (Flow, u64)| FlowDepth { pool: flow.pool, team: flow.team, lane: flow.lane, jobs };
    Ok(flows.into_iter().map(depth).collect())
}

fn unknown_key(request: &SwitchRequest, quotas: &[Quota]) -> String {
    let names = |names: Vec<&str>| names.join(", ");
    match (&request.key, quotas.iter().find(|quota| quota.name == request.quota)) {
        (Some(key), Some(quota)) => {
            let known = names(quota.keys.iter().map(|key| key.name.as_str()).collect());
            format!("account `{}` has no key `{key}`; it has {known}", quota.name)
        }
        _ => {
            let known = names(quotas.iter().map(|quota| quota.name.as_str()).collect());
            format!("there is no account `{}`; known accounts: {known}", request.quota)
        }
    }
}

fn json(value: &impl Serialize) -> Answer {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| failed(500, error))
}

fn failed(code: usize, problem: impl std::fmt::Display) -> error::Error {
    error::Error { code, status: problem.to_string() }
}

impl From<quota::Snapshot> for Quota {
    fn from(snapshot: quota::Snapshot) -> Self {
        let condition = |name, state: &State| Condition {
            name,
            state: state.name().to_owned(),
            reason: match state {
                State::Disabled { reason: None } => Some("operator".to_owned()),
                state => state.reason().map(|reason| reason.to_string()),
            },
            until: state.until().map(wall_time),
            spent: None,
            learned: Vec::new(),
        };
        let model = |model: quota::ModelSnapshot| Condition {
            learned: model.learned,
            spent: model.spent.map(|(limit, until)| Spent { limit, until: wall_time(until) }),
            ..condition(model.name, &model.state)
        };
        Self {
            name: snapshot.name,
            provider: snapshot.provider,
            keys: snapshot.keys.into_iter().map(|(name, state)| condition(name, &state)).collect(),
            models: snapshot.models.into_iter().map(model).collect(),
            requests_per_second: snapshot.requests_per_second,
            calls: snapshot.totals.calls,
            in_flight: snapshot.totals.in_flight,
            refusals: snapshot.totals.refusals,
            last_problem: snapshot.last_problem,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "for people: a moment of this process on their clock")]
fn wall_time(at: Instant) -> Timestamp {
    let wait = at.saturating_duration_since(Instant::now());
    Timestamp::now().checked_add(wait).unwrap_or(Timestamp::MAX)
}
