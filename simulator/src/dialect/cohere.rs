//! The dialect of Cohere's API, version 2.

use serde_json::{Value, json};

use super::openai::{media, messages};
use crate::answer::{
    DIMENSIONS, MOST_DIMENSIONS, VendorAnswer, digest, documents, prompt_tokens, ranking, vector,
};
use crate::asked::{
    AnswerContent, AnswerEnd, AnswerForm, ToolSelection, UnifiedAnswer, UnifiedRequest,
    encode_calls, reply,
};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{list_field, number_field, text_field};
use crate::parts;
use crate::route::ApiTask;

/// The most texts that one call may embed.
const MOST_TEXTS: usize = 96;
/// The most stop sequences of one call.
const MOST_STOPS: usize = 5;
/// The values of `input_type`.
const INPUT_TYPES: [&str; 5] = [
    "search_document",
    "search_query",
    "classification",
    "clustering",
    "image",
];

pub(super) fn answer(call: &VendorCall<'_>) -> Outcome {
    let request = call.request()?;
    if text_field(request, "model").is_none_or(str::is_empty) {
        return wrong("invalid request: model is required");
    }
    match call.task {
        ApiTask::Embed => embed(call, request),
        ApiTask::Rerank => rerank(call, request),
        _ => chat(call, request),
    }
}

fn chat(call: &VendorCall<'_>, request: &Value) -> Outcome {
    let unified = read_request(request)?;
    let answer = reply(&unified);
    let id = digest(call.body);
    let (input, output) = (prompt_tokens(call.body), answer.all_tokens());
    let reason = match (&answer.content, &answer.end) {
        (AnswerContent::Calls(_), _) => "TOOL_CALL",
        (_, AnswerEnd::Length) => "MAX_TOKENS",
        (_, AnswerEnd::Stopped(_)) => "STOP_SEQUENCE",
        _ => "COMPLETE",
    };
    let units = json!({ "input_tokens": input, "output_tokens": output });
    let body = json!({
        "id": id,
        "message": message(&answer, &id),
        "finish_reason": reason,
        "usage": { "billed_units": units, "tokens": units, "cached_tokens": unified.cached(input) },
    });
    Ok(VendorAnswer::json(200, &body).spending(input, output))
}

fn message(answer: &UnifiedAnswer, id: &str) -> Value {
    let mut message = json!({ "role": "assistant" });
    let mut content = Vec::new();
    if let Some(thought) = &answer.thought {
        content.push(json!({ "type": "thinking", "thinking": thought }));
    }
    if let AnswerContent::Calls(calls) = &answer.content {
        let names = calls.iter().map(|call| &*call.name);
        let names: Vec<_> = names.collect();
        message["tool_plan"] = json!(format!("I will call {}.", names.join(" and ")));
        let calls = encode_calls(calls, |at, call| {
            let function = json!({ "name": call.name, "arguments": call.arguments.to_string() });
            let id = format!("{}_{}{at}", call.name, &id[..12]);
            json!({ "id": id, "type": "function", "function": function })
        });
        message["tool_calls"] = json!(calls);
    } else {
        content.push(json!({ "type": "text", "text": answer.text() }));
    }
    if !content.is_empty() {
        message["content"] = json!(content);
    }
    message
}

fn read_request(request: &Value) -> Result<UnifiedRequest, RequestProblem> {
    let unified = messages::read_request(super::Vendor::Cohere, request)?;
    let stops = messages::text_list(request.get("stop_sequences"));
    if stops.len() > MOST_STOPS {
        return wrong(format!(
            "invalid request: at most {MOST_STOPS} stop_sequences are allowed"
        ));
    }
    let choice = match request.get("tool_choice") {
        None | Some(Value::Null) => ToolSelection::Free,
        Some(Value::String(word)) if word == "REQUIRED" => ToolSelection::Any,
        Some(Value::String(word)) if word == "NONE" => ToolSelection::Never,
        Some(other) => {
            return wrong(format!(
                "invalid request: tool_choice must be one of REQUIRED, NONE. Received: {other}"
            ));
        }
    };
    if choice == ToolSelection::Any && unified.tools.is_empty() {
        return wrong("invalid request: tool_choice is set but no tools are given");
    }
    let format = request.get("response_format").unwrap_or(&Value::Null);
    let schema = format.get("json_schema").or_else(|| format.get("schema"));
    let form = match (text_field(format, "type"), schema) {
        (Some("json_object"), Some(schema)) => AnswerForm::Schema(schema.clone()),
        (Some("json_object"), None) => AnswerForm::Json,
        (Some("text") | None, _) => AnswerForm::Text,
        (Some(other), _) => {
            return wrong(format!(
                "invalid request: response_format.type must be one of text, json_object. Received: {other}"
            ));
        }
    };
    Ok(UnifiedRequest {
        choice,
        form,
        stops,
        ..unified
    })
}

fn embed(call: &VendorCall<'_>, request: &Value) -> Outcome {
    let kind = text_field(request, "input_type");
    if !kind.is_some_and(|kind| INPUT_TYPES.contains(&kind)) {
        return wrong(format!(
            "invalid request: valid input_type must be provided with the provided model: one of {}",
            INPUT_TYPES.join(", ")
        ));
    }
    let inputs = inputs(request)?;
    if inputs.is_empty() {
        return wrong("invalid request: must provide at least one text, image or input");
    }
    if inputs.len() > MOST_TEXTS {
        return wrong(format!(
            "invalid request: total number of texts must be at most {MOST_TEXTS} - received {}",
            inputs.len()
        ));
    }
    let dimensions = number_field(request, "output_dimension").unwrap_or(DIMENSIONS);
    let dimensions = dimensions.clamp(1, MOST_DIMENSIONS);
    let vectors = inputs.iter().map(|text| vector(text, dimensions));
    let vectors: Vec<_> = vectors.collect();
    let mut types = messages::text_list(request.get("embedding_types"));
    if types.is_empty() {
        types.push("float".to_owned());
    }
    let mut embeddings = json!({});
    for name in types {
        embeddings[&name] = in_type(&name, &vectors)?;
    }
    let tokens = prompt_tokens(call.body);
    let body = json!({
        "response_type": "embeddings_by_type",
        "id": digest(call.body),
        "embeddings": embeddings,
        "texts": request.get("texts").cloned().unwrap_or_else(|| json!([])),
        "meta": { "api_version": { "version": "2" }, "billed_units": { "input_tokens": tokens } },
    });
    Ok(VendorAnswer::json(200, &body).spending(tokens, 0))
}

fn inputs(request: &Value) -> Result<Vec<String>, RequestProblem> {
    let mut inputs = messages::text_list(request.get("texts"));
    for image in messages::text_list(request.get("images")) {
        inputs.push(parts::linked("image", &image)?);
    }
    for input in list_field(request, "inputs") {
        inputs.push(parts::text(input.get("content"))?);
    }
    Ok(inputs)
}

/// Encodes embeddings in one of Cohere's embedding types.
fn in_type(name: &str, vectors: &[Vec<f64>]) -> Result<Value, RequestProblem> {
    let vectors = vectors.iter();
    match name {
        "float" => Ok(vectors.map(|vector| json!(vector)).collect()),
        "int8" => Ok(vectors.map(|vector| bytes(vector, 0.0)).collect()),
        "uint8" => Ok(vectors.map(|vector| bytes(vector, 128.0)).collect()),
        "base64" => Ok(vectors.map(|vector| media::pack(vector)).collect()),
        other => wrong(format!(
            "invalid request: unsupported embedding type {other}"
        )),
    }
}

/// Encodes an embedding as whole numbers of one byte each.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what is packed is less precise"
)]
fn bytes(vector: &[f64], shift: f64) -> Value {
    let byte = |number: &f64| json!((number * 127.0 + shift).round() as i64);
    vector.iter().map(byte).collect()
}

fn rerank(call: &VendorCall<'_>, request: &Value) -> Outcome {
    let query = text_field(request, "query").filter(|query| !query.is_empty());
    let (Some(query), Some(documents)) = (query, documents(request)) else {
        return wrong("invalid request: query and documents are required");
    };
    let result = |(index, score)| json!({ "index": index, "relevance_score": score });
    let ranks = ranking(query, &documents, number_field(request, "top_n"));
    let results: Vec<_> = ranks.into_iter().map(result).collect();
    let meta = json!({ "api_version": { "version": "2" }, "billed_units": { "search_units": 1 } });
    let body = json!({ "id": digest(call.body), "results": results, "meta": meta });
    Ok(VendorAnswer::json(200, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_required_or_forbidden_but_never_named() {
        let with = |choice: Value| {
            let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
            let messages = json!([{ "role": "user", "content": "hi" }]);
            read_request(&json!({ "messages": messages, "tools": tools, "tool_choice": choice }))
        };
        assert_eq!(
            with(json!("REQUIRED")).map(|unified| unified.choice),
            Ok(ToolSelection::Any)
        );
        assert_eq!(
            with(json!("NONE")).map(|unified| unified.choice),
            Ok(ToolSelection::Never)
        );
        assert!(with(json!("auto")).is_err());
        assert!(with(json!({ "type": "function", "function": { "name": "f" } })).is_err());
    }

    #[test]
    fn vectors_come_in_many_types() {
        let vectors = [vec![-1.0, 0.0, 1.0]];
        assert_eq!(in_type("int8", &vectors), Ok(json!([[-127, 0, 127]])));
        assert_eq!(in_type("uint8", &vectors), Ok(json!([[1, 128, 255]])));
        assert!(in_type("words", &vectors).is_err());
    }
}
