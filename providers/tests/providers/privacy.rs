//! Every fixture with one value in it replaced by private ones: no refusal repeats any of them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::mutations::pointers;
use crate::{files, targets};

/// A part of each private text.
const NAME: &str = "Jane Roe";
/// A part of each private number.
const NUMBER: &str = "71037";

#[derive(Deserialize)]
struct Fixture {
    url: Option<String>,
    body: Value,
}

fn private_values() -> [Value; 8] {
    [
        json!(format!("{NAME}, born 1970")),
        json!(format!("{NAME}\", expected `{NAME}`, expected a name")),
        json!(format!("data:{NAME};base64,{NAME}")),
        json!(71_037),
        json!(-71_037.5),
        json!([NAME]),
        json!([[NAME], 71_037]),
        json!({ "type": NAME, "text": NAME, "count": 71_037 }),
    ]
}

#[test]
fn no_refusal_repeats_a_value_of_the_request() {
    let targets = targets::one_of_each_dialect();
    let chats: Vec<Fixture> = files::jsonl("chats.jsonl");
    let kinds: Vec<Fixture> = files::jsonl("kinds.jsonl");
    let values = private_values();
    let mut refusals = 0;
    for fixture in chats.iter().chain(&kinds) {
        let url = fixture.url.as_deref().unwrap_or("/v1/chat/completions");
        let mut found = Vec::new();
        pointers(&fixture.body, "", &mut found);
        for at in found.iter().filter(|at| !at.is_empty() && *at != "/stream") {
            for value in &values {
                let mut body = fixture.body.clone();
                *body.pointer_mut(at).expect("there") = value.clone();
                let raw = serde_json::value::to_raw_value(&body).expect("JSON");
                let job = targets::job(url, &raw);
                for (endpoint, target) in &targets {
                    let Err(refused) = endpoint.encode(&job, &target.model) else {
                        continue;
                    };
                    refusals += 1;
                    let said = refused.to_string();
                    let repeats = said.contains(NAME) || said.contains(NUMBER);
                    assert!(!repeats, "{at}: {said}");
                }
            }
        }
    }
    assert!(refusals > 10_000, "{refusals} refusals");
}
