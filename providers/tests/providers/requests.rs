//! What is sent for a job: the path, the headers and the body, or the field that cannot be said.

use forebay_providers::{Endpoint, UnsupportedKind, WorkKind};
use forebay_schemas::Job;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::files;
use crate::targets::{self, Target};

/// A request of a fixture.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    pub(crate) name: String,
    url: Option<String>,
    body: Box<RawValue>,
}

impl Asked {
    pub(crate) fn job(&self) -> Job {
        targets::job(
            self.url.as_deref().unwrap_or(WorkKind::Chat.url()),
            &self.body,
        )
    }
}

/// The chats of which all providers are asked how many they can say.
pub(crate) fn chats() -> Vec<Asked> {
    files::jsonl("chats.jsonl")
}

/// What `job` becomes, without the host.
pub(crate) fn said(endpoint: &Endpoint, job: &Job, model: &str) -> Result<Value, Value> {
    let request = match endpoint.encode(job, model) {
        Ok(request) => request,
        Err(refused) => {
            assert_eq!(
                endpoint.refusal(job, model),
                Some(refused.clone()),
                "both ways to ask agree"
            );
            return Err(json!({ "field": refused.field, "problem": refused.problem }));
        }
    };
    assert_eq!(endpoint.refusal(job, model), None, "both ways to ask agree");
    let mut headers = Map::new();
    for (name, value) in &request.headers {
        headers.insert(name.to_string(), value.to_str().expect("text").into());
    }
    if headers
        .get("content-type")
        .is_some_and(|kind| kind == "application/json")
    {
        headers.remove("content-type");
    }
    let path = request
        .url
        .strip_prefix(&endpoint.base_url)
        .expect("under the address");
    let body: Value = serde_json::from_slice(&request.body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&request.body).into_owned().into());
    Ok(json!({ "path": path, "headers": headers, "body": body }))
}

fn golden(fixture: &str, target: &Target, asked: &[Asked]) -> Result<(), String> {
    let endpoint = target.endpoint();
    let lines: Vec<_> = asked
        .iter()
        .map(|asked| {
            let (key, value) = match said(&endpoint, &asked.job(), &target.model) {
                Ok(said) => ("said", said),
                Err(refused) => ("refused", refused),
            };
            json!({ "name": asked.name, key: value })
        })
        .collect();
    files::agree_lines(&format!("{fixture}/{}.jsonl", target.name), &lines)
}

fn goldens(fixture: &str) {
    let asked: Vec<Asked> = files::jsonl(&format!("{fixture}.jsonl"));
    let targets = targets::targets();
    let wrong: Vec<_> = targets
        .iter()
        .filter_map(|target| golden(fixture, target, &asked).err())
        .collect();
    files::none_of(&wrong);
}

#[test]
fn every_chat_is_said_in_every_dialect_or_refused_by_name() {
    assert_eq!(chats().len(), 50);
    goldens("chats");
}

#[test]
fn what_nobody_should_send_is_said_or_refused_by_name() {
    goldens("hostile");
}

/// What is wrong whoever is asked, of all that is refused at Mistral.
const MISTAKES: [&str; 25] = [
    "huge-seed",
    "zero-max-tokens",
    "negative-max-tokens",
    "no-messages",
    "no-content",
    "duplicate-tool-names",
    "choice-without-tools",
    "choice-of-unknown-tool",
    "result-without-call",
    "result-before-call",
    "result-without-id",
    "arguments-as-object",
    "image-not-base64",
    "file-of-bare-base64",
    "schema-missing",
    "messages-no-list",
    "message-no-object",
    "temperature-as-text",
    "stop-as-number",
    "tools-as-object",
    "embeddings-of-an-unknown-kind",
    "embeddings-of-nothing",
    "transcription-without-file",
    "transcription-without-a-name",
    "transcription-not-base64",
];

#[test]
fn a_mistake_is_told_from_what_a_provider_has_not() {
    let endpoint = targets::endpoint("mistral");
    let asked = ["hostile.jsonl", "kinds.jsonl"].map(files::jsonl::<Asked>);
    let is_mistake = |asked: &&Asked| {
        let refused = endpoint.refusal(&asked.job(), "model");
        refused.is_some_and(|refused| refused.obstacle == UnsupportedKind::InvalidValue)
    };
    let mistakes: Vec<_> = asked
        .iter()
        .flatten()
        .filter(is_mistake)
        .map(|asked| &asked.name)
        .collect();
    assert_eq!(mistakes, MISTAKES);
}

#[test]
fn every_other_kind_of_work_is_said_or_refused_by_name() {
    goldens("kinds");
}
