//! Publishes the one completion of an identity, or finds the one that is there.

use std::sync::Arc;

use jiff::Timestamp;

use crate::complete::persist::persist;
use crate::job::admitted_job::AdmittedJob;
use crate::large::size_of;
use crate::queue::{CompletionPublication, ExistingCompletion, PublishOutcome, Queue};
use crate::store::results::ResultRecord;
use crate::until_done::Retries;
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Publishes the completion, however long that takes. If another one is there already, it is the answer and is stored.
/// Returns the record that holds; `None` if it answers another request, so that the identity is not this job's.
pub(crate) async fn publish<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: &mut AdmittedJob,
    record: ResultRecord,
) -> Option<ResultRecord> {
    let mut record = record;
    let mut replaces = 0;
    let mut retries = Retries::of("publishing a completion");
    let mut publishing = state.backpressure.publishing(size_of(&record.completion));
    loop {
        let publication = CompletionPublication {
            completion: &record.completion,
            fingerprint: &record.fingerprint,
            message: record.message.as_deref(),
            traceparent: admitted.delivery.traceparent.as_deref(),
            replaces,
        };
        let problem = match state.queue.complete(publication).await {
            Ok(PublishOutcome::First) => {
                admitted.unpublished = None;
                publishing.acknowledged(state.counters.unpublished());
                return Some(record);
            }
            Ok(PublishOutcome::Gone) => {
                replaces = 0;
                continue;
            }
            Ok(PublishOutcome::Already(existing)) => {
                match judge(*existing, &record, state.results.horizon(state.now())) {
                    CompletionJudgement::Replace { sequence, revision } => {
                        replaces = sequence;
                        if record.completion.revision != revision {
                            record.completion.revision = revision;
                            persist(state, admitted, &record).await;
                        }
                        continue;
                    }
                    CompletionJudgement::Keep(existing) => {
                        admitted.unpublished = None;
                        publishing.acknowledged(state.counters.unpublished());
                        // A newer answer may be stored by now where this one is not final.
                        if existing.completion.is_final() {
                            persist(state, admitted, &existing).await;
                        }
                        return (existing.fingerprint == record.fingerprint).then_some(*existing);
                    }
                }
            }
            Err(problem) => problem,
        };
        publishing.refused();
        retries.wait_after(problem).await;
    }
}

/// The decision about the message that is on a completion's subject already.
enum CompletionJudgement {
    /// It does not count: replace it by this revision.
    Replace { sequence: u64, revision: u32 },
    /// It is the identity's answer.
    Keep(Box<ResultRecord>),
}

/// A completion is replaced if it is older than the dedupe horizon, or cannot be read, or is not final and answers another
/// message. The identity is then called again, as its next revision.
fn judge(
    existing: ExistingCompletion,
    ours: &ResultRecord,
    horizon: Timestamp,
) -> CompletionJudgement {
    let (sequence, revision) = (existing.sequence, ours.completion.revision);
    let Some(completion) = existing.completion else {
        return CompletionJudgement::Replace { sequence, revision };
    };
    let same_message = ours.message.is_some() && existing.message == ours.message;
    let repeats_ours = same_message && !ours.completion.is_final();
    // A completion of another identity that was published here is no answer to this one.
    let ours_by_name = completion.identity() == ours.completion.identity();
    let counts = ours_by_name && existing.published >= horizon && completion.revision >= revision;
    if counts && (completion.is_final() || repeats_ours) {
        // Without a fingerprint, it is taken for an answer to our request.
        let fingerprint = existing
            .fingerprint
            .unwrap_or_else(|| ours.fingerprint.clone());
        return CompletionJudgement::Keep(Box::new(ResultRecord {
            fingerprint,
            message: existing.message,
            completion,
        }));
    }
    CompletionJudgement::Replace {
        sequence,
        revision: revision.max(completion.revision.saturating_add(1)),
    }
}
