//! That nothing is lost in silence: whatever text or number stands in a chat is in what is said, or the document
//! tells that it is left out.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::targets::Target;
use crate::{requests, targets};

/// Words of OpenAI's that every dialect has its own for.
const TRANSLATED: [&str; 6] = [
    "messages[].role",
    "reasoning_effort",
    "tool_choice",
    "response_format.type",
    "tools[].type",
    "tool_choice.type",
];

/// What a chat says: each text and number by its path, without the places in lists.
fn leaves(value: &Value, path: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                leaves(value, &path, found);
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| leaves(item, &format!("{path}[]"), found)),
        Value::String(text) if text.trim().is_empty() => {}
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            // Arguments of calls are JSON as text here, and an object elsewhere.
            Ok(inner @ Value::Object(_)) => leaves(&inner, path, found),
            _ => found.push((path.to_owned(), written(text))),
        },
        Value::Number(number) => found.push((path.to_owned(), number.to_string())),
        Value::Null | Value::Bool(_) => {}
    }
}

/// A text as it stands in JSON; of a data URL what is after its type.
fn written(text: &str) -> String {
    let text = text.split_once(";base64,").map_or(text, |(_, data)| data);
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// Chats whose tools are not all to be called: a dialect without a word for that leaves out the others.
const FEWER_TOOLS: [&str; 2] = ["choice-none", "choice-one"];

/// What base64 stands for, where that is text: some dialects say it as such.
fn decoded(text: &str) -> Option<String> {
    Some(written(
        &String::from_utf8(BASE64_STANDARD.decode(text).ok()?).ok()?,
    ))
}

/// The paths of what `target` leaves out of the chats that it can say.
fn silent(target: &Target) -> BTreeSet<String> {
    let endpoint = target.endpoint();
    let mut silent = BTreeSet::new();
    for asked in requests::chats() {
        let job = asked.job();
        let Ok(said) = requests::said(&endpoint, &job, &target.model) else {
            continue;
        };
        let said = said.to_string();
        // A schema may stand in it as JSON in a text.
        let unquoted = said.replace("\\\"", "\"");
        let is_said = |text: &str| said.contains(text) || unquoted.contains(text);
        let body = serde_json::to_value(&job.body).expect("JSON");
        let mut found = Vec::new();
        leaves(&body, "", &mut found);
        let translated = |path: &str| TRANSLATED.contains(&path) || path.ends_with("].type");
        let fewer = FEWER_TOOLS.contains(&asked.name.as_str());
        let lost = found.into_iter().filter(|(path, text)| {
            let is_expected = translated(path) || (fewer && path.starts_with("tools"));
            !is_expected && !is_said(text) && !decoded(text).is_some_and(|text| is_said(&text))
        });
        silent.extend(lost.map(|(path, _)| path));
    }
    silent
}

/// What is left out of chats, with the targets that leave it out.
pub(crate) fn left_out() -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for target in targets::targets() {
        for path in silent(&target) {
            all.entry(path).or_default().push(target.name.clone());
        }
    }
    all
}

/// A text that somebody wrote for the model is never left out.
#[test]
fn no_text_of_a_conversation_is_left_out() {
    const WRITTEN: [&str; 9] = [
        "messages[].content",
        "messages[].content[].text",
        "messages[].content[].refusal",
        "messages[].refusal",
        "messages[].content[].image_url.url",
        "messages[].content[].input_audio.data",
        "messages[].content[].file.file_data",
        "tools[].function.description",
        "tools[].function.name",
    ];
    let left_out = left_out();
    for path in WRITTEN {
        assert_eq!(left_out.get(path), None, "{path}");
    }
    assert!(
        left_out
            .keys()
            .all(|path| !path.contains(".arguments") && !path.contains(".parameters"))
    );
}
