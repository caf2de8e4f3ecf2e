//! Every fixture with one thing in it replaced by another: whatever comes, it is said, refused by the name of a
//! field, or read as something; and nothing panics.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::answers::reply;
use crate::{files, targets};

#[derive(Deserialize)]
struct Body {
    body: Value,
}

#[derive(Deserialize)]
struct Answered {
    provider: String,
    body: Value,
    url: Option<String>,
    asked: Option<Box<RawValue>>,
}

/// What one thing is replaced by.
fn others() -> [Value; 8] {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5e300),
        json!("x"),
        json!([]),
        json!({}),
        deep,
    ]
}

/// The pointers to everything in a value.
pub(crate) fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| pointers(item, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

/// Each thing in turn becomes three others, so that over the fixtures each kind of thing becomes all of them.
fn each_mutation(value: &Value, others: &[Value], mut act: impl FnMut(&str, &Value)) {
    let mut found = Vec::new();
    pointers(value, "", &mut found);
    for (place, at) in found.iter().enumerate().filter(|(_, at)| !at.is_empty()) {
        for step in [0, 3, 5] {
            let mut mutated = value.clone();
            *mutated.pointer_mut(at).expect("there") =
                others[(place + step) % others.len()].clone();
            act(at, &mutated);
        }
    }
}

#[test]
fn a_chat_with_a_mistake_is_said_or_refused_by_name() {
    let chats: Vec<Body> = files::jsonl("chats.jsonl");
    let targets = targets::one_of_each_dialect();
    let others = others();
    let mut refusals = 0;
    for chat in &chats {
        each_mutation(&chat.body, &others, |at, body| {
            // A job that asks for a stream is no job.
            if at == "/stream" {
                return;
            }
            let job = targets::chat(&serde_json::value::to_raw_value(body).expect("JSON"));
            for (endpoint, target) in &targets {
                let Err(refused) = endpoint.encode(&job, &target.model) else {
                    continue;
                };
                refusals += 1;
                let named = refused.field == "body" || refused.field.starts_with("body.");
                assert!(named && !refused.problem.is_empty(), "{at}: {refused}");
            }
        });
    }
    assert!(refusals > 5_000, "{refusals} refusals");
}

#[test]
fn an_answer_with_a_mistake_is_read_as_something() {
    let others = others();
    let mut read = 0;
    for stem in files::stems("answers", ".json") {
        for answered in files::json::<Vec<Answered>>(&format!("answers/{stem}.json")) {
            let endpoint = targets::endpoint(&answered.provider);
            let ask = answered.asked.unwrap_or_else(|| {
                RawValue::from_string(r#"{"messages":[{"role":"user","content":"?"}]}"#.to_owned())
                    .expect("JSON")
            });
            let job = targets::job(
                answered.url.as_deref().unwrap_or("/v1/chat/completions"),
                &ask,
            );
            each_mutation(&answered.body, &others, |at, body| {
                let bytes = serde_json::to_vec(body).expect("JSON");
                for status in [200, 429] {
                    let reply = reply(status, &Map::new(), bytes.clone());
                    let decoded = endpoint.decode(&job, "model", &reply, targets::now());
                    let is_success = decoded.class.is_none();
                    assert!(!is_success || status == 200, "{at}");
                    assert!(
                        !is_success || decoded.response.is_some(),
                        "{at}: a success has a body"
                    );
                }
                read += 1;
            });
        }
    }
    assert!(read > 5_000, "{read} answers");
}
