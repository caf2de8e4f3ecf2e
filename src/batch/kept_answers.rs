//! The answers that other batches of the team have to the same requests.
//!
//! # Why
//!
//! A batch is named after its file. A file that is edited is another batch, and most of its lines are answered already.
//!
//! # How
//!
//! The headers of the team's completions are read once. A line's answer is the last one under its id with its fingerprint, in
//! whatever batch.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Context as _;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use forebay_schemas::Status;
use forebay_schemas::flow::NO_BATCH;
use forebay_schemas::header::FINGERPRINT_HEADER;
use forebay_schemas::subjects::encode_id;
use futures::{StreamExt, TryStreamExt};

use crate::batch::completions::{COMPLETION_TIMEOUT, FoundCompletion, found};
use crate::batch::input::Batch;
use crate::nats::connection::Connection;

/// Limit of answers that are fetched at once.
const MAX_FETCHES: usize = 32;

/// The answers of other batches to lines that have none of their own.
#[derive(Debug, Default)]
pub(crate) struct KeptAnswers {
    /// The answers. Their ids are those of the lines.
    pub(crate) answers: Vec<FoundCompletion>,
    /// The number of answers of each batch.
    pub(crate) batches: BTreeMap<String, usize>,
}

/// The place of an answer in the stream.
#[derive(Debug)]
struct AnswerPlace {
    sequence: u64,
    subject: String,
}

impl KeptAnswers {
    /// Finds the answers of other batches to the lines of `batch`.
    ///
    /// # Errors
    /// Returns an error when the stream of completions cannot be read.
    pub(crate) async fn find(connection: &Connection, batch: &Batch) -> anyhow::Result<Self> {
        let places = places(connection, batch).await?;
        let found: Vec<_> = futures::stream::iter(places)
            .map(|(fingerprint, place)| fetch(connection, fingerprint, place))
            .buffer_unordered(MAX_FETCHES)
            .try_collect()
            .await?;
        let answers: Vec<_> = found.into_iter().flatten().collect();
        let mut batches = BTreeMap::new();
        for answer in &answers {
            let name = answer.completion.batch.clone().unwrap_or_default();
            *batches.entry(name).or_default() += 1;
        }
        Ok(Self { answers, batches })
    }
}

/// Returns the place of the last answer to each line that other batches have and `batch` has not, by fingerprint.
async fn places(
    connection: &Connection,
    batch: &Batch,
) -> anyhow::Result<Vec<(String, AnswerPlace)>> {
    let wanted: HashMap<_, _> = batch
        .lines
        .iter()
        .filter_map(|line| Some((encode_id(&line.id), batch.fingerprint(line)?)))
        .collect();
    let prefix = connection.names.completion_prefix(&batch.team);
    let (mut messages, mut pending) = headers(connection, &batch.team).await?;
    let mut own = HashSet::new();
    let mut found: HashMap<String, AnswerPlace> = HashMap::new();
    while pending > 0 {
        // A completion that is deleted meanwhile for lack of room never arrives.
        let Ok(message) = tokio::time::timeout(COMPLETION_TIMEOUT, messages.next()).await else {
            break;
        };
        let message = message.context("the stream of completions ended")?;
        let message = message.context("the stream of completions cannot be read")?;
        let info = message.info().map_err(|error| anyhow::anyhow!(error))?;
        pending = info.pending;
        let name = message.subject.strip_prefix(&prefix);
        let Some((in_batch, id)) = name.and_then(|name| name.split_once('.')) else {
            continue;
        };
        if in_batch == batch.name {
            own.insert(id.to_owned());
        }
        let fingerprint = message.headers.as_ref();
        let fingerprint = fingerprint.and_then(|headers| headers.get(FINGERPRINT_HEADER));
        let is_wanted = wanted
            .get(id)
            .is_some_and(|wanted| Some(wanted.as_str()) == fingerprint.map(AsRef::as_ref));
        if is_wanted && in_batch != batch.name && in_batch != NO_BATCH {
            let place = AnswerPlace {
                sequence: info.stream_sequence,
                subject: message.subject.to_string(),
            };
            let is_newer = |known: &AnswerPlace| known.sequence < place.sequence;
            if found.get(id).is_none_or(is_newer) {
                found.insert(id.to_owned(), place);
            }
        }
    }
    found.retain(|id, _| !own.contains(id));
    let with_fingerprint = |(id, place)| Some((wanted.get(&id)?.clone(), place));
    Ok(found.into_iter().filter_map(with_fingerprint).collect())
}

/// Returns the headers of the last completion on each subject of the team, and their number.
async fn headers(connection: &Connection, team: &str) -> anyhow::Result<(Ordered, u64)> {
    let unreadable = "the stream of completions cannot be read";
    let name = connection.names.completions_stream();
    let stream = connection.context.get_stream(name).await;
    let config = OrderedConfig {
        filter_subject: connection.names.completions_of(team, None),
        deliver_policy: DeliverPolicy::LastPerSubject,
        headers_only: true,
        ..OrderedConfig::default()
    };
    let consumer = stream.context(unreadable)?.create_consumer(config).await;
    let consumer = consumer.context(unreadable)?;
    let pending = consumer.cached_info().num_pending;
    Ok((consumer.messages().await.context(unreadable)?, pending))
}

/// Returns the answer at a place, if it is one to the request with this fingerprint.
async fn fetch(
    connection: &Connection,
    fingerprint: String,
    place: AnswerPlace,
) -> anyhow::Result<Option<FoundCompletion>> {
    let own = connection.queue().own_completion(&place.subject).await?;
    let Some(message) = own else { return Ok(None) };
    let headers = Some(&message.headers);
    let completion = connection
        .open_completion(&message.payload, headers)
        .await?;
    let found = found(completion, headers, (message.sequence, 0));
    let is_answer = found.completion.status == Status::Succeeded
        && found.fingerprint.as_deref() == Some(fingerprint.as_str());
    Ok(is_answer.then_some(found))
}
