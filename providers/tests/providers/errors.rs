//! What providers' errors mean: a row for each of what they document, and for the words that are known to work.

use std::collections::{BTreeMap, BTreeSet};

use forebay_providers::ErrorScope;
use forebay_schemas::Class;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::answers::reply;
use crate::{files, targets};

/// An error of a provider.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// What is documented.
    row: String,
    status: u16,
    #[serde(default)]
    headers: Map<String, Value>,
    /// A text stands for bytes that are no JSON.
    body: Value,
    class: Class,
    scope: Option<ErrorScope>,
    /// How long the provider is taken to ask to wait, if it is.
    wait_ms: Option<u64>,
    /// The short name in the completion.
    code: Option<String>,
    #[serde(default, rename = "final")]
    is_final: bool,
    /// Whether it is a refusal that names no fault of the request.
    unexplained: Option<bool>,
    /// Whether no source confirms it.
    #[serde(default)]
    recalled: bool,
}

/// The classes that the fixtures of each provider have, and how many of its rows no source confirms.
pub(crate) fn covered() -> BTreeMap<String, (BTreeSet<&'static str>, usize)> {
    let rows = |stem: &String| files::json::<Vec<Row>>(&format!("errors/{stem}.json"));
    let of = |stem: String| {
        let rows = rows(&stem);
        let classes = rows.iter().map(|row| row.class.as_str()).collect();
        (
            stem,
            (classes, rows.iter().filter(|row| row.recalled).count()),
        )
    };
    files::stems("errors", ".json")
        .into_iter()
        .map(of)
        .collect()
}

fn check(provider: &str, row: &Row) -> Option<String> {
    let endpoint = targets::endpoint(provider);
    let ask = RawValue::from_string(r#"{"messages":[{"role":"user","content":"?"}]}"#.to_owned());
    let job = targets::chat(&ask.expect("JSON"));
    let bytes = match &row.body {
        Value::String(text) => text.clone().into_bytes(),
        body => serde_json::to_vec(body).expect("JSON"),
    };
    let reply = reply(row.status, &row.headers, bytes);
    let decoded = endpoint.decode(&job, "model", &reply, targets::now());
    let wait = decoded
        .retry_after
        .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    let agrees = decoded.class == Some(row.class)
        && row.scope.is_none_or(|scope| scope == decoded.scope)
        && wait == row.wait_ms
        && row
            .code
            .as_ref()
            .is_none_or(|code| decoded.code.as_ref() == Some(code))
        && row
            .unexplained
            .is_none_or(|unexplained| unexplained == decoded.is_unexplained)
        && decoded.is_final == row.is_final;
    let is = || {
        format!(
            "{provider}: {}: is {:?} of {:?}, waits {wait:?}, code {:?}, final {}, unexplained {}",
            row.row,
            decoded.class,
            decoded.scope,
            decoded.code,
            decoded.is_final,
            decoded.is_unexplained
        )
    };
    (!agrees).then(is)
}

#[test]
fn every_documented_error_means_what_is_documented() {
    let mut wrong = Vec::new();
    let mut rows = 0;
    for provider in files::stems("errors", ".json") {
        let all: Vec<Row> = files::json(&format!("errors/{provider}.json"));
        wrong.extend(all.iter().filter_map(|row| check(&provider, row)));
        rows += all.len();
    }
    files::none_of(&wrong);
    assert!(rows > 200, "{rows} rows");
}
