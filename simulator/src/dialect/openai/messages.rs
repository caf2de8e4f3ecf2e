//! Reads and checks a conversation in OpenAI's form.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::asked::{AnswerForm, RequestTool, ToolSelection, UnifiedRequest};
use crate::call::{RequestProblem, wrong};
use crate::field::{
    filled_list_field, list_field, number_field, text_at, text_field, text_or_empty,
};
use crate::parts;
use crate::signature;
use crate::vendor::Vendor;

pub(crate) fn read_request(
    vendor: Vendor,
    request: &Value,
) -> Result<UnifiedRequest, RequestProblem> {
    let Some(messages) = filled_list_field(request, "messages") else {
        return wrong("Missing required parameter: 'messages'.");
    };
    check(vendor, messages)?;
    let (text, result) = last(messages)?;
    if vendor == Vendor::OpenRouter {
        check_thoughts(messages)?;
    }
    let effort = text_field(request, "reasoning_effort");
    let effort = effort.or_else(|| text_at(request, "/reasoning/effort"));
    let switched = request.pointer("/thinking/type") == Some(&json!("enabled"));
    let enabled = request.pointer("/reasoning/enabled") == Some(&json!(true));
    Ok(UnifiedRequest {
        text,
        result,
        tools: tools(request)?,
        choice: choice(request),
        form: form(request),
        stops: text_list(request.get("stop")),
        max_tokens: most(request),
        reasoning: effort.is_some_and(|effort| effort != "none") || switched || enabled,
        single_call: request.get("parallel_tool_calls") == Some(&json!(false)),
    })
}

/// Returns the most tokens of an answer that a request allows.
pub(crate) fn most(request: &Value) -> Option<u64> {
    let fields = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
    fields.iter().find_map(|field| number_field(request, field))
}

/// Returns the text of the last message. If tools wrote it, returns the text of the question before them, and the
/// results.
pub(crate) fn last(messages: &[Value]) -> Result<(String, Option<String>), RequestProblem> {
    let Some(last) = messages.last() else {
        return Ok((String::new(), None));
    };
    let text = |message: &Value| parts::text(message.get("content"));
    let has_role = |message: &Value, role: &str| message.get("role") == Some(&json!(role));
    if !has_role(last, "tool") {
        return Ok((text(last)?, None));
    }
    let question = messages.iter().rfind(|message| has_role(message, "user"));
    let question = question.map(text).transpose()?;
    let before = messages
        .iter()
        .rposition(|message| !has_role(message, "tool"));
    let results = &messages[before.map_or(0, |before| before + 1)..];
    let results: Vec<_> = results.iter().map(text).collect::<Result<_, _>>()?;
    Ok((question.unwrap_or_default(), Some(parts::joined(results))))
}

/// Checks that results follow the tool calls that they belong to.
fn check(vendor: Vendor, messages: &[Value]) -> Result<(), RequestProblem> {
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for (at, message) in messages.iter().enumerate() {
        let role = text_or_empty(message, "role");
        if role == "tool" {
            let id = text_or_empty(message, "tool_call_id");
            if !open.remove(id) {
                return wrong(format!(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls' (messages[{at}])."
                ));
            }
            continue;
        }
        if let Some(id) = open.first() {
            return wrong(format!(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: {id}"
            ));
        }
        if !matches!(
            role,
            "system" | "developer" | "user" | "assistant" | "function"
        ) {
            return wrong(format!(
                "Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'."
            ));
        }
        for call in list_field(message, "tool_calls") {
            let arguments = call.pointer("/function/arguments");
            // Mistral accepts arguments as an object too.
            let object = vendor == Vendor::Mistral && arguments.is_some_and(Value::is_object);
            if !object && !arguments.is_some_and(Value::is_string) {
                return wrong(format!(
                    "Invalid type for 'messages[{at}].tool_calls[0].function.arguments': expected a string."
                ));
            }
            open.extend(text_field(call, "id"));
        }
    }
    Ok(())
}

/// Checks the signatures of returned reasoning.
fn check_thoughts(messages: &[Value]) -> Result<(), RequestProblem> {
    let messages = messages.iter();
    for detail in messages.flat_map(|message| list_field(message, "reasoning_details")) {
        let field = |name: &str| text_or_empty(detail, name);
        if !signature::is_valid(field("text"), field("signature")) {
            return wrong("Invalid `signature` in `reasoning_details` block");
        }
    }
    Ok(())
}

pub(crate) fn tools(request: &Value) -> Result<Vec<RequestTool>, RequestProblem> {
    list_field(request, "tools").iter().map(tool).collect()
}

fn tool(tool: &Value) -> Result<RequestTool, RequestProblem> {
    let name = text_at(tool, "/function/name").unwrap_or_default();
    if name.is_empty() {
        return wrong("Missing required parameter: 'tools[0].function.name'.");
    }
    Ok(RequestTool::new(name, tool.pointer("/function/parameters")))
}

fn choice(request: &Value) -> ToolSelection {
    match request.get("tool_choice") {
        Some(Value::String(word)) if word == "none" => ToolSelection::Never,
        Some(Value::String(word)) if word == "required" || word == "any" => ToolSelection::Any,
        Some(object) => match text_at(object, "/function/name") {
            Some(name) => ToolSelection::Named(name.to_owned()),
            None => ToolSelection::Free,
        },
        None => ToolSelection::Free,
    }
}

pub(crate) fn form(request: &Value) -> AnswerForm {
    let format = request.get("response_format").unwrap_or(&Value::Null);
    match text_field(format, "type") {
        Some("json_object") => AnswerForm::Json,
        Some("json_schema") => AnswerForm::of_schema(format.pointer("/json_schema/schema")),
        _ => AnswerForm::Text,
    }
}

/// Returns a text, or the texts of a list, such as stop sequences.
pub(crate) fn text_list(stop: Option<&Value>) -> Vec<String> {
    match stop {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(list)) => {
            let texts = list.iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: Value) -> Result<UnifiedRequest, RequestProblem> {
        read_request(Vendor::OpenAi, &json!({ "messages": messages }))
    }

    #[test]
    fn a_result_belongs_to_a_call() {
        let user = json!({ "role": "user", "content": "call it" });
        let call = json!({ "role": "assistant", "content": null, "tool_calls": [
            { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } } ] });
        let result = json!({ "role": "tool", "tool_call_id": "c1", "content": "rain" });
        let whole = read(json!([user, call, result])).expect("a conversation");
        assert_eq!(
            (whole.text.as_str(), whole.result.as_deref()),
            ("call it", Some("rain"))
        );
        let two = json!({ "role": "assistant", "tool_calls": [
            { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } },
            { "id": "c2", "type": "function", "function": { "name": "f", "arguments": "{}" } } ] });
        let other = json!({ "role": "tool", "tool_call_id": "c2", "content": [{ "type": "text", "text": "wind" }] });
        let both = read(json!([user, two, result, other])).expect("a conversation");
        assert_eq!(both.result.as_deref(), Some("rain wind"));
        assert!(read(json!([user, result])).is_err(), "no call");
        assert!(read(json!([user, call, user])).is_err(), "no result");
        assert!(read(json!([{ "role": "bystander", "content": "hi" }])).is_err());
    }
}
