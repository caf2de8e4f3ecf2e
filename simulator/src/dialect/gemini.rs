//! The dialect of Gemini's `generateContent` and `embedContent`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::answer::{DIMENSIONS, MOST_DIMENSIONS, VendorAnswer, digest, prompt_tokens, vector};
use crate::asked::{
    AnswerCall, AnswerContent, AnswerEnd, AnswerForm, RequestTool, ToolSelection, UnifiedAnswer,
    UnifiedRequest, encode_calls, reply,
};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{
    filled_list_field, list_field, number_field, text_at, text_field, text_or_empty,
};
use crate::parts;
use crate::route::ApiTask;
use crate::signature;

const FIELDS: [&str; 10] = [
    "model",
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "generationConfig",
    "safetySettings",
    "cachedContent",
    "labels",
    "serviceTier",
];
/// The fields whose values do not belong to this API, so that their names stay as they are.
const OPAQUE_FIELDS: [&str; 7] = [
    "args",
    "response",
    "parameters",
    "parametersJsonSchema",
    "responseSchema",
    "responseJsonSchema",
    "labels",
];
/// The most candidates of one answer.
const MOST_CANDIDATES: u64 = 8;

pub(super) fn answer(call: &VendorCall<'_>) -> Outcome {
    let request = in_camel_case(call.request()?.clone());
    let model = call.model.unwrap_or_default();
    match call.task {
        ApiTask::Embed => {
            let embedding = embedding(&request)?;
            Ok(VendorAnswer::json(200, &json!({ "embedding": embedding })))
        }
        ApiTask::EmbedMany => {
            let Some(requests) = filled_list_field(&request, "requests") else {
                return wrong(
                    "* BatchEmbedContentsRequest.requests: at least one request is required",
                );
            };
            let embeddings: Result<Vec<_>, _> = requests.iter().map(embedding).collect();
            let body = json!({ "embeddings": embeddings? });
            Ok(VendorAnswer::json(200, &body))
        }
        _ => generate(call, &request, model),
    }
}

/// Renames fields to `camelCase`. Gemini accepts `snake_case` too, and Google's own SDK sends some fields in it.
/// Values of [`OPAQUE_FIELDS`] keep their names.
fn in_camel_case(value: Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.into_iter().map(in_camel_case).collect()),
        Value::Object(map) => Value::Object(map.into_iter().map(field_in_camel_case).collect()),
        other => other,
    }
}

fn field_in_camel_case((name, value): (String, Value)) -> (String, Value) {
    let mut words = name.split('_');
    let mut camel_name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        let first = letters.next().into_iter();
        camel_name.extend(first.flat_map(char::to_uppercase));
        camel_name.extend(letters);
    }
    if OPAQUE_FIELDS.contains(&&*camel_name) {
        return (camel_name, value);
    }
    (camel_name, in_camel_case(value))
}

fn embedding(request: &Value) -> Result<Value, RequestProblem> {
    let text = as_text(parts_of(request.get("content")))?;
    if text.is_empty() {
        return wrong("* EmbedContentRequest.content: contents is not specified");
    }
    let dimensions = number_field(request, "outputDimensionality");
    let dimensions = dimensions.unwrap_or(DIMENSIONS).clamp(1, MOST_DIMENSIONS);
    Ok(json!({ "values": vector(&text, dimensions) }))
}

fn generate(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let unified = read_request(request, model)?;
    let answer = reply(&unified);
    let input = prompt_tokens(call.body);
    let config = request.get("generationConfig").unwrap_or(&Value::Null);
    let count = number_field(config, "candidateCount").unwrap_or(1);
    let count = count.clamp(1, MOST_CANDIDATES);
    let included = config.pointer("/thinkingConfig/includeThoughts") == Some(&json!(true));
    let shown = included || unified.text.starts_with("think ");
    let (written, thought) = (answer.tokens * count, answer.thought_tokens * count);
    let id = digest(call.body);
    let refused = matches!(answer.content, AnswerContent::Refusal(_));
    let mut usage = json!({ "promptTokenCount": input });
    if !refused {
        usage["candidatesTokenCount"] = json!(written);
    }
    if unified.cached(input) > 0 {
        usage["cachedContentTokenCount"] = json!(unified.cached(input));
    }
    if answer.thought.is_some() {
        usage["thoughtsTokenCount"] = json!(thought);
    }
    let total = if refused {
        input
    } else {
        input + written + thought
    };
    usage["totalTokenCount"] = json!(total);
    usage["promptTokensDetails"] = json!([{ "modality": "TEXT", "tokenCount": input }]);
    let parts = answer_parts(&answer, shown, is_gemini_3(model).then_some(id.as_str()));
    let content = json!({ "parts": parts, "role": "model" });
    let reason = if answer.end == AnswerEnd::Length {
        "MAX_TOKENS"
    } else {
        "STOP"
    };
    let candidate = |index| json!({ "content": content, "finishReason": reason, "index": index });
    let candidates: Vec<_> = (0..count).map(candidate).collect();
    let mut body = json!({ "candidates": candidates, "usageMetadata": usage });
    if refused {
        body = json!({ "promptFeedback": { "blockReason": "SAFETY" }, "usageMetadata": usage });
    }
    body["modelVersion"] = json!(model);
    body["responseId"] = json!(id);
    Ok(VendorAnswer::json(200, &body).spending(input, total - input))
}

fn answer_parts(answer: &UnifiedAnswer, shown: bool, id: Option<&str>) -> Vec<Value> {
    let mut list = Vec::new();
    if let Some(thought) = answer.thought.as_ref().filter(|_| shown) {
        list.push(json!({ "text": thought, "thought": true }));
    }
    let encode_call = |at, call: &AnswerCall| {
        let mut function = json!({ "name": call.name, "args": call.arguments });
        // Older models give their tool calls no ids.
        if let Some(id) = id {
            function["id"] = json!(format!("call{}{at}", &id[..8]));
        }
        json!({ "functionCall": function })
    };
    let mut parts = match &answer.content {
        AnswerContent::Text(text) | AnswerContent::Refusal(text) => vec![json!({ "text": text })],
        AnswerContent::Calls(calls) => encode_calls(calls, encode_call),
    };
    // Of several tool calls in one answer, only the first is signed.
    if answer.thought.is_some()
        && let Some(first) = parts.first_mut()
    {
        first["thoughtSignature"] = json!(seal(first));
    }
    list.extend(parts);
    list
}

/// Returns true if a model always signs its tool calls and requires the signature back.
fn is_gemini_3(model: &str) -> bool {
    model.starts_with("gemini-3")
}

/// Returns the signature of a part: bytes, which are base64 in JSON.
fn seal(part: &Value) -> String {
    let what = match part.get("functionCall") {
        Some(call) => format!("{}{}", call["name"], call["args"]),
        None => part.get("text").map(Value::to_string).unwrap_or_default(),
    };
    BASE64_STANDARD.encode(signature::sign(&what).as_bytes())
}

fn read_request(request: &Value, model: &str) -> Result<UnifiedRequest, RequestProblem> {
    let Some(fields) = request.as_object() else {
        return Err(RequestProblem::Unreadable);
    };
    let mut names = fields.keys().map(String::as_str);
    if let Some(field) = names.find(|name| !FIELDS.contains(name)) {
        return wrong(format!(
            "Invalid JSON payload received. Unknown name \"{field}\": Cannot find field."
        ));
    }
    let Some(contents) = filled_list_field(request, "contents") else {
        return wrong("* GenerateContentRequest.contents: contents is not specified");
    };
    check(contents, model)?;
    let config = request.get("generationConfig").unwrap_or(&Value::Null);
    let thinking = config.get("thinkingConfig").unwrap_or(&Value::Null);
    let budget = thinking.get("thinkingBudget").and_then(Value::as_i64);
    let level = thinking.get("thinkingLevel").is_some();
    let included = thinking.get("includeThoughts") == Some(&json!(true));
    let (text, result) = last(contents)?;
    let (tools, choice) = tools(request)?;
    Ok(UnifiedRequest {
        text,
        result,
        tools,
        choice,
        form: form(config),
        stops: super::openai::messages::text_list(config.get("stopSequences")),
        max_tokens: number_field(config, "maxOutputTokens"),
        reasoning: budget.map_or(level || included, |budget| budget != 0) || is_gemini_3(model),
        single_call: false,
    })
}

/// Checks that roles are known, that results follow their tool calls and that signatures are unchanged.
fn check(contents: &[Value], model: &str) -> Result<(), RequestProblem> {
    let mut calls = Vec::new();
    for (at, content) in contents.iter().enumerate() {
        let role = text_field(content, "role").unwrap_or("user");
        if !matches!(role, "user" | "model" | "function") {
            return wrong("Please use a valid role: user, model.");
        }
        let Some(parts) = filled_list_field(content, "parts") else {
            return wrong(format!(
                "* GenerateContentRequest.contents[{at}].parts: contents.parts must not be empty."
            ));
        };
        let mut made = Vec::new();
        for (place, part) in parts.iter().enumerate() {
            if let Some(call) = part.get("functionCall") {
                made.push(text_or_empty(call, "name").to_owned());
            }
            if let Some(result) = part.get("functionResponse") {
                let name = text_or_empty(result, "name");
                if !calls.iter().any(|call| call == name) {
                    return wrong(
                        "Please ensure that function response turn comes immediately after a function call turn.",
                    );
                }
                if !result.get("response").is_some_and(Value::is_object) {
                    return wrong(format!(
                        "Invalid value at 'contents[{at}].parts[{place}].function_response.response'"
                    ));
                }
            }
            check_signature(part, made.len() == 1 && role == "model", model)?;
        }
        calls = made;
    }
    Ok(())
}

fn check_signature(part: &Value, first: bool, model: &str) -> Result<(), RequestProblem> {
    let given = text_field(part, "thoughtSignature");
    let call = part.get("functionCall").is_some();
    match given {
        Some(given) if given != seal(part) => wrong("Thought signature is not valid."),
        // Of several tool calls in one answer, only the first is signed.
        None if call && first && is_gemini_3(model) => wrong(
            "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly.",
        ),
        _ => Ok(()),
    }
}

fn last(contents: &[Value]) -> Result<(String, Option<String>), RequestProblem> {
    let last = parts_of(contents.last());
    let results = last.iter();
    let results = results.filter_map(|part| part.pointer("/functionResponse/response"));
    let results: Vec<_> = results.map(result_as_text).collect();
    if results.is_empty() {
        return Ok((as_text(last)?, None));
    }
    let result = parts::joined(results);
    let is_question = |content: &&Value| {
        let holds_result = content.pointer("/parts/0/functionResponse").is_some();
        text_field(content, "role").unwrap_or("user") == "user" && !holds_result
    };
    let question = contents.iter().rfind(is_question);
    Ok((as_text(parts_of(question))?, Some(result)))
}

fn parts_of(content: Option<&Value>) -> &[Value] {
    content.map_or(&[], |content| list_field(content, "parts"))
}

/// Returns the result of a tool as text. A result that holds one text under a well-known name is that text.
fn result_as_text(result: &Value) -> String {
    let mut names = ["result", "output"].into_iter();
    let text = names.find_map(|name| text_field(result, name));
    text.map_or_else(|| result.to_string(), str::to_owned)
}

/// Returns the parts as text.
fn as_text(parts: &[Value]) -> Result<String, RequestProblem> {
    parts::join(parts.iter().map(part_as_text))
}

fn part_as_text(part: &Value) -> Result<String, RequestProblem> {
    let field = |pointer: &str| text_at(part, pointer).unwrap_or_default();
    if part.get("thought") == Some(&json!(true)) {
        return Ok(String::new());
    }
    if part.get("inlineData").is_some() {
        let media = field("/inlineData/mimeType");
        return parts::bytes(kind(media), media, field("/inlineData/data"));
    }
    if part.get("fileData").is_some() {
        let kind = kind(field("/fileData/mimeType"));
        return parts::linked(kind, field("/fileData/fileUri"));
    }
    Ok(field("/text").to_owned())
}

fn kind(media: &str) -> &'static str {
    match media.split('/').next() {
        Some("image") => "image",
        Some("audio") => "audio",
        Some("video") => "video",
        _ => "file",
    }
}

fn tools(request: &Value) -> Result<(Vec<RequestTool>, ToolSelection), RequestProblem> {
    let lists = list_field(request, "tools").iter();
    let declared = lists.flat_map(|tool| list_field(tool, "functionDeclarations"));
    let tools: Vec<_> = declared.map(tool).collect::<Result<_, _>>()?;
    let config = request.pointer("/toolConfig/functionCallingConfig");
    let config = config.unwrap_or(&Value::Null);
    let mode = text_field(config, "mode");
    let allowed = text_at(config, "/allowedFunctionNames/0");
    let choice = match (mode, allowed) {
        (Some("NONE"), _) => ToolSelection::Never,
        (Some("ANY"), Some(name)) => ToolSelection::Named(name.to_owned()),
        (Some("ANY"), None) => ToolSelection::Any,
        _ => ToolSelection::Free,
    };
    Ok((tools, choice))
}

fn tool(declaration: &Value) -> Result<RequestTool, RequestProblem> {
    let schema = declaration
        .get("parametersJsonSchema")
        .or_else(|| declaration.get("parameters"));
    match text_field(declaration, "name") {
        Some(name) => Ok(RequestTool::new(name, schema)),
        None => wrong(
            "* GenerateContentRequest.tools[0].function_declarations[0].name: Invalid function name.",
        ),
    }
}

fn form(config: &Value) -> AnswerForm {
    let schema = config
        .get("responseJsonSchema")
        .or_else(|| config.get("responseSchema"));
    match (text_field(config, "responseMimeType"), schema) {
        (Some("application/json"), Some(schema)) => AnswerForm::Schema(schema.clone()),
        (Some("application/json"), None) => AnswerForm::Json,
        _ => AnswerForm::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_models_want_their_seals_back() {
        let tools = json!([{ "functionDeclarations": [{ "name": "f" }] }]);
        let user = json!({ "role": "user", "parts": [{ "text": "call it" }] });
        let first = read_request(
            &json!({ "contents": [user], "tools": tools }),
            "gemini-3-pro",
        )
        .expect("a request");
        let call = answer_parts(&reply(&first), false, Some("0123456789")).remove(0);
        let result =
            json!({ "functionResponse": { "name": "f", "response": { "result": "rain" } } });
        let with = |call: &Value, model: &str| {
            let contents = json!([
                user,
                { "role": "model", "parts": [call] },
                { "role": "user", "parts": [result] },
            ]);
            read_request(&json!({ "contents": contents, "tools": tools }), model)
        };
        assert_eq!(
            with(&call, "gemini-3-pro").map(|unified| unified.result),
            Ok(Some("rain".to_owned()))
        );
        let mut bare = call.clone();
        bare.as_object_mut()
            .expect("a part")
            .remove("thoughtSignature");
        assert!(with(&bare, "gemini-3-pro").is_err());
        assert!(with(&bare, "gemini-2.5-flash").is_ok());
        let mut other = call;
        other["thoughtSignature"] = json!("c2VhbGVk");
        assert!(with(&other, "gemini-2.5-flash").is_err());
    }

    #[test]
    fn names_are_taken_in_either_form() {
        let request = json!({ "generation_config": { "response_json_schema": { "a_b": 1 } }, "x": [{ "a_b": 1 }] });
        let expected = json!({ "generationConfig": { "responseJsonSchema": { "a_b": 1 } }, "x": [{ "aB": 1 }] });
        assert_eq!(in_camel_case(request), expected);
    }

    #[test]
    fn what_is_unknown_is_refused() {
        assert!(
            read_request(
                &json!({ "contents": [{ "parts": [{ "text": "hi" }] }] }),
                "g"
            )
            .is_ok()
        );
        assert!(
            read_request(
                &json!({ "contents": [{ "parts": [{ "text": "hi" }] }], "colour": 1 }),
                "g"
            )
            .is_err()
        );
        assert!(
            read_request(
                &json!({ "contents": [{ "role": "assistant", "parts": [{ "text": "hi" }] }] }),
                "g"
            )
            .is_err()
        );
        assert!(read_request(&json!({ "contents": [] }), "g").is_err());
    }
}
