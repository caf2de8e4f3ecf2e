//! The dialect of Ollama's own API.

use serde_json::{Value, json};

use super::super::answer::{DIMENSIONS, VendorAnswer, prompt_tokens, vector};
use super::super::asked::{
    AnswerCall, AnswerContent, AnswerEnd, AnswerForm, ToolSelection, UnifiedAnswer, UnifiedRequest,
    reply,
};
use super::super::call::{Outcome, RequestProblem, VendorCall, wrong};
use super::super::field::{filled_list_field, list_field, number_field, text_field, text_or_empty};
use super::super::parts;
use super::super::route::ApiTask;
use super::openai::messages::{stops, tools};

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
    let texts = stops(request.get("input"));
    if texts.is_empty() {
        return wrong("invalid input type");
    }
    let dimensions = number_field(request, "dimensions").filter(|count| *count > 0);
    let dimensions = dimensions.unwrap_or(DIMENSIONS).min(4096);
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
    let last = |message: Value| {
        json!({
            "model": model,
            "created_at": CREATED_AT,
            "message": message,
            "done": true,
            "done_reason": if answer.end == AnswerEnd::Length { "length" } else { "stop" },
            "total_duration": 4_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": input,
            "prompt_eval_duration": 1_000_000,
            "eval_count": output,
            "eval_duration": 2_000_000,
        })
    };
    if request.get("stream") == Some(&json!(false)) {
        return Ok(VendorAnswer::json(200, &last(message(&answer))).spending(input, output));
    }
    // Unless the request turns streaming off, Ollama sends an answer in pieces, one JSON line each.
    let piece = json!({ "model": model, "created_at": CREATED_AT, "message": message(&answer), "done": false });
    let end = last(json!({ "role": "assistant", "content": "" }));
    let lines = format!("{piece}\n{end}\n");
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
    let messages = filled_list_field(request, "messages");
    let Some(messages) = messages else {
        return wrong("messages are required");
    };
    messages.iter().try_for_each(check)?;
    let last = messages.last().cloned().unwrap_or_default();
    let of_tool = last.get("role") == Some(&json!("tool"));
    let is_user = |message: &&Value| message.get("role") == Some(&json!("user"));
    let question = if of_tool {
        messages
            .iter()
            .rev()
            .find(is_user)
            .cloned()
            .unwrap_or_default()
    } else {
        last.clone()
    };
    let options = request.get("options");
    let most = options
        .and_then(|options| options.get("num_predict"))
        .and_then(Value::as_i64);
    Ok(UnifiedRequest {
        text: as_text(&question)?,
        result: of_tool
            .then(|| super::openai::messages::last(messages))
            .transpose()?
            .and_then(|(_, result)| result),
        tools: tools(request)?,
        choice: ToolSelection::Free,
        form: match request.get("format") {
            Some(Value::String(word)) if word == "json" => AnswerForm::Json,
            Some(schema) if schema.is_object() => AnswerForm::Schema(schema.clone()),
            _ => AnswerForm::Text,
        },
        stops: stops(options.and_then(|options| options.get("stop"))),
        max_tokens: most.and_then(|most| u64::try_from(most).ok()),
        reasoning: request
            .get("think")
            .is_some_and(|think| think.is_string() || *think == json!(true)),
        single_call: false,
    })
}

/// Checks that a message's fields have the types that Go's decoder accepts.
fn check(message: &Value) -> Result<(), RequestProblem> {
    let role = text_or_empty(message, "role");
    if !matches!(role, "system" | "user" | "assistant" | "tool") {
        return wrong(format!("invalid role: {role}"));
    }
    if message
        .get("content")
        .is_some_and(|content| !content.is_string() && !content.is_null())
    {
        return wrong(
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
        );
    }
    let calls = list_field(message, "tool_calls").iter();
    if calls
        .filter_map(|call| call.pointer("/function/arguments"))
        .any(|given| !given.is_object())
    {
        return wrong(
            "json: cannot unmarshal string into Go struct field ToolCallFunction.arguments of type api.ToolCallFunctionArguments",
        );
    }
    Ok(())
}

/// Returns a message as text. A message does not state the media type of its images.
fn as_text(message: &Value) -> Result<String, RequestProblem> {
    let mut list = vec![parts::text(message.get("content"))?];
    for image in list_field(message, "images").iter() {
        list.push(parts::bytes(
            "image",
            "unknown",
            image.as_str().unwrap_or_default(),
        )?);
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
