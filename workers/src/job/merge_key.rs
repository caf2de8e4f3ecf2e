//! Whether a job's embeddings can travel in one request with those of others, and with whose.

use std::sync::Arc;

use forebay_schemas::{Attempt, Class, Job, OnAmbiguous};
use serde_json::value::RawValue;

use forebay_providers::WorkKind;

/// The field of a body that holds the texts.
pub(crate) const INPUT: &str = "input";

/// Whether a failure may be that of one text of several.
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

/// Whether a call for several jobs failed for what may be another one's fault: it then says nothing of this one.
pub(crate) fn says_nothing(attempt: &Attempt) -> bool {
    attempt.jobs.is_some() && attempt.class().is_some_and(may_be_of_one)
}

/// How a job can travel with others.
#[derive(Debug, Clone)]
pub(crate) struct MergeCandidate {
    /// The same for all that can travel together.
    pub(crate) key: Arc<str>,
    /// Its texts.
    pub(crate) inputs: usize,
    /// Which part of a request that was refused it is of; only those travel with it.
    pub(crate) part: Option<u64>,
    /// Whether it waits in line for those that will travel with it.
    pub(crate) is_head: bool,
}

impl MergeCandidate {
    /// How `job` can travel with others of its pool, if it can.
    pub(crate) fn of(job: &Job, pool: &str) -> Option<Self> {
        // One that must not be called twice must not be asked again because of others.
        if WorkKind::of(&job.url) != Some(WorkKind::Embeddings)
            || job.on_ambiguous == OnAmbiguous::Fail
        {
            return None;
        }
        let texts = texts(job)?;
        // It would be refused, and all others with it.
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

/// The texts of a job: one, or several; a list of numbers is one in tokens.
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

    fn join(body: &str) -> Option<MergeCandidate> {
        let job = format!(r#"{{"url":"/v1/embeddings","body":{body}}}"#);
        MergeCandidate::of(&Job::parse(job.as_bytes()).expect("a job"), "p")
    }

    #[test]
    fn texts_and_tokens_can_travel_and_what_is_sure_to_be_refused_cannot() {
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
            assert_eq!(join(body).map(|join| join.inputs), inputs, "{body}");
        }
        let key = |body: &str| join(body).expect("it can travel").key;
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
