//! The jobs of one call: usually one job; otherwise several whose embeddings share a request.
//!
//! Where a limit counts calls, a request of a thousand texts costs as little of it as one of a single text. If such a
//! request is refused, its jobs are split into halves until the bad job is alone, so that it fails no other.

use forebay_schemas::Class;
use forebay_schemas::Job;
use serde_json::value::to_raw_value;
use tracing::debug;

use crate::execute::merged_answer::{MergedAnswer, inputs_of, outcomes};
use crate::job::admitted_job::AdmittedJob;
use crate::job::merge_key::{INPUT, may_be_of_one, texts};
use crate::job::merge_size::{MergeSizes, SizedCall, SizedOutcome};
use crate::outcome::outcome::CallOutcome;

/// Jobs that share one call.
#[derive(Debug)]
pub(crate) struct MergedCall {
    /// At least one; the first is the head.
    jobs: Vec<AdmittedJob>,
    /// The request for all jobs; `None` if there is one job, whose own request is sent.
    merged: Option<Job>,
}

impl MergedCall {
    /// The call of `head`, and of the jobs that share it.
    pub(crate) fn of(head: AdmittedJob, others: Vec<AdmittedJob>) -> Self {
        let mut jobs = vec![head];
        jobs.extend(others);
        let merged = (jobs.len() > 1).then(|| merge(&jobs));
        Self { jobs, merged }
    }

    /// The job that is encoded for the provider: the only one, or all texts in one.
    pub(crate) fn job(&self) -> &Job {
        self.merged.as_ref().unwrap_or(&self.jobs[0].job)
    }

    /// The jobs, at least one.
    pub(crate) fn jobs(&self) -> &[AdmittedJob] {
        &self.jobs
    }

    pub(crate) fn jobs_mut(&mut self) -> &mut [AdmittedJob] {
        &mut self.jobs
    }

    /// Estimated prompt tokens of all jobs.
    pub(crate) fn input_tokens(&self) -> u64 {
        let tokens = self.jobs.iter().map(|admitted| admitted.cost.input_tokens);
        tokens.sum()
    }

    /// Texts of all jobs.
    fn inputs(&self) -> usize {
        self.jobs.iter().map(inputs_of).sum()
    }

    /// Logs for each job but the head whose call it shares: the call's events are in the head's span.
    pub(crate) fn log_merge(&self) {
        let head = &self.jobs[0].identity;
        for admitted in &self.jobs[1..] {
            let _in_span = admitted.span.enter();
            debug!(%head, "shares the call of another job");
        }
    }

    /// Returns the outcome, or a malformed response if a merged call's answer has not one vector for each text.
    pub(crate) fn verified(&self, outcome: CallOutcome) -> CallOutcome {
        let answer = outcome.response.as_ref();
        let answer = answer.filter(|_| outcome.class.is_none() && self.jobs.len() > 1);
        if answer.is_none_or(|response| MergedAnswer::read(response, self.inputs()).is_some()) {
            return outcome;
        }
        CallOutcome {
            class: Some(Class::MalformedResponse),
            response: None,
            code: "other_vectors".to_owned(),
            message: format!(
                "the provider's answer has not one vector for each of {} texts",
                self.inputs()
            ),
            ..outcome
        }
    }

    /// Returns true if one of several jobs may have caused the failure, so that they must be called apart.
    pub(crate) fn must_split(&self, outcome: &CallOutcome) -> bool {
        self.jobs.len() > 1 && outcome.class.is_some_and(may_be_of_one)
    }

    /// Returns the sample from which the size of later calls is learned. `bytes` is the size of the answer.
    pub(crate) fn size_sample(&self, outcome: &CallOutcome, bytes: usize) -> SizedCall {
        let head = self.jobs[0].merge.as_ref();
        let outcome = match outcome.class {
            None => SizedOutcome::Answered { bytes },
            Some(_) if self.must_split(outcome) => SizedOutcome::MustSplit,
            Some(_) => SizedOutcome::Failed,
        };
        SizedCall {
            texts: self.inputs(),
            is_part: head.is_some_and(|merge| merge.part.is_some()),
            outcome,
        }
    }

    /// Splits the call into two halves. Each half is merged with itself alone from now on.
    pub(crate) fn split(self, sizes: &MergeSizes) -> Vec<AdmittedJob> {
        let mut jobs = self.jobs;
        let half = jobs.len().div_ceil(2);
        for part in jobs.chunks_mut(half) {
            let number = sizes.next_part();
            for admitted in part {
                admitted.set_part(number);
            }
        }
        jobs
    }

    /// Returns each job with its own part of the outcome.
    pub(crate) fn divide_outcome(self, outcome: CallOutcome) -> Vec<(AdmittedJob, CallOutcome)> {
        let outcomes = match self.jobs.len() {
            1 => vec![outcome],
            _ => outcomes(&self.jobs, outcome),
        };
        self.jobs.into_iter().zip(outcomes).collect()
    }
}

/// The head's job with the texts of all jobs.
fn merge(jobs: &[AdmittedJob]) -> Job {
    let texts: Vec<_> = jobs
        .iter()
        .filter_map(|admitted| texts(&admitted.job))
        .flatten()
        .collect();
    let mut job = jobs[0].job.clone();
    if let Ok(input) = to_raw_value(&texts) {
        job.body.insert(INPUT.to_owned(), input);
    }
    job
}
