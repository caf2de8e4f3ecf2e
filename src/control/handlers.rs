//! The handlers of requests on `ai.ctl.*` and `ai.ask.*`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::service::{Request, error};
use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use forebay_schemas::Identity;
use forebay_schemas::flow::is_name;
use forebay_schemas::format::FORMAT_1_REVISION_HEADER;
use forebay_schemas::header::{
    IN_PROGRESS_HEADER, OBJECT_HEADER, REPLY_TO_HEADER, REVISION_HEADER,
};
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::queue;
use forebay_workers::queue::jetstream::object_of;
use forebay_workers::{CancelledJobs, PauseTarget};
use futures::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use crate::cluster::account_state::StateWriter;
use crate::control::controls::OrderBook;
use crate::control::dead_letters;
use crate::control::dead_letters::{DeadLetters, LetterFilter};
use crate::control::depths::depths;
use crate::control::messages::{
    AccountReport, AccountsReport, CancelReply, LetterRequest, OrdersReply, QueuesReport,
    ResultsReply, ResultsRequest, ShownLetter, SwitchRequest,
};
use crate::nats::connection::Connection;
use crate::worker::JetStreamWorker;

/// The time for which a request on `ai.ask` is remembered. Its client stops waiting long before.
const LONGEST_ASK: Duration = Duration::from_secs(60 * 60);

/// The handlers of requests, and what they work on.
pub(crate) struct ControlHandlers {
    pub(crate) connection: Connection,
    pub(crate) worker: Arc<JetStreamWorker>,
    pub(crate) writer: StateWriter,
    pub(crate) book: OrderBook,
}

/// The headers and the body of a reply, or an error.
type ControlAnswer = Result<(HeaderMap, Bytes), error::Error>;

impl ControlHandlers {
    pub(crate) async fn answer(self: Arc<Self>, endpoint: &'static str, request: Request) {
        if !self.may_answer(endpoint, &request) {
            warn!(subject = %request.message.subject, "a request names a reply subject that is not its sender's");
            return;
        }
        let payload = &request.message.payload;
        let answer = match endpoint {
            "queues" => self.queues().await,
            "accounts" => json(&self.accounts()),
            "accounts-disable" => self.switch(payload, false).await,
            "accounts-enable" => self.switch(payload, true).await,
            "pause" => self.pause(payload).await,
            "resume" => self.resume(payload).await,
            "cancel" => self.cancel(payload).await,
            "dead-list" => self.dead_list(payload).await,
            "dead-show" => self.dead_show(payload).await,
            "dead-replay" => self.dead_replay(payload).await,
            "dead-drop" => self.dead_drop(payload).await,
            "results" => self.results(payload).await,
            _ => self.ask(&request).await,
        };
        let (headers, answer) = match answer {
            Ok((headers, answer)) => (headers, Ok(answer)),
            Err(error) => (HeaderMap::new(), Err(error)),
        };
        if let Err(error) = request.respond_with_headers(answer, headers).await {
            warn!(%error, endpoint, "an answer cannot be sent");
        }
    }

    async fn queues(&self) -> ControlAnswer {
        let snapshot = self.worker.snapshot();
        let queues = depths(&self.connection)
            .await
            .map_err(|problem| failed(503, problem))?;
        let paused = self.book.controls().paused();
        let forebay_workers::WorkerSnapshot {
            prefetched,
            in_flight,
            ended,
            ..
        } = snapshot;
        let Connection { context, names, .. } = &self.connection;
        let stream = context.get_stream(names.scheduled_stream()).await;
        let stream = stream.map_err(|error| failed(503, error))?;
        let scheduled = stream.cached_info().state.messages;
        json(&QueuesReport {
            queues,
            scheduled,
            prefetched,
            in_flight,
            ended,
            paused,
        })
    }

    fn accounts(&self) -> AccountsReport {
        let snapshot = self.worker.snapshot();
        let accounts = snapshot.accounts.into_iter();
        AccountsReport {
            accounts: accounts.map(AccountReport::from).collect(),
            pools: snapshot.pools,
            models: snapshot.models,
            makes_pools: snapshot.makes_pools,
            teams: snapshot.teams,
        }
    }

    /// Disables or enables keys. Once the change is stored and so outlives a restart, the reply has
    /// all accounts.
    async fn switch(&self, payload: &[u8], on: bool) -> ControlAnswer {
        let SwitchRequest { account, key } = parse(payload)?;
        if !self.worker.switch(&account, key.as_deref(), on) {
            let accounts = self.accounts().accounts;
            let problem = unknown_key(&account, key.as_deref(), &accounts);
            return Err(failed(404, problem));
        }
        let act = if on { "enabled" } else { "disabled" };
        info!(account, key, "{act} by an operator");
        if !self.writer.write().await {
            return Err(failed(
                503,
                format!("{act}, but not written down, so a restart may undo it; ask again"),
            ));
        }
        json(&self.accounts())
    }

    /// Stops calls for a pool, an account or a team. The reply has everything that is paused.
    async fn pause(&self, payload: &[u8]) -> ControlAnswer {
        let what: PauseTarget = parse(payload)?;
        let (is_known, kind, name) = match &what {
            PauseTarget::Pool(name) => (self.knows_pool(name), "pool", name),
            PauseTarget::Account(name) => (self.knows_account(name), "account", name),
            PauseTarget::Team(name) => (is_name(name), "team", name),
        };
        if !is_known {
            return Err(failed(404, format!("there is no {kind} `{name}`")));
        }
        info!(?what, "paused by an operator");
        let stored = self.book.pause(what).await;
        stored.map_err(not_stored)?;
        self.paused()
    }

    fn paused(&self) -> ControlAnswer {
        let paused = self.book.controls().paused();
        json(&OrdersReply { paused })
    }

    async fn resume(&self, payload: &[u8]) -> ControlAnswer {
        let what: PauseTarget = parse(payload)?;
        info!(?what, "resumed by an operator");
        let stored = self.book.resume(&what).await;
        stored.map_err(not_stored)?;
        self.paused()
    }

    /// Cancels jobs that were published until now.
    async fn cancel(&self, payload: &[u8]) -> ControlAnswer {
        let what: CancelledJobs = parse(payload)?;
        let CancelledJobs { team, batch, id } = &what;
        if batch.is_none() && id.is_none() {
            return Err(failed(400, "name a batch, or a job"));
        }
        let has_names = is_name(team) && batch.as_deref().is_none_or(is_name);
        if !has_names {
            return Err(failed(400, "team and batch must match [A-Za-z0-9_-]{1,64}"));
        }
        let at = SystemClock.now();
        info!(?what, "cancelled by an operator");
        let stored = self.book.cancel(what.clone(), at);
        stored.await.map_err(not_stored)?;
        let queue = self.connection.queue();
        let rescheduled = queue.hasten(&what, at).await.map_err(not_hastened)?;
        json(&CancelReply {
            what,
            at,
            rescheduled,
        })
    }

    async fn dead_list(&self, payload: &[u8]) -> ControlAnswer {
        let filter = match payload {
            b"" => LetterFilter::default(),
            payload => parse(payload)?,
        };
        let letters = self.dead_letters().await?;
        let page = letters.list(&filter).await;
        json(&page.map_err(letter_error)?)
    }

    async fn dead_show(&self, payload: &[u8]) -> ControlAnswer {
        let request: LetterRequest = parse(payload)?;
        let letters = self.dead_letters().await?;
        let letter = letters.get(request.sequence).await;
        let (letter, message) = letter.map_err(letter_error)?;
        json(&ShownLetter {
            letter,
            message: String::from_utf8_lossy(&message).into_owned(),
        })
    }

    async fn dead_replay(&self, payload: &[u8]) -> ControlAnswer {
        let LetterRequest { sequence, pool } = parse(payload)?;
        if let Some(pool) = &pool
            && !self.knows_pool(pool)
        {
            return Err(failed(404, format!("there is no pool `{pool}`")));
        }
        let letters = self.dead_letters().await?;
        let letter = letters.replay(sequence, pool.as_deref()).await;
        let letter = letter.map_err(letter_error)?;
        info!(sequence, pool, "a dead letter is replayed by an operator");
        json(&letter)
    }

    async fn dead_drop(&self, payload: &[u8]) -> ControlAnswer {
        let LetterRequest { sequence, .. } = parse(payload)?;
        let letters = self.dead_letters().await?;
        let letter = letters.drop(sequence).await;
        let letter = letter.map_err(letter_error)?;
        info!(sequence, "a dead letter is dropped by an operator");
        json(&letter)
    }

    async fn dead_letters(&self) -> Result<DeadLetters<'_>, error::Error> {
        DeadLetters::open(&self.connection)
            .await
            .map_err(letter_error)
    }

    fn knows_pool(&self, name: &str) -> bool {
        let pools = self.worker.snapshot().pools;
        pools.iter().any(|(known, _)| known == name)
    }

    fn knows_account(&self, name: &str) -> bool {
        let accounts = self.worker.snapshot().accounts;
        accounts.iter().any(|known| known.name == name)
    }

    async fn results(&self, payload: &[u8]) -> ControlAnswer {
        let ResultsRequest { team, batch, id } = parse(payload)?;
        let identity = Identity { team, batch, id };
        let record = tokio::task::block_in_place(|| self.worker.result(&identity))
            .map_err(|error| failed(500, error))?;
        match record {
            Some(record) => {
                let queue = self.connection.queue();
                let message = queue.message(&record.completion, None).await;
                message.map_err(|error| failed(503, error))
            }
            None => {
                let (mut headers, none) = json(&ResultsReply::None)?;
                if self.worker.has(&identity) {
                    headers.insert(IN_PROGRESS_HEADER, "true");
                }
                Ok((headers, none))
            }
        }
    }

    /// Returns true if the reply subject of a request is allowed for its team, or for an operator. NATS
    /// does not check that.
    fn may_answer(&self, endpoint: &str, request: &Request) -> bool {
        // The team is the last token, even if the pool is wrong. The answer then reports that.
        let subject = request.message.subject.as_str();
        let last = subject.rsplit_once('.').map_or(subject, |(_, last)| last);
        let team = if endpoint == "ask" { last } else { "" };
        // The server itself writes such a subject if the request comes from another NATS account.
        let is_mapped = |reply: &str| reply.starts_with("_R_.");
        let reply = request.message.reply.as_ref();
        reply.is_some_and(|reply| is_mapped(reply) || self.worker.may_reply(reply, team))
    }

    /// Publishes the request as a job and waits for the copy of its completion.
    async fn ask(&self, request: &Request) -> ControlAnswer {
        let Connection { client, names, .. } = &self.connection;
        let Message {
            subject,
            headers: given,
            payload,
            ..
        } = &request.message;
        let flow = names.flow_of_ask(subject);
        let flow = flow.ok_or_else(|| failed(400, "the subject names no pool and team"))?;
        let given = given.as_ref();
        if given.is_some_and(|headers| headers.get(FORMAT_1_REVISION_HEADER).is_some()) {
            let problem = format!("the header {FORMAT_1_REVISION_HEADER} is now {REVISION_HEADER}");
            return Err(failed(400, problem));
        }
        let inbox = client.new_inbox();
        let mut copies = client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| failed(503, error))?;
        let mut headers = HeaderMap::new();
        headers.insert(REPLY_TO_HEADER, inbox);
        pass_object(given, &mut headers);
        let job = names.job(&flow);
        let published = self.connection.publish_job(&job, &headers, payload.clone());
        published.await.map_err(|error| failed(503, error))?;
        match tokio::time::timeout(LONGEST_ASK, copies.next()).await {
            Ok(Some(copy)) => {
                let mut headers = HeaderMap::new();
                pass_object(copy.headers.as_ref(), &mut headers);
                Ok((headers, copy.payload))
            }
            _ => Err(failed(504, "no completion yet; the job is still queued")),
        }
    }
}

fn unknown_key(name: &str, key: Option<&str>, accounts: &[AccountReport]) -> String {
    let account = accounts.iter().find(|account| account.name == name);
    match (key, account) {
        (Some(key), Some(account)) => {
            let keys = account.keys.iter();
            let known = listed(keys.map(|key| key.name.as_str()));
            format!("account `{name}` has no key `{key}`; it has {known}")
        }
        _ => {
            let accounts = accounts.iter();
            let known = listed(accounts.map(|account| account.name.as_str()));
            format!("there is no account `{name}`; known accounts: {known}")
        }
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, error::Error> {
    serde_json::from_slice(payload).map_err(|error| failed(400, error))
}

fn not_hastened(problem: queue::Error) -> error::Error {
    failed(
        503,
        format!("cancelled, but those that wait for their time end only then: {problem}"),
    )
}

fn letter_error(problem: dead_letters::Error) -> error::Error {
    match problem {
        dead_letters::Error::Unfit(problem) => failed(404, problem),
        dead_letters::Error::Unavailable(problem) => failed(503, problem),
    }
}

fn not_stored(problem: String) -> error::Error {
    failed(
        503,
        format!("done, but not written down, so a restart may undo it; ask again: {problem}"),
    )
}

fn pass_object(from: Option<&HeaderMap>, to: &mut HeaderMap) {
    if let Some(object) = object_of(from) {
        to.insert(OBJECT_HEADER, object);
    }
}

fn json(value: &impl Serialize) -> ControlAnswer {
    let json = serde_json::to_vec(value).map_err(|error| failed(500, error))?;
    Ok((HeaderMap::new(), json.into()))
}

fn failed(code: usize, problem: impl std::fmt::Display) -> error::Error {
    error::Error {
        code,
        status: problem.to_string(),
    }
}
