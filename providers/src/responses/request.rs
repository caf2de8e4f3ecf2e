//! The encoding of a chat as Responses.

use serde_json::{Map, Value, json};

use super::DIALECT;
use crate::chat::{
    AnswerFormat, CalledTool, ChatMessage, ChatRequest, ContentPiece, MessageContent, MessageRole,
    ReasoningEffort, ToolCall, ToolChoice, ToolFunction,
};
use crate::unsupported::Unsupported;

/// Encodes the body of a request.
pub(super) fn of(chat: &ChatRequest, model: &str) -> Result<Value, Unsupported> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", model.into());
    // A chat leaves nothing stored at the provider.
    set("store", false.into());
    let mut input = Vec::new();
    for (index, message) in chat.messages.iter().enumerate() {
        items(&mut input, &format!("body.messages[{index}]"), message)?;
    }
    set("input", input.into());
    if let Some(temperature) = &chat.temperature {
        set("temperature", temperature.clone().into());
    }
    if let Some(top_p) = &chat.top_p {
        set("top_p", top_p.clone().into());
    }
    if let Some(most) = chat.most_tokens() {
        set("max_output_tokens", most.into());
    }
    if let Some(effort) = chat.reasoning_effort {
        set("reasoning", json!({ "effort": effort.as_str() }));
        if effort != ReasoningEffort::None {
            // Reasoning that is not stored there has to be sent back in the next turn.
            set("include", json!(["reasoning.encrypted_content"]));
        }
    }
    if chat.has_tools() {
        set("tools", chat.functions().map(tool).collect());
        set("tool_choice", choice(&chat.tool_choice));
        if let Some(parallel) = chat.parallel_tool_calls {
            set("parallel_tool_calls", parallel.into());
        }
    }
    let text = text_config(chat);
    if !text.is_empty() {
        set("text", text.into());
    }
    if let Some(tier) = &chat.service_tier {
        set("service_tier", tier.as_str().into());
    }
    if let Some(key) = &chat.prompt_cache_key {
        set("prompt_cache_key", key.as_str().into());
    }
    if let Some(user) = chat.end_user() {
        set("safety_identifier", user.into());
    }
    if let Some(metadata) = &chat.metadata {
        set("metadata", metadata.clone().into());
    }
    Ok(body.into())
}

/// Encodes one message: as a message, and as an item for each call, result and thought.
fn items(input: &mut Vec<Value>, field: &str, message: &ChatMessage) -> Result<(), Unsupported> {
    let content = format!("{field}.content");
    match message.role {
        MessageRole::System => {
            let text = message.content.texts(&content)?.concat();
            input.push(json!({ "type": "message", "role": "developer", "content": text }));
        }
        MessageRole::User => {
            let parts = parts(&message.content, &content)?;
            input.push(json!({ "type": "message", "role": "user", "content": parts }));
        }
        MessageRole::Tool => {
            let output = message.content.texts(&content)?.concat();
            let call_id = &message.tool_call_id;
            input.push(
                json!({ "type": "function_call_output", "call_id": call_id, "output": output }),
            );
        }
        MessageRole::Assistant => {
            input.extend(message.opaque(DIALECT).cloned());
            let text = message.text_and_refusal(&content)?;
            if !text.is_empty() {
                input.push(json!({ "type": "message", "role": "assistant", "content": text }));
            }
            let calls = message.tool_calls.iter();
            input.extend(calls.map(call));
        }
    }
    Ok(())
}

fn call(call: &ToolCall) -> Value {
    let CalledTool { name, arguments } = &call.function;
    json!({ "type": "function_call", "call_id": call.id, "name": name, "arguments": arguments })
}

fn parts(content: &MessageContent, field: &str) -> Result<Vec<Value>, Unsupported> {
    let pieces = content.parts(field).into_iter();
    pieces.map(|(field, piece)| part(&field, piece)).collect()
}

fn part(field: &str, piece: ContentPiece<'_>) -> Result<Value, Unsupported> {
    Ok(match piece {
        ContentPiece::Text(text) => json!({ "type": "input_text", "text": text }),
        ContentPiece::Image(media) => image(&media.url(), media.detail),
        ContentPiece::ImageAt(at) => image(&at.url, at.detail.as_deref()),
        ContentPiece::Audio(_) => return Err(piece.unsupported(field, "Responses take no sound")),
        ContentPiece::File(file) => {
            let mut part = json!({ "type": "input_file" });
            let given = [
                ("file_data", &file.file_data),
                ("file_id", &file.file_id),
                ("filename", &file.filename),
            ];
            for (name, value) in given {
                if let Some(value) = value {
                    part[name] = value.as_str().into();
                }
            }
            part
        }
    })
}

fn image(url: &str, detail: Option<&str>) -> Value {
    let detail = detail.unwrap_or("auto");
    json!({ "type": "input_image", "image_url": url, "detail": detail })
}

fn tool(function: &ToolFunction) -> Value {
    let mut wire = json!({
        "type": "function",
        "name": function.name,
        "parameters": function.schema(),
        // Chats are not strict by default; Responses are.
        "strict": function.strict.unwrap_or(false),
    });
    if let Some(description) = &function.description {
        wire["description"] = description.as_str().into();
    }
    wire
}

fn choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::One(name) => json!({ "type": "function", "name": name }),
    }
}

fn text_config(chat: &ChatRequest) -> Map<String, Value> {
    let mut text = Map::new();
    let mut set = |name: &str, value: Value| text.insert(name.to_owned(), value);
    match &chat.response_format {
        AnswerFormat::Text => {}
        AnswerFormat::JsonObject => {
            set("format", json!({ "type": "json_object" }));
        }
        AnswerFormat::JsonSchema {
            json_schema: schema,
        } => {
            let mut wire =
                json!({ "type": "json_schema", "name": schema.name, "schema": schema.schema });
            if let Some(description) = &schema.description {
                wire["description"] = description.as_str().into();
            }
            if let Some(strict) = schema.strict {
                wire["strict"] = strict.into();
            }
            set("format", wire);
        }
    }
    if let Some(verbosity) = &chat.verbosity {
        set("verbosity", verbosity.as_str().into());
    }
    text
}
