//! The dialect of Bedrock's Converse, and the embeddings that only Invoke reaches.

use serde_json::{Value, json};

use super::openai::messages::text_list;
use crate::answer::{DIMENSIONS, MOST_DIMENSIONS, VendorAnswer, digest, prompt_tokens, vector};
use crate::asked::{
    AnswerContent, AnswerEnd, AnswerForm, RequestTool, ToolSelection, UnifiedAnswer,
    UnifiedRequest, encode_calls, reply,
};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{
    filled_list_field, list_field, number_field, text_at, text_field, text_or_empty,
};
use crate::parts;
use crate::route::ApiTask;
use crate::signature;

pub(super) fn answer(call: &VendorCall<'_>) -> Outcome {
    let request = call.request()?;
    let id = digest(call.body);
    let answer = if call.task == ApiTask::Invoke {
        invoked(call, request)?
    } else {
        converse(call, request)?
    };
    Ok(answer.with("x-amzn-requestid", &id))
}

fn converse(call: &VendorCall<'_>, request: &Value) -> Outcome {
    let unified = read_request(request)?;
    let answer = reply(&unified);
    let id = digest(call.body);
    let (input, output) = (prompt_tokens(call.body), answer.all_tokens());
    let cached = unified.cached(input);
    let guarded = request.get("guardrailConfig").is_some();
    let reason = match (&answer.content, &answer.end) {
        (AnswerContent::Calls(_), _) => "tool_use",
        (AnswerContent::Refusal(_), _) if guarded => "guardrail_intervened",
        (AnswerContent::Refusal(_), _) => "content_filtered",
        (_, AnswerEnd::Stopped(_)) => "stop_sequence",
        (_, AnswerEnd::Length) => "max_tokens",
        (_, AnswerEnd::Whole) => "end_turn",
    };
    let body = json!({
        "output": { "message": { "role": "assistant", "content": content(&answer, &id) } },
        "stopReason": reason,
        "usage": {
            "inputTokens": input - cached,
            "outputTokens": output,
            "totalTokens": input + output,
            "cacheReadInputTokens": cached,
            "cacheWriteInputTokens": 0,
        },
        "metrics": { "latencyMs": 1 },
    });
    Ok(VendorAnswer::json(200, &body).spending(input - cached, output))
}

fn content(answer: &UnifiedAnswer, id: &str) -> Vec<Value> {
    let thought = answer.thought.as_ref().map(|thought| {
        let text = json!({ "text": thought, "signature": signature::sign(thought) });
        json!({ "reasoningContent": { "reasoningText": text } })
    });
    let blocks = match &answer.content {
        AnswerContent::Text(text) | AnswerContent::Refusal(text) => vec![json!({ "text": text })],
        AnswerContent::Calls(calls) => encode_calls(calls, |at, call| {
            let id = format!("tooluse_{id}{at}");
            json!({ "toolUse": { "toolUseId": id, "name": call.name, "input": call.arguments } })
        }),
    };
    thought.into_iter().chain(blocks).collect()
}

fn read_request(request: &Value) -> Result<UnifiedRequest, RequestProblem> {
    let Some(messages) = filled_list_field(request, "messages") else {
        return wrong(
            "A conversation must start with a user message. Try again with a conversation that starts with a user message.",
        );
    };
    let extra = request.get("additionalModelRequestFields");
    let named = |name: &str| text_field(extra?.get(name)?, "type");
    let thinking = ["thinking", "reasoning_config", "reasoningConfig"]
        .into_iter()
        .find_map(named);
    let reasoning = matches!(thinking, Some("enabled" | "adaptive"));
    check(messages, request.get("toolConfig"), reasoning)?;
    let (text, result) = last(messages)?;
    let config = request.get("inferenceConfig").unwrap_or(&Value::Null);
    let choice = request
        .pointer("/toolConfig/toolChoice")
        .unwrap_or(&Value::Null);
    Ok(UnifiedRequest {
        text,
        result,
        tools: tools(request)?,
        choice: match text_at(choice, "/tool/name") {
            Some(name) => ToolSelection::Named(name.to_owned()),
            None if choice.get("any").is_some() => ToolSelection::Any,
            None => ToolSelection::Free,
        },
        form: form(request)?,
        stops: text_list(config.get("stopSequences")),
        max_tokens: number_field(config, "maxTokens"),
        reasoning,
        single_call: false,
    })
}

/// Checks that a message of the user holds one result for each tool call before it.
fn answers(results: &[String], open: &[String], at: usize) -> Result<(), RequestProblem> {
    if results.len() > open.len() {
        return wrong(format!(
            "The number of toolResult blocks at messages.{at}.content exceeds the number of toolUse blocks of previous turn."
        ));
    }
    if results != open {
        return wrong(format!(
            "Expected toolResult blocks at messages.{at}.content for the following Ids: {}",
            open.join(", ")
        ));
    }
    Ok(())
}

/// Checks that roles alternate, that results follow their tool calls and that reasoning is unchanged.
fn check(messages: &[Value], tools: Option<&Value>, reasoning: bool) -> Result<(), RequestProblem> {
    let mut open: Vec<String> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let role = text_or_empty(message, "role");
        let expected = if at % 2 == 0 { "user" } else { "assistant" };
        if role != expected && at == 0 {
            return wrong(
                "A conversation must start with a user message. Try again with a conversation that starts with a user message.",
            );
        }
        if role != expected {
            return wrong(
                "A conversation must alternate between user and assistant roles. Make sure the conversation alternates between user and assistant roles and try again.",
            );
        }
        let Some(blocks) = filled_list_field(message, "content") else {
            return wrong(format!(
                "The content field in the Message object at messages.{at} is empty. Add a ContentBlock object to the content field and try again."
            ));
        };
        let ids = |pointer: &str| -> Vec<String> {
            let ids = blocks.iter().filter_map(|block| text_at(block, pointer));
            ids.map(str::to_owned).collect()
        };
        let (calls, mut results) = (ids("/toolUse/toolUseId"), ids("/toolResult/toolUseId"));
        if tools.is_none() && !(calls.is_empty() && results.is_empty()) {
            return wrong(
                "The toolConfig field must be defined when using toolUse and toolResult content blocks.",
            );
        }
        if role == "user" {
            results.sort();
            open.sort();
            answers(&results, &open, at)?;
        }
        thoughts(blocks, reasoning && !calls.is_empty(), at)?;
        open = calls;
    }
    if open.is_empty() {
        Ok(())
    } else {
        wrong("Expected toolResult blocks after the last message.")
    }
}

fn thoughts(blocks: &[Value], needed: bool, at: usize) -> Result<(), RequestProblem> {
    let texts = blocks.iter();
    let texts = texts.filter_map(|block| block.pointer("/reasoningContent/reasoningText"));
    for block in texts {
        let field = |name: &str| text_or_empty(block, name);
        if !signature::is_valid(field("text"), field("signature")) {
            return wrong(format!(
                "messages.{at}.content.0: Invalid `signature` in `thinking` block"
            ));
        }
    }
    let first = blocks.first();
    let begins_with_one = first.is_some_and(|block| block.get("reasoningContent").is_some());
    if needed && !begins_with_one {
        return wrong(format!(
            "messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`."
        ));
    }
    Ok(())
}

fn last(messages: &[Value]) -> Result<(String, Option<String>), RequestProblem> {
    let last = messages.last().map_or(&[][..], content_of);
    let results = last.iter();
    let results = results.filter_map(|block| block.pointer("/toolResult/content")?.as_array());
    let results: Vec<_> = results.collect();
    if results.is_empty() {
        return Ok((as_text(last)?, None));
    }
    let result = parts::join(results.into_iter().map(|result| as_text(result)))?;
    let is_question = |message: &&Value| {
        let holds_result = message.pointer("/content/0/toolResult").is_some();
        text_field(message, "role") == Some("user") && !holds_result
    };
    let question = messages.iter().rfind(is_question);
    let question = question.map_or(&[][..], content_of);
    Ok((as_text(question)?, Some(result)))
}

fn content_of(message: &Value) -> &[Value] {
    list_field(message, "content")
}

/// Returns the blocks as text.
fn as_text(blocks: &[Value]) -> Result<String, RequestProblem> {
    parts::join(blocks.iter().map(block_as_text))
}

fn block_as_text(block: &Value) -> Result<String, RequestProblem> {
    if let Some(value) = block.get("json") {
        return Ok(value.to_string());
    }
    let kinds = [
        ("image", "image", "image"),
        ("document", "file", "application"),
        ("audio", "audio", "audio"),
        ("video", "video", "video"),
    ];
    let given = kinds
        .iter()
        .find_map(|(name, kind, media)| Some((block.get(name)?, kind, media)));
    let Some((given, kind, media)) = given else {
        return Ok(text_or_empty(block, "text").to_owned());
    };
    if let Some(uri) = text_at(given, "/source/s3Location/uri") {
        return parts::linked(kind, uri);
    }
    let field = |pointer: &str| text_at(given, pointer).unwrap_or_default();
    let media = format!("{media}/{}", field("/format"));
    parts::bytes(kind, &media, field("/source/bytes"))
}

fn tools(request: &Value) -> Result<Vec<RequestTool>, RequestProblem> {
    let config = request.get("toolConfig").unwrap_or(&Value::Null);
    let tools = list_field(config, "tools").iter();
    let specified = tools.filter_map(|tool| tool.get("toolSpec"));
    specified.map(tool).collect()
}

fn tool(specification: &Value) -> Result<RequestTool, RequestProblem> {
    let schema = specification.pointer("/inputSchema/json");
    match text_field(specification, "name") {
        Some(name) => Ok(RequestTool::new(name, schema)),
        None => wrong("toolConfig.tools.0.toolSpec.name: is required"),
    }
}

/// Returns the form of the answer. Converse takes a JSON Schema as text, not as an object.
fn form(request: &Value) -> Result<AnswerForm, RequestProblem> {
    let Some(format) = request.pointer("/outputConfig/textFormat") else {
        return Ok(AnswerForm::Text);
    };
    let schema = text_at(format, "/structure/jsonSchema/schema");
    match schema.and_then(|schema| serde_json::from_str(schema).ok()) {
        Some(schema) => Ok(AnswerForm::Schema(schema)),
        None => wrong("outputConfig.textFormat.structure.jsonSchema.schema: is not a JSON Schema"),
    }
}

/// Returns an embedding in the form of the model's maker, which is Amazon or Cohere.
fn invoked(call: &VendorCall<'_>, request: &Value) -> Outcome {
    let tokens = prompt_tokens(call.body);
    let body = if let Some(text) = text_field(request, "inputText") {
        let dimensions = number_field(request, "dimensions").unwrap_or(DIMENSIONS);
        let embedding = vector(text, dimensions.clamp(1, MOST_DIMENSIONS));
        json!({ "embedding": embedding, "inputTextTokenCount": tokens })
    } else {
        let texts = text_list(request.get("texts"));
        if texts.is_empty() || request.get("input_type").is_none() {
            return wrong("Malformed input request, please reformat your input and try again.");
        }
        let vectors: Vec<_> = texts.iter().map(|text| vector(text, DIMENSIONS)).collect();
        json!({
            "id": digest(call.body), "response_type": "embeddings_floats", "embeddings": vectors, "texts": texts
        })
    };
    let answer = VendorAnswer::json(200, &body).spending(tokens, 0);
    Ok(answer.with("x-amzn-bedrock-input-token-count", &tokens.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: Value) -> Result<UnifiedRequest, RequestProblem> {
        let spec =
            json!({ "toolSpec": { "name": "f", "inputSchema": { "json": { "type": "object" } } } });
        read_request(&json!({ "messages": messages, "toolConfig": { "tools": [spec] } }))
    }

    #[test]
    fn turns_alternate_and_results_follow_their_calls() {
        let user = json!({ "role": "user", "content": [{ "text": "call it" }] });
        let call = json!({ "role": "assistant", "content": [{ "toolUse": { "toolUseId": "1", "name": "f", "input": {} } }] });
        let result = json!({ "role": "user", "content": [{ "toolResult": { "toolUseId": "1", "content": [{ "text": "rain" }] } }] });
        let whole = read(json!([user, call, result])).expect("a conversation");
        assert_eq!(
            (whole.text.as_str(), whole.result.as_deref()),
            ("call it", Some("rain"))
        );
        assert!(read(json!([user, user])).is_err());
        assert!(read(json!([call])).is_err());
        assert!(read(json!([user, call, user])).is_err());
        assert!(read(json!([result])).is_err());
        assert!(
            read_request(&json!({ "messages": [user, call, result] })).is_err(),
            "tools are not declared"
        );
    }
}
