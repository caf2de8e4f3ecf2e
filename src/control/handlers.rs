//! The handlers of requests on `ai.ctl.*` and `ai.ask.*`.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::service::{Request, error};
use bytes::Bytes;
use forebay_schemas::Identity;
use forebay_schemas::flow::is_name;
use forebay_schemas::format::FORMAT_1_REVISION_HEADER;
use forebay_schemas::header::{
    IN_PROGRESS_HEADER, OBJECT_HEADER, REPLY_TO_HEADER, REVISION_HEADER,
};
use forebay_workers::clock::{Clock, SystemClock};
use forebay_workers::queue::jetstream::{JetStreamQueue, object_of};
use forebay_workers::{CancelledJobs, PauseTarget};
use futures::StreamExt;
use serde::Serialize;
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
        let answer = match endpoint {
            "queues" => self.queues().await,
            "accounts" => json(&self.accounts()),
            "accounts-disable" => self.switch(&request.message.payload, false).await,
            "accounts-enable" => self.switch(&request.message.payload, true).await,
            "pause" => self.pause(&request.message.payload).await,
            "resume" => self.resume(&request.message.payload).await,
            "cancel" => self.cancel(&request.message.payload).await,
            "dead-list" => self.dead_list(&request.message.payload).await,
            "dead-show" => self.dead_show(&request.message.payload).await,
            "dead-replay" => self.dead_replay(&request.message.payload).await,
            "dead-drop" => self.dead_drop(&request.message.payload).await,
            "results" => self.results(&request.message.payload).await,
            _ if !self.may_answer(&request) => {
                warn!(subject = %request.message.subject, "a request names a reply subject that is not its team's");
                return;
            }
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
        let paused = self.book.orders().paused();
        let forebay_workers::WorkerSnapshot {
            prefetched,
            in_flight,
            ended,
            ..
        } = snapshot;
        let stream = self
            .connection
            .context
            .get_stream(self.connection.names.scheduled_stream())
            .await;
        let scheduled = stream
            .map_err(|error| failed(503, error))?
            .cached_info()
            .state
            .messages;
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
        AccountsReport {
            accounts: snapshot
                .accounts
                .into_iter()
                .map(AccountReport::from)
                .collect(),
            pools: snapshot.pools,
            models: snapshot.models,
            makes_pools: snapshot.makes_pools,
            teams: snapshot.teams,
        }
    }

    /// Disables or enables keys. Once the change is stored and so outlives a restart, the reply has
    /// all accounts.
    async fn switch(&self, payload: &[u8], on: bool) -> ControlAnswer {
        let request: SwitchRequest =
            serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        if !self
            .worker
            .switch(&request.account, request.key.as_deref(), on)
        {
            return Err(failed(
                404,
                unknown_key(&request, &self.accounts().accounts),
            ));
        }
        let act = if on { "enabled" } else { "disabled" };
        info!(
            account = request.account,
            key = request.key,
            "{act} by an operator"
        );
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
        let what: PauseTarget =
            serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        let unknown = match &what {
            PauseTarget::Pool(name) => (!self.knows_pool(name)).then_some("pool"),
            PauseTarget::Account(name) => self
                .worker
                .snapshot()
                .accounts
                .iter()
                .all(|known| known.name != *name)
                .then_some("account"),
            PauseTarget::Team(name) => (!is_name(name)).then_some("team"),
        };
        if let (
            Some(kind),
            PauseTarget::Pool(name) | PauseTarget::Account(name) | PauseTarget::Team(name),
        ) = (unknown, &what)
        {
            return Err(failed(404, format!("there is no {kind} `{name}`")));
        }
        info!(?what, "paused by an operator");
        self.book.pause(what).await.map_err(not_stored)?;
        json(&OrdersReply {
            paused: self.book.orders().paused(),
        })
    }

    async fn resume(&self, payload: &[u8]) -> ControlAnswer {
        let what: PauseTarget =
            serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        info!(?what, "resumed by an operator");
        self.book.resume(&what).await.map_err(not_stored)?;
        json(&OrdersReply {
            paused: self.book.orders().paused(),
        })
    }

    /// Cancels jobs that were published until now.
    async fn cancel(&self, payload: &[u8]) -> ControlAnswer {
        let what: CancelledJobs =
            serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        if what.batch.is_none() && what.id.is_none() {
            return Err(failed(400, "name a batch, or a job"));
        }
        let named = is_name(&what.team) && what.batch.as_deref().is_none_or(is_name);
        if !named {
            return Err(failed(400, "team and batch must match [A-Za-z0-9_-]{1,64}"));
        }
        let at = SystemClock.now();
        info!(?what, "cancelled by an operator");
        self.book
            .cancel(what.clone(), at)
            .await
            .map_err(not_stored)?;
        let rescheduled = self.queue().hasten(&what, at).await.map_err(|error| {
            failed(
                503,
                format!("cancelled, but those that wait for their time end only then: {error}"),
            )
        })?;
        json(&CancelReply {
            what,
            at,
            rescheduled,
        })
    }

    async fn dead_list(&self, payload: &[u8]) -> ControlAnswer {
        let filter = match payload {
            b"" => LetterFilter::default(),
            payload => serde_json::from_slice(payload).map_err(|error| failed(400, error))?,
        };
        json(
            &self
                .dead_letters()
                .await?
                .list(&filter)
                .await
                .map_err(letter_error)?,
        )
    }

    async fn dead_show(&self, payload: &[u8]) -> ControlAnswer {
        let request: LetterRequest =
            serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        let (letter, message) = self
            .dead_letters()
            .await?
            .get(request.sequence)
            .await
            .map_err(letter_error)?;
        json(&ShownLetter {
            letter,
            message: String::from_utf8_lossy(&message).into_owned(),
        })
    }

    async fn dead_replay(&self, payload: &[u8]) -> ControlAnswer {
        let LetterRequest { sequence, pool } =
            serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        if let Some(pool) = &pool
            && !self.knows_pool(pool)
        {
            return Err(failed(404, format!("there is no pool `{pool}`")));
        }
        let letter = self
            .dead_letters()
            .await?
            .replay(sequence, pool.as_deref())
            .await
            .map_err(letter_error)?;
        info!(sequence, pool, "a dead letter is replayed by an operator");
        json(&letter)
    }

    async fn dead_drop(&self, payload: &[u8]) -> ControlAnswer {
        let request: LetterRequest =
            serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        let letter = self
            .dead_letters()
            .await?
            .drop(request.sequence)
            .await
            .map_err(letter_error)?;
        info!(
            sequence = request.sequence,
            "a dead letter is dropped by an operator"
        );
        json(&letter)
    }

    fn queue(&self) -> JetStreamQueue {
        JetStreamQueue::new(
            self.connection.client.clone(),
            self.connection.names.clone(),
        )
    }

    async fn dead_letters(&self) -> Result<DeadLetters<'_>, error::Error> {
        DeadLetters::open(&self.connection)
            .await
            .map_err(letter_error)
    }

    fn knows_pool(&self, name: &str) -> bool {
        self.worker
            .snapshot()
            .pools
            .iter()
            .any(|(known, _)| known == name)
    }

    async fn results(&self, payload: &[u8]) -> ControlAnswer {
        let request: ResultsRequest =
            serde_json::from_slice(payload).map_err(|error| failed(400, error))?;
        let identity = Identity {
            team: request.team,
            batch: request.batch,
            id: request.id,
        };
        let record = tokio::task::block_in_place(|| self.worker.result(&identity))
            .map_err(|error| failed(500, error))?;
        match record {
            Some(record) => self
                .queue()
                .message(&record.completion, None)
                .await
                .map_err(|error| failed(503, error)),
            None => {
                let (mut headers, none) = json(&ResultsReply::None)?;
                if self.worker.has(&identity) {
                    headers.insert(IN_PROGRESS_HEADER, "true");
                }
                Ok((headers, none))
            }
        }
    }

    /// Returns true if the reply subject of a request on `ai.ask` is allowed for its team. NATS
    /// does not check that.
    fn may_answer(&self, request: &Request) -> bool {
        // The team is the last token, even if the pool is wrong. The answer then reports that.
        let team = request
            .message
            .subject
            .rsplit('.')
            .next()
            .unwrap_or_default();
        // The server itself writes such a subject if the request comes from another NATS account.
        let is_mapped = |reply: &str| reply.starts_with("_R_.");
        let reply = request.message.reply.as_ref();
        reply.is_some_and(|reply| is_mapped(reply) || self.worker.may_reply(reply, team))
    }

    /// Publishes the request as a job and waits for the copy of its completion.
    async fn ask(&self, request: &Request) -> ControlAnswer {
        let Connection {
            client,
            context,
            names,
            ..
        } = &self.connection;
        let flow = names
            .flow_of_ask(&request.message.subject)
            .ok_or_else(|| failed(400, "the subject names no pool and team"))?;
        let has = |name| {
            request
                .message
                .headers
                .as_ref()
                .is_some_and(|headers| headers.get(name).is_some())
        };
        if has(FORMAT_1_REVISION_HEADER) {
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
        pass_object(request.message.headers.as_ref(), &mut headers);
        let published = context
            .publish_with_headers(names.job(&flow), headers, request.message.payload.clone())
            .await
            .map_err(|error| failed(503, error))?;
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

fn unknown_key(request: &SwitchRequest, accounts: &[AccountReport]) -> String {
    let names = |names: Vec<&str>| names.join(", ");
    match (
        &request.key,
        accounts
            .iter()
            .find(|account| account.name == request.account),
    ) {
        (Some(key), Some(account)) => {
            let known = names(account.keys.iter().map(|key| key.name.as_str()).collect());
            format!(
                "account `{}` has no key `{key}`; it has {known}",
                account.name
            )
        }
        _ => {
            let known = names(
                accounts
                    .iter()
                    .map(|account| account.name.as_str())
                    .collect(),
            );
            format!(
                "there is no account `{}`; known accounts: {known}",
                request.account
            )
        }
    }
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
