//! One completion for an identity, whoever publishes it first.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::warn;

use crate::complete::persist::persist;
use crate::job::admitted_job::AdmittedJob;
use crate::queue::{CompletionPublication, ExistingCompletion, PublishOutcome, Queue};
use crate::store::results::ResultRecord;
use crate::until_done::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::upstream::Upstream;
use crate::worker_state::WorkerState;

/// Publishes the completion; if another was first, that one is the answer and is stored. `None` if that
/// one answers another request: the identity is not this job's.
pub(crate) async fn publish<Q: Queue, U: Upstream>(
    state: &Arc<WorkerState<Q, U>>,
    admitted: &AdmittedJob,
    record: ResultRecord,
) -> Option<ResultRecord> {
    let mut record = record;
    let mut replaces = 0;
    let mut pause = FIRST_PAUSE;
    let mut _few_calls = None;
    loop {
        let publication = CompletionPublication {
            completion: &record.completion,
            fingerprint: &record.fingerprint,
            message: record.message.as_deref(),
            traceparent: admitted.delivery.traceparent.as_deref(),
            replaces,
        };
        let problem = match state.queue.complete(publication).await {
            Ok(PublishOutcome::First) => return Some(record),
            Ok(PublishOutcome::Gone) => {
                replaces = 0;
                continue;
            }
            Ok(PublishOutcome::Already(standing)) => {
                match judge(*standing, &record, state.results.horizon(state.clock.now())) {
                    CompletionJudgement::Replace { sequence, revision } => {
                        replaces = sequence;
                        if record.completion.revision != revision {
                            record.completion.revision = revision;
                            persist(state, admitted, &record).await;
                        }
                        continue;
                    }
                    CompletionJudgement::Stands(standing) => {
                        // A newer answer may be stored by now where this one is not final.
                        if standing.completion.is_final() {
                            persist(state, admitted, &standing).await;
                        }
                        return (standing.fingerprint == record.fingerprint).then_some(*standing);
                    }
                }
            }
            Err(problem) => problem,
        };
        if _few_calls.is_none() {
            warn!(identity = %admitted.identity, %problem, "a completion cannot be published yet");
            _few_calls = Some(state.backpressure.cannot_publish());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What to do about the message that stands on a completion's subject.
enum CompletionJudgement {
    /// It is no answer that counts: replace it, as this revision.
    Replace { sequence: u64, revision: u32 },
    /// It is the identity's answer.
    Stands(Box<ResultRecord>),
}

/// Beyond the dedupe horizon an identity may be called again, so what stands there is replaced by the next
/// revision; so is what is not final, unless it is the answer to the same message, and what cannot be
/// read as a completion.
fn judge(
    standing: ExistingCompletion,
    ours: &ResultRecord,
    horizon: Timestamp,
) -> CompletionJudgement {
    let (sequence, revision) = (standing.sequence, ours.completion.revision);
    let Some(completion) = standing.completion else {
        return CompletionJudgement::Replace { sequence, revision };
    };
    let same_message = ours.message.is_some() && standing.message == ours.message;
    let repeats_ours = same_message && !ours.completion.is_final();
    // Somebody else's, that was put there, is no answer to this.
    let ours_by_name = completion.identity() == ours.completion.identity();
    let counts = ours_by_name && standing.published >= horizon && completion.revision >= revision;
    if counts && (completion.is_final() || repeats_ours) {
        // One that does not say which request it answers is taken to answer ours.
        let fingerprint = standing
            .fingerprint
            .unwrap_or_else(|| ours.fingerprint.clone());
        return CompletionJudgement::Stands(Box::new(ResultRecord {
            fingerprint,
            message: standing.message,
            completion,
        }));
    }
    CompletionJudgement::Replace {
        sequence,
        revision: revision.max(completion.revision.saturating_add(1)),
    }
}
