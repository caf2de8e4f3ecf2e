//! The dialect of OpenAI's Responses.

use serde_json::{Value, json};

use crate::answer::{CREATED, VendorAnswer, digest, prompt_tokens};
use crate::asked::{
    AnswerContent, AnswerEnd, AnswerForm, RequestTool, ToolSelection, UnifiedAnswer,
    UnifiedRequest, encode_calls, reply,
};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{list_field, number_field, text_at, text_field, text_or_empty};
use crate::parts;
use crate::signature;

/// The prefix of the id of a tool call that follows reasoning. Such a call is not accepted again without its
/// reasoning.
const THOUGHT_CALL: &str = "fc_thought";

pub(super) fn answer(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let unified = read_request(request)?;
    let answer = reply(&unified);
    let id = digest(call.body);
    let (input, output) = (prompt_tokens(call.body), answer.all_tokens());
    let cut = answer.end == AnswerEnd::Length;
    let given_or = |name: &str, default| request.get(name).cloned().unwrap_or(default);
    let body = json!({
        "id": format!("resp_{id}"),
        "object": "response",
        "created_at": CREATED,
        "status": if cut { "incomplete" } else { "completed" },
        "background": false,
        "error": null,
        "incomplete_details": if cut { json!({ "reason": "max_output_tokens" }) } else { Value::Null },
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "metadata": given_or("metadata", json!({})),
        "model": model,
        "output": items(&answer, &id),
        "parallel_tool_calls": given_or("parallel_tool_calls", json!(true)),
        "previous_response_id": request.get("previous_response_id"),
        "store": given_or("store", json!(true)),
        "temperature": 1.0,
        "text": given_or("text", json!({ "format": { "type": "text" } })),
        "tool_choice": given_or("tool_choice", json!("auto")),
        "tools": given_or("tools", json!([])),
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": input,
            "input_tokens_details": { "cached_tokens": unified.cached(input), "cache_write_tokens": 0 },
            "output_tokens": output,
            "output_tokens_details": { "reasoning_tokens": answer.thought_tokens },
            "total_tokens": input + output,
        },
    });
    Ok(VendorAnswer::json(200, &body).spending(input, output))
}

fn items(answer: &UnifiedAnswer, id: &str) -> Vec<Value> {
    let mut items = Vec::new();
    if let Some(thought) = &answer.thought {
        let name = format!("rs_{id}");
        items.push(json!({
            "id": name,
            "type": "reasoning",
            "summary": [{ "type": "summary_text", "text": thought }],
            "encrypted_content": signature::sign(&name),
        }));
    }
    let prefix = if answer.thought.is_some() {
        THOUGHT_CALL
    } else {
        "fc_"
    };
    let status = if answer.end == AnswerEnd::Length {
        "incomplete"
    } else {
        "completed"
    };
    let message = |content: Value| {
        json!({
            "id": format!("msg_{id}"), "type": "message", "status": status, "role": "assistant", "content": [content]
        })
    };
    match &answer.content {
        AnswerContent::Text(text) => {
            let text =
                json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
            items.push(message(text));
        }
        AnswerContent::Refusal(text) => {
            items.push(message(json!({ "type": "refusal", "refusal": text })))
        }
        AnswerContent::Calls(calls) => items.extend(encode_calls(calls, |at, call| {
            json!({
                "id": format!("{prefix}{id}{at}"),
                "type": "function_call",
                "status": "completed",
                "call_id": format!("call_{id}{at}"),
                "name": call.name,
                "arguments": call.arguments.to_string(),
            })
        })),
    }
    items
}

fn read_request(request: &Value) -> Result<UnifiedRequest, RequestProblem> {
    let (text, result) = match request.get("input") {
        Some(Value::String(text)) => (text.clone(), None),
        Some(Value::Array(items)) if !items.is_empty() => {
            check(
                items,
                request
                    .get("previous_response_id")
                    .is_some_and(Value::is_string),
            )?;
            last(items)?
        }
        _ => return wrong("Missing required parameter: 'input'."),
    };
    let effort = text_at(request, "/reasoning/effort");
    Ok(UnifiedRequest {
        text,
        result,
        tools: tools(request)?,
        choice: choice(request.get("tool_choice")),
        form: form(request.pointer("/text/format")),
        stops: Vec::new(),
        max_tokens: number_field(request, "max_output_tokens"),
        reasoning: effort.is_some_and(|effort| effort != "none"),
        single_call: request.get("parallel_tool_calls") == Some(&json!(false)),
    })
}

fn last(items: &[Value]) -> Result<(String, Option<String>), RequestProblem> {
    let is_message =
        |item: &&Value| item.get("role").is_some() && text_field(item, "role") != Some("assistant");
    let message = items.iter().rfind(is_message);
    let text = parts::text(message.and_then(|message| message.get("content")))?;
    let of_tool = |item: &&Value| text_field(item, "type") == Some("function_call_output");
    let outputs = items.iter().rev().take_while(of_tool);
    let results = outputs.map(|item| parts::text(item.get("output")));
    let mut results: Vec<_> = results.collect::<Result<_, _>>()?;
    results.reverse();
    let result = (!results.is_empty()).then(|| parts::joined(results));
    Ok((text, result))
}

/// Checks that results have their tool calls, and that calls and reasoning are unchanged. The items of an earlier
/// response are not stored. If the request `follows` one, results without a call are accepted.
fn check(items: &[Value], follows: bool) -> Result<(), RequestProblem> {
    let field = |item: &Value, name: &str| text_or_empty(item, name).to_owned();
    let mut calls = Vec::new();
    let mut thought = false;
    for item in items {
        match field(item, "type").as_str() {
            "reasoning" => {
                let (id, seal) = (field(item, "id"), field(item, "encrypted_content"));
                if !seal.is_empty() && !signature::is_valid(&id, &seal) {
                    return wrong(format!(
                        "The encrypted content for item {id} could not be verified. Reason: Encrypted content could not be decrypted or parsed."
                    ));
                }
                thought = true;
            }
            "function_call" => {
                let id = field(item, "id");
                if id.starts_with(THOUGHT_CALL) && !thought {
                    return wrong(format!(
                        "Item '{id}' of type 'function_call' was provided without its required 'reasoning' item."
                    ));
                }
                calls.push(field(item, "call_id"));
            }
            "function_call_output" => {
                let call = field(item, "call_id");
                if !follows && !calls.contains(&call) {
                    return wrong(format!(
                        "No tool call found for function call output with call_id {call}."
                    ));
                }
            }
            _ => thought = false,
        }
    }
    Ok(())
}

fn tools(request: &Value) -> Result<Vec<RequestTool>, RequestProblem> {
    let functions = list_field(request, "tools").iter();
    let functions = functions.filter(|tool| text_field(tool, "type") == Some("function"));
    let tool = |tool: &Value| match text_field(tool, "name") {
        Some(name) => Ok(RequestTool::new(name, tool.get("parameters"))),
        None => wrong("Missing required parameter: 'tools[0].name'."),
    };
    functions.map(tool).collect()
}

fn choice(choice: Option<&Value>) -> ToolSelection {
    match choice {
        Some(Value::String(word)) if word == "none" => ToolSelection::Never,
        Some(Value::String(word)) if word == "required" => ToolSelection::Any,
        Some(object) => match text_field(object, "name") {
            Some(name) => ToolSelection::Named(name.to_owned()),
            None => ToolSelection::Free,
        },
        None => ToolSelection::Free,
    }
}

fn form(format: Option<&Value>) -> AnswerForm {
    let format = format.unwrap_or(&Value::Null);
    match text_field(format, "type") {
        Some("json_object") => AnswerForm::Json,
        Some("json_schema") => AnswerForm::of_schema(format.get("schema")),
        _ => AnswerForm::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_thought_about_comes_back_with_its_thought() {
        let request = json!({
            "input": "call it", "reasoning": { "effort": "low" },
            "tools": [{ "type": "function", "name": "f", "parameters": {} }],
        });
        let made = items(&reply(&read_request(&request).expect("a request")), "1");
        assert_eq!(made[1]["type"], "function_call");
        let result = json!({ "type": "function_call_output", "call_id": made[1]["call_id"], "output": "rain" });
        let user = json!({ "role": "user", "content": "call it" });
        let with = |items: Value| read_request(&json!({ "input": items }));
        let whole = with(json!([user, made[0], made[1], result])).expect("a conversation");
        assert_eq!(whole.result.as_deref(), Some("rain"));
        assert!(
            with(json!([user, made[1], result])).is_err(),
            "without its thought"
        );
        assert!(with(json!([user, result])).is_err(), "without its call");
        let mut other = made[0].clone();
        other["encrypted_content"] = json!("sealed");
        assert!(
            with(json!([user, other, made[1], result])).is_err(),
            "with another seal"
        );
    }
}
