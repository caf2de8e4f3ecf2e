//! The dialect of Ollama's own API.

use serde_json::{Value, json};

use super::openai::messages::{text_list, tools};
use crate::answer::{DIMENSIONS, MOST_DIMENSIONS, VendorAnswer, prompt_tokens, vector};
use crate::asked::{
    AnswerCall, AnswerContent, AnswerEnd, AnswerForm, ToolSelection, UnifiedAnswer, UnifiedRequest,
    reply,
};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{filled_list_field, list_field, number_field, text_field, text_or_empty};
use crate::parts;
use crate::route::ApiTask;

/// The creation time of every answer.
const CREATED_AT: &str = "2026-01-01T00:00:00Z";

pub(super) fn answer(call: &VendorCall<'_>) -> Outcome {
    let request = call.request()?;
    let Some(model) = text_field(request, "model").filter(|model| !model.is_empty()) else {
        return wrong("model is required");
    };
    match call.task {
        ApiTask::Embed => embed(call, request, model),
        _ => chat(call, request, model),
    }
}

fn embed(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let texts = text_list(request.get("input"));
    if texts.is_empty() {
        return wrong("invalid input type");
    }
    let dimensions = number_field(request, "dimensions").filter(|count| *count > 0);
    let dimensions = dimensions.unwrap_or(DIMENSIONS).min(MOST_DIMENSIONS);
    let vectors: Vec<_> = texts.iter().map(|text| vector(text, dimensions)).collect();
    let tokens = prompt_tokens(call.body);
    let body = json!({
        "model": model, "embeddings": vectors, "total_duration": 1_000_000, "load_duration": 1_000, "prompt_eval_count": tokens
    });
    Ok(VendorAnswer::json(200, &body).spending(tokens, 0))
}

fn chat(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let unified = read_request(request)?;
    let answer = reply(&unified);
    let (input, output) = (prompt_tokens(call.body), answer.all_tokens());
    let mut last = json!({
        "model": model,
        "created_at": CREATED_AT,
        "message": message(&answer),
        "done": true,
        "done_reason": if answer.end == AnswerEnd::Length { "length" } else { "stop" },
        "total_duration": 4_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": input,
        "prompt_eval_duration": 1_000_000,
        "eval_count": output,
        "eval_duration": 2_000_000,
    });
    if request.get("stream") == Some(&json!(false)) {
        return Ok(VendorAnswer::json(200, &last).spending(input, output));
    }
    // Unless the request turns streaming off, Ollama sends an answer in pieces, one JSON line each.
    let piece = json!({ "model": model, "created_at": CREATED_AT, "message": message(&answer), "done": false });
    last["message"] = json!({ "role": "assistant", "content": "" });
    let lines = format!("{piece}\n{last}\n");
    Ok(VendorAnswer::raw(200, "application/x-ndjson", lines.into_bytes()).spending(input, output))
}

fn message(answer: &UnifiedAnswer) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.text() });
    if let Some(thought) = &answer.thought {
        message["thinking"] = json!(thought);
    }
    if let AnswerContent::Calls(calls) = &answer.content {
        let call = |call: &AnswerCall| json!({ "function": { "name": call.name, "arguments": call.arguments } });
        message["tool_calls"] = calls.iter().map(call).collect();
    }
    message
}

fn read_request(request: &Value) -> Result<UnifiedRequest, RequestProblem> {
    let Some(messages) = filled_list_field(request, "messages") else {
        return wrong("messages are required");
    };
    messages.iter().try_for_each(check)?;
    let has_role = |message: &Value, role: &str| text_field(message, "role") == Some(role);
    let mut question = messages.last();
    let of_tool = question.is_some_and(|last| has_role(last, "tool"));
    if of_tool {
        question = messages.iter().rfind(|message| has_role(message, "user"));
    }
    let text = as_text(question.unwrap_or(&Value::Null))?;
    let result = if of_tool {
        super::openai::messages::last(messages)?.1
    } else {
        None
    };
    let options = request.get("options").unwrap_or(&Value::Null);
    let think = request.get("think").unwrap_or(&Value::Null);
    Ok(UnifiedRequest {
        text,
        result,
        tools: tools(request)?,
        choice: ToolSelection::Free,
        form: match request.get("format") {
            Some(Value::String(word)) if word == "json" => AnswerForm::Json,
            Some(schema) if schema.is_object() => AnswerForm::Schema(schema.clone()),
            _ => AnswerForm::Text,
        },
        stops: text_list(options.get("stop")),
        max_tokens: number_field(options, "num_predict"),
        reasoning: think.is_string() || *think == json!(true),
        single_call: false,
    })
}

/// Checks that a message's fields have the types that Go's decoder accepts.
fn check(message: &Value) -> Result<(), RequestProblem> {
    let role = text_or_empty(message, "role");
    if !matches!(role, "system" | "user" | "assistant" | "tool") {
        return wrong(format!("invalid role: {role}"));
    }
    let content = message.get("content").unwrap_or(&Value::Null);
    if !content.is_string() && !content.is_null() {
        return wrong(
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
        );
    }
    let calls = list_field(message, "tool_calls").iter();
    let mut arguments = calls.filter_map(|call| call.pointer("/function/arguments"));
    if !arguments.all(Value::is_object) {
        return wrong(
            "json: cannot unmarshal string into Go struct field ToolCallFunction.arguments of type api.ToolCallFunctionArguments",
        );
    }
    Ok(())
}

/// Returns a message as text. A message does not state the media type of its images.
fn as_text(message: &Value) -> Result<String, RequestProblem> {
    let mut list = vec![parts::text(message.get("content"))?];
    for image in list_field(message, "images") {
        let data = image.as_str().unwrap_or_default();
        list.push(parts::bytes("image", "unknown", data)?);
    }
    Ok(parts::joined(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_text_and_arguments_are_objects() {
        let read = |message: Value| read_request(&json!({ "messages": [message] }));
        assert!(read(json!({ "role": "user", "content": "hi" })).is_ok());
        assert!(
            read(json!({ "role": "user", "content": [{ "type": "text", "text": "hi" }] })).is_err()
        );
        let call = |arguments: Value| json!({ "role": "assistant", "tool_calls": [{ "function": { "name": "f", "arguments": arguments } }] });
        assert!(read(call(json!({}))).is_ok());
        assert!(read(call(json!("{}"))).is_err());
        let image = json!({ "role": "user", "content": "look", "images": ["Zm9v"] });
        assert_eq!(
            read(image).map(|unified| unified.text),
            Ok("look [image unknown 3 bytes]".to_owned())
        );
    }
}
