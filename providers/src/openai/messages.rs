//! The messages of a chat, for a server that speaks OpenAI's dialect and does not accept all of
//! their fields.

use std::collections::BTreeMap;

use forebay_schemas::job::Object;
use serde_json::value::RawValue;
use serde_json::{Value, value};

use crate::registry::Quirks;

/// The field of a message for values that a dialect wants back.
const DETAILS: &str = "reasoning_details";

/// Adapts the messages of `body` to `quirks`. Anything but a list of objects is left as it is: the
/// server reports what is wrong with it.
pub(super) fn adapt<'a>(body: &mut Object, quirks: impl Iterator<Item = &'a Quirks>) {
    let Some(raw) = body.get("messages") else {
        return;
    };
    let mut drops: Vec<&str> = Vec::new();
    let mut roles = BTreeMap::new();
    for quirks in quirks {
        let names = quirks.message_drops.iter();
        drops.extend(names.map(String::as_str));
        roles.extend(&quirks.roles);
    }
    let has = |name: &str| raw.get().contains(&format!("\"{name}\""));
    let has_drop = || drops.iter().any(|name| has(name));
    let has_role = || roles.keys().any(|name| has(name));
    let concerns = has(DETAILS) || has_drop() || has_role();
    // Most chats have nothing to change, and keep their bytes.
    if !concerns {
        return;
    }
    let Ok(mut messages) = serde_json::from_str::<Vec<Object>>(raw.get()) else {
        return;
    };
    for message in &mut messages {
        without(message, &drops);
        details(message);
        role(message, &roles);
        calls(message, &drops);
    }
    if let Ok(raw) = value::to_raw_value(&messages) {
        body.insert("messages".to_owned(), raw);
    }
}

fn without(object: &mut Object, drops: &[&str]) {
    object.retain(|name, _| !drops.contains(&name.as_str()));
}

/// Removes the values that other dialects want back, and keeps those that the server itself gave.
fn details(message: &mut Object) {
    let Some(raw) = message.get(DETAILS) else {
        return;
    };
    let Ok(mut details) = serde_json::from_str::<Vec<Value>>(raw.get()) else {
        return;
    };
    details.retain(|detail| !is_ours(detail));
    match value::to_raw_value(&details) {
        Ok(raw) if !details.is_empty() => message.insert(DETAILS.to_owned(), raw),
        _ => message.remove(DETAILS),
    };
}

/// Returns true for a value that a Forebay adapter kept for its dialect.
fn is_ours(detail: &Value) -> bool {
    let Some(fields) = detail.as_object() else {
        return false;
    };
    let has = |name: &str| fields.contains_key(name);
    has("format") && has("data") && !has("type")
}

fn role(message: &mut Object, roles: &BTreeMap<&String, &String>) {
    let role: Option<String> = message
        .get("role")
        .and_then(|raw| serde_json::from_str(raw.get()).ok());
    let other = role.and_then(|role| value::to_raw_value(roles.get(&role)?).ok());
    if let Some(other) = other {
        message.insert("role".to_owned(), other);
    }
}

fn calls(message: &mut Object, drops: &[&str]) {
    let Some(raw) = message.get("tool_calls") else {
        return;
    };
    let Ok(mut calls) = serde_json::from_str::<Vec<Object>>(raw.get()) else {
        return;
    };
    calls.iter_mut().for_each(|call| without(call, drops));
    let calls: Option<Box<RawValue>> = value::to_raw_value(&calls).ok();
    if let Some(calls) = calls {
        message.insert("tool_calls".to_owned(), calls);
    }
}
