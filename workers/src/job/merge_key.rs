//! Which embeddings jobs can share a call.

use std::sync::Arc;

use forebay_schemas::{Attempt, Class, Job, OnAmbiguous};
use serde_json::value::RawValue;

use forebay_providers::WorkKind;

/// The field of a body that holds the texts.
pub(crate) const INPUT: &str = "input";

/// Returns true if a failure may be caused by one text of several.
pub(crate) fn may_be_of_one(class: Class) -> bool {
    matches!(
        class,
        Class::BadRequest
            | Class::ContextTooLong
            | Class::ContentFiltered
            | Class::ExceedsLimit
            | Class::MalformedResponse
    )
}

/// Returns true if a merged call failed in a way that another of its jobs may have caused: it then proves nothing about
/// this job.
pub(crate) fn says_nothing(attempt: &Attempt) -> bool {
    attempt.jobs.is_some() && attempt.class().is_some_and(may_be_of_one)
}

/// How a job can share a call with others.
#[derive(Debug, Clone)]
pub(crate) struct MergeCandidate {
    /// Equal for jobs that differ in their texts alone.
    pub(crate) key: Arc<str>,
    /// The number of its texts.
    pub(crate) inputs: usize,
    /// The part of a split call that it belongs to. It shares calls with that part alone.
    pub(crate) part: Option<u64>,
    /// True while it waits in the fair queue for the jobs behind it.
    pub(crate) is_head: bool,
}

impl MergeCandidate {
    /// How `job` can share a call with others of its pool; `None` if it cannot.
    pub(crate) fn of(job: &Job, pool: &str) -> Option<Self> {
        // A job that must not be called twice must not be called again because of others.
        if WorkKind::of(&job.url) != Some(WorkKind::Embeddings)
            || job.on_ambiguous == OnAmbiguous::Fail
        {
            return None;
        }
        let texts = texts(job)?;
        // An empty text would be refused, and all others with it.
        if texts.iter().any(|text| matches!(text.get(), "\"\"" | "[]")) {
            return None;
        }
        let key = job.fingerprint_without(pool, Some(INPUT)).into();
        Some(Self {
            key,
            inputs: texts.len(),
            part: None,
            is_head: false,
        })
    }
}

/// The texts of a job, at least one. A list of numbers is one text in tokens.
pub(crate) fn texts(job: &Job) -> Option<Vec<Box<RawValue>>> {
    let input = job.body.get(INPUT)?;
    let begins_with = |raw: &RawValue, what: &[char]| raw.get().starts_with(what);
    if begins_with(input, &['"']) {
        return Some(vec![input.clone()]);
    }
    let items: Vec<Box<RawValue>> = serde_json::from_str(input.get()).ok()?;
    let first = items.first()?;
    if begins_with(
        first,
        &['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'],
    ) {
        return Some(vec![input.clone()]);
    }
    items
        .iter()
        .all(|item| begins_with(item, &['"', '[']))
        .then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(body: &str) -> Option<MergeCandidate> {
        let job = format!(r#"{{"url":"/v1/embeddings","body":{body}}}"#);
        MergeCandidate::of(&Job::parse(job.as_bytes()).expect("a job"), "p")
    }

    #[test]
    fn texts_and_tokens_can_be_merged_and_empty_ones_cannot() {
        for (body, inputs) in [
            (r#"{"input":"one"}"#, Some(1)),
            (r#"{"input":[1,2,3]}"#, Some(1)),
            (r#"{"input":["one","two"]}"#, Some(2)),
            (r#"{"input":[[1,2],[3]]}"#, Some(2)),
            (r#"{"input":""}"#, None),
            (r#"{"input":["one",""]}"#, None),
            (r#"{"input":[]}"#, None),
            (r#"{"input":7}"#, None),
            (r#"{"input":[null]}"#, None),
            ("{}", None),
        ] {
            assert_eq!(merge(body).map(|merge| merge.inputs), inputs, "{body}");
        }
        let key = |body: &str| merge(body).expect("it can be merged").key;
        assert_eq!(
            key(r#"{"input":"one","dimensions":8}"#),
            key(r#"{"dimensions": 8,"input":["two"]}"#)
        );
        assert_ne!(
            key(r#"{"input":"one","dimensions":8}"#),
            key(r#"{"input":"one"}"#)
        );
    }
}
