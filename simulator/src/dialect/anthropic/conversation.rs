//! Reads and checks a conversation in Anthropic's form.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::ApiVersion;
use crate::call::{RequestProblem, wrong};
use crate::field::{filled_list_field, list_field, text_at, text_field, text_or_empty};
use crate::parts;
use crate::signature;

/// Returns the text of the last message. If it holds results of tools, returns the text of the question before them,
/// and the results.
pub(super) fn last(
    request: &Value,
    version: ApiVersion,
    reasoning: bool,
) -> Result<(String, Option<String>), RequestProblem> {
    let Some(messages) = filled_list_field(request, "messages") else {
        return wrong("messages: at least one message is required");
    };
    check(messages, version, reasoning)?;
    let of_user = |message: &&Value| text_field(message, "role") == Some("user");
    let blocks_of = |message: Option<&Value>| match message {
        Some(message) => blocks(message, 0),
        None => Ok(Vec::new()),
    };
    let last = blocks_of(messages.last())?;
    let results = last.iter().filter(|block| is_result(block));
    let results: Vec<_> = results
        .map(|block| content(block.get("content")))
        .collect::<Result<_, _>>()?;
    if results.is_empty() {
        return Ok((as_text(&last)?, None));
    }
    let result = parts::joined(results);
    let earlier = messages.iter().rev().filter(of_user).skip(1);
    let mut questions = earlier.filter(|message| {
        let blocks = blocks(message, 0);
        blocks.is_ok_and(|blocks| !blocks.iter().any(is_result))
    });
    let question = blocks_of(questions.next())?;
    Ok((as_text(&question)?, Some(result)))
}

/// Checks that roles, blocks, tool calls and their results follow the rules of the API.
fn check(messages: &[Value], version: ApiVersion, reasoning: bool) -> Result<(), RequestProblem> {
    let mut open = BTreeSet::new();
    for (at, message) in messages.iter().enumerate() {
        let role = text_or_empty(message, "role");
        let blocks = blocks(message, at)?;
        match role {
            "user" => {
                results(&blocks, &open, at)?;
                open.clear();
            }
            "assistant" | "system" if at > 0 => {
                if !open.is_empty() {
                    return unanswered(&open, at);
                }
                open = calls(&blocks);
                thoughts(&blocks, reasoning, at)?;
            }
            "assistant" => return wrong("messages: first message must use the \"user\" role"),
            _ => {
                return wrong(format!(
                    "messages.{at}.role: Input should be 'user' or 'assistant'"
                ));
            }
        }
        allowed(&blocks, role, version, at)?;
    }
    if open.is_empty() {
        Ok(())
    } else {
        unanswered(&open, messages.len())
    }
}

fn unanswered<T>(open: &BTreeSet<String>, at: usize) -> Result<T, RequestProblem> {
    let ids: Vec<_> = open.iter().map(String::as_str).collect();
    wrong(format!(
        "messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each \
         `tool_use` block must have a corresponding `tool_result` block in the next message.",
        ids.join(", ")
    ))
}

fn kind(block: &Value) -> &str {
    text_or_empty(block, "type")
}

fn is_result(block: &Value) -> bool {
    kind(block) == "tool_result"
}

/// Returns the blocks of a message. A plain text is one block.
fn blocks(message: &Value, at: usize) -> Result<Vec<Value>, RequestProblem> {
    match message.get("content") {
        Some(Value::String(text)) if !text.is_empty() => {
            Ok(vec![json!({ "type": "text", "text": text })])
        }
        Some(Value::Array(blocks)) if !blocks.is_empty() => Ok(blocks.clone()),
        Some(Value::String(_) | Value::Array(_)) => wrong(format!(
            "messages.{at}: all messages must have non-empty content"
        )),
        _ => wrong(format!("messages.{at}.content: Field required")),
    }
}

/// Checks that each tool call has exactly one result, and that the results precede all other blocks.
fn results(blocks: &[Value], open: &BTreeSet<String>, at: usize) -> Result<(), RequestProblem> {
    let mut left = open.clone();
    let mut others = false;
    for (place, block) in blocks.iter().enumerate() {
        if !is_result(block) {
            others = true;
            continue;
        }
        let id = text_or_empty(block, "tool_use_id");
        if !left.remove(id) {
            let place = format!("messages.{at}.content.{place}");
            return wrong(format!(
                "{place}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each \
                 `tool_result` block must have a corresponding `tool_use` block in the previous message."
            ));
        }
        if others {
            return wrong(format!(
                "messages.{at}.content.{place}: `tool_result` blocks must come first"
            ));
        }
    }
    if left.is_empty() {
        Ok(())
    } else {
        unanswered(&left, at)
    }
}

fn calls(blocks: &[Value]) -> BTreeSet<String> {
    let calls = blocks.iter().filter(|block| kind(block) == "tool_use");
    let ids = calls.filter_map(|block| text_field(block, "id"));
    ids.map(str::to_owned).collect()
}

/// Checks that reasoning is unchanged, and that it is present where the API requires it.
fn thoughts(blocks: &[Value], reasoning: bool, at: usize) -> Result<(), RequestProblem> {
    for (place, block) in blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| kind(block) == "thinking")
    {
        let field = |name: &str| text_field(block, name);
        let Some(seal) = field("signature") else {
            return wrong(format!(
                "messages.{at}.content.{place}.thinking.signature: Field required"
            ));
        };
        if !signature::is_valid(field("thinking").unwrap_or_default(), seal) {
            return wrong(format!(
                "messages.{at}.content.{place}: Invalid `signature` in `thinking` block"
            ));
        }
    }
    let first = blocks.first().map(kind).unwrap_or_default();
    let calls = blocks.iter().any(|block| kind(block) == "tool_use");
    if reasoning && calls && !matches!(first, "thinking" | "redacted_thinking") {
        return wrong(format!(
            "messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`. When \
             `thinking` is enabled, a final `assistant` message must start with a thinking block."
        ));
    }
    Ok(())
}

fn allowed(
    blocks: &[Value],
    role: &str,
    version: ApiVersion,
    at: usize,
) -> Result<(), RequestProblem> {
    for (place, block) in blocks.iter().enumerate() {
        let here = format!("messages.{at}.content.{place}");
        let of_assistant = matches!(kind(block), "tool_use" | "thinking" | "redacted_thinking");
        match (role, kind(block)) {
            ("user", _) if of_assistant => {
                return wrong(format!(
                    "{here}: `{}` blocks are not permitted in `user` messages",
                    kind(block)
                ));
            }
            ("assistant", "tool_result" | "image") => {
                return wrong(format!(
                    "{here}: `{}` blocks can only be in `user` messages",
                    kind(block)
                ));
            }
            ("assistant", "document") if version == ApiVersion::Of2026 => {
                return wrong(format!(
                    "{here}: `document` blocks are not permitted in `assistant` messages"
                ));
            }
            ("user", "text") if version == ApiVersion::Of2026 && cites(block) => {
                return wrong(format!(
                    "{here}.citations: not permitted in `user` messages"
                ));
            }
            (_, "text" | "image" | "document" | "tool_result" | "search_result") => {}
            _ if of_assistant => {}
            (_, other) => {
                return wrong(format!(
                    "{here}: Input tag '{other}' does not match any of the expected tags"
                ));
            }
        }
    }
    Ok(())
}

fn cites(block: &Value) -> bool {
    !list_field(block, "citations").is_empty()
}

fn content(content: Option<&Value>) -> Result<String, RequestProblem> {
    match content {
        Some(Value::Array(blocks)) => as_text(blocks),
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Ok(String::new()),
    }
}

/// Returns the blocks as text.
fn as_text(blocks: &[Value]) -> Result<String, RequestProblem> {
    parts::join(blocks.iter().map(block_as_text))
}

fn block_as_text(block: &Value) -> Result<String, RequestProblem> {
    let field = |pointer: &str| text_at(block, pointer).unwrap_or_default();
    let name = match kind(block) {
        "text" => return Ok(field("/text").to_owned()),
        "image" => "image",
        "document" => "file",
        _ => return Ok(String::new()),
    };
    let data = field("/source/data");
    match field("/source/type") {
        "base64" => parts::bytes(name, field("/source/media_type"), data),
        "url" => parts::linked(name, field("/source/url")),
        "text" => Ok(format!("[file text/plain {} bytes]", data.len())),
        "file" => parts::linked(name, field("/source/file_id")),
        other => wrong(format!(
            "source: Input tag '{other}' does not match any of the expected tags"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: Value, reasoning: bool) -> Result<(String, Option<String>), RequestProblem> {
        last(
            &json!({ "messages": messages }),
            ApiVersion::Of2026,
            reasoning,
        )
    }

    #[test]
    fn results_follow_their_calls_in_one_message() {
        let user = json!({ "role": "user", "content": "call it" });
        let call = |id: &str| json!({ "type": "tool_use", "id": id, "name": "f", "input": {} });
        let calls = json!({ "role": "assistant", "content": [call("1"), call("2")] });
        let result =
            |id: &str| json!({ "type": "tool_result", "tool_use_id": id, "content": "rain" });
        let whole = json!([user, calls, { "role": "user", "content": [result("1"), result("2")] }]);
        assert_eq!(
            read(whole, false),
            Ok(("call it".to_owned(), Some("rain rain".to_owned())))
        );
        let apart = json!([
            user, calls, { "role": "user", "content": [result("1")] }, { "role": "user", "content": [result("2")] }
        ]);
        assert!(read(apart, false).is_err(), "in two messages");
        assert!(
            read(
                json!([user, { "role": "user", "content": [result("1")] }]),
                false
            )
            .is_err(),
            "no call"
        );
        assert!(read(json!([user, calls]), false).is_err(), "no result");
        assert!(
            read(json!([{ "role": "assistant", "content": "hi" }]), false).is_err(),
            "no user"
        );
    }

    #[test]
    fn thoughts_come_back_as_they_were() {
        let user = json!({ "role": "user", "content": "call it" });
        let call = json!({ "type": "tool_use", "id": "1", "name": "f", "input": {} });
        let result =
            json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "1" }] });
        let with = |seal: &str| {
            json!([
                user,
                { "role": "assistant", "content": [{ "type": "thinking", "thinking": "t", "signature": seal }, call] },
                result,
            ])
        };
        assert!(read(with(&signature::sign("t")), true).is_ok());
        assert!(read(with("sealed"), true).is_err(), "with another seal");
        let without = json!([user, { "role": "assistant", "content": [call] }, result]);
        assert!(read(without.clone(), true).is_err(), "without a thought");
        assert!(read(without, false).is_ok(), "where none is asked for");
    }
}
