//! What providers answer, as the unified answer; and that the next request gives back what they want back.

use forebay_providers::Reply;
use forebay_providers::WorkKind;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::{files, requests, targets};

/// An answer of a provider.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answered {
    name: String,
    provider: String,
    #[serde(default = "model")]
    model: String,
    /// The job's `url`.
    url: Option<String>,
    /// The job's body.
    asked: Option<Box<RawValue>>,
    #[serde(default)]
    headers: Map<String, Value>,
    /// A text that is no JSON stands as it is.
    body: Box<RawValue>,
    text: Option<String>,
}

fn model() -> String {
    "model".to_owned()
}

/// An answer as it arrives.
pub(crate) fn reply(status: u16, headers: &Map<String, Value>, body: Vec<u8>) -> Reply {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::try_from(name.as_str()).expect("a header's name");
        map.insert(
            name,
            HeaderValue::try_from(value.as_str().expect("text")).expect("a header's value"),
        );
    }
    Reply {
        status,
        headers: map,
        body: body.into(),
    }
}

fn read(answered: &Answered) -> Value {
    let endpoint = targets::endpoint(&answered.provider);
    let ask = RawValue::from_string(r#"{"messages":[{"role":"user","content":"?"}]}"#.to_owned());
    let ask = answered.asked.clone().unwrap_or_else(|| ask.expect("JSON"));
    let job = targets::job(
        answered.url.as_deref().unwrap_or(WorkKind::Chat.url()),
        &ask,
    );
    let bytes = answered
        .text
        .clone()
        .unwrap_or_else(|| answered.body.get().to_owned())
        .into_bytes();
    let reply = reply(200, &answered.headers, bytes);
    let decoded = endpoint.decode(&job, &answered.model, &reply, targets::now());
    let mut line = json!({ "name": answered.name, "class": decoded.class });
    for (name, value) in [("code", decoded.code), ("message", decoded.message)] {
        if let Some(value) = value {
            line[name] = value.into();
        }
    }
    if let Some(usage) = decoded.usage {
        line["usage"] = serde_json::to_value(usage).expect("JSON");
    }
    if let Some(response) = decoded.response {
        line["body"] = serde_json::from_str(response.body.get()).expect("JSON");
    }
    if let Some(message) = line
        .pointer("/body/choices/0/message")
        .filter(|_| job.url == WorkKind::Chat.url())
    {
        line["next"] = next(answered, message);
    }
    line
}

/// The request of the next turn: what was answered, the results of its calls, and a question.
fn next(answered: &Answered, message: &Value) -> Value {
    let mut messages = vec![json!({ "role": "user", "content": "?" }), message.clone()];
    let calls = message["tool_calls"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for call in &calls {
        messages.push(json!({ "role": "tool", "tool_call_id": call["id"], "content": "done" }));
    }
    messages.push(json!({ "role": "user", "content": "Go on." }));
    let mut body = json!({ "messages": messages });
    if !calls.is_empty() {
        let name = &calls[0]["function"]["name"];
        body["tools"] = json!([{ "type": "function", "function": { "name": name } }]);
    }
    let job = targets::chat(&serde_json::value::to_raw_value(&body).expect("JSON"));
    let said = requests::said(
        &targets::endpoint(&answered.provider),
        &job,
        &answered.model,
    );
    said.map_or_else(
        |refused| json!({ "refused": refused }),
        |said| said["body"].clone(),
    )
}

fn fixtures() -> Vec<String> {
    files::stems("answers", ".json")
}

#[test]
fn every_answer_is_read_into_the_unified_one_and_can_be_sent_back() {
    let mut wrong = Vec::new();
    for stem in fixtures() {
        let answers: Vec<Answered> = files::json(&format!("answers/{stem}.json"));
        let lines: Vec<_> = answers.iter().map(read).collect();
        wrong.extend(files::agree_lines(&format!("answers/{stem}.golden.jsonl"), &lines).err());
    }
    files::none_of(&wrong);
}

/// What a provider signed is in the next request as it was in the answer.
#[test]
fn what_is_signed_goes_back_as_it_came() {
    let mut signed = 0;
    for stem in fixtures() {
        let answers: Vec<Answered> = files::json(&format!("answers/{stem}.json"));
        for answered in &answers {
            let body: Value = serde_json::from_str(answered.body.get()).expect("JSON");
            let mut found = Vec::new();
            signatures(&body, &mut found);
            let next = read(answered)["next"].to_string();
            for signature in found {
                let signature = Value::from(signature).to_string();
                assert!(
                    next.contains(&signature),
                    "{}: {signature} is not in {next}",
                    answered.name
                );
                signed += 1;
            }
        }
    }
    assert!(signed >= 8, "{signed} signatures went back");
}

fn signatures(value: &Value, found: &mut Vec<String>) {
    const SIGNED: [&str; 5] = [
        "signature",
        "thoughtSignature",
        "encrypted_content",
        "redactedContent",
        "tool_use_id",
    ];
    match value {
        Value::Array(items) => items.iter().for_each(|item| signatures(item, found)),
        Value::Object(map) => {
            for (name, value) in map {
                match value.as_str().filter(|_| SIGNED.contains(&name.as_str())) {
                    Some(signature) => found.push(signature.to_owned()),
                    None => signatures(value, found),
                }
            }
        }
        _ => {}
    }
}
