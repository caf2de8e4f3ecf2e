//! The encoding of a chat for Ollama.

use serde_json::{Map, Value, json};

use crate::chat::{
    AnswerFormat, ChatMessage, ChatRequest, ContentPiece, MessageRole, ToolChoice, ToolFunction,
};
use crate::unsupported::Unsupported;

/// Encodes the body of a request.
pub(super) fn of(chat: &ChatRequest, model: &str) -> Result<Value, Unsupported> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", model.into());
    // Without this field Ollama streams.
    set("stream", false.into());
    let messages = chat.messages.iter().enumerate();
    let messages: Result<Vec<_>, _> = messages
        .map(|(index, message)| turn(chat, index, message))
        .collect();
    set("messages", messages?.into());
    let options = options(chat);
    if !options.is_empty() {
        set("options", options.into());
    }
    match &chat.response_format {
        AnswerFormat::Text => {}
        AnswerFormat::JsonObject => {
            set("format", "json".into());
        }
        AnswerFormat::JsonSchema { json_schema } => {
            set("format", json_schema.schema.clone());
        }
    }
    match &chat.tool_choice {
        ToolChoice::Auto if chat.has_tools() => {
            set("tools", chat.functions().map(tool).collect());
        }
        ToolChoice::Auto | ToolChoice::None => {}
        ToolChoice::Required | ToolChoice::One(_) => {
            let problem = "Ollama lets the model choose, use `auto` or leave it out";
            return Err(Unsupported::new("body.tool_choice", problem));
        }
    }
    if let Some(effort) = chat.reasoning_effort {
        let word = effort.of_three();
        set("think", word.map_or_else(|| false.into(), Value::from));
    }
    Ok(body.into())
}

fn options(chat: &ChatRequest) -> Map<String, Value> {
    let mut options = Map::new();
    let mut set = |name: &str, value: Value| options.insert(name.to_owned(), value);
    let numbers = [
        ("temperature", &chat.temperature),
        ("top_p", &chat.top_p),
        ("top_k", &chat.top_k),
        ("presence_penalty", &chat.presence_penalty),
        ("frequency_penalty", &chat.frequency_penalty),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            set(name, number.clone().into());
        }
    }
    if let Some(most) = chat.most_tokens() {
        set("num_predict", most.into());
    }
    if let Some(seed) = chat.seed {
        set("seed", seed.into());
    }
    if !chat.stop.list().is_empty() {
        set("stop", json!(chat.stop.list()));
    }
    options
}

fn turn(chat: &ChatRequest, index: usize, message: &ChatMessage) -> Result<Value, Unsupported> {
    let field = format!("body.messages[{index}]");
    let (mut text, mut images) = (String::new(), Vec::new());
    for (place, piece) in message.content.parts(&format!("{field}.content")) {
        match piece {
            ContentPiece::Text(words) => text.push_str(words),
            ContentPiece::Image(media) => images.push(media.data),
            ContentPiece::ImageAt(_) => {
                return Err(piece.unsupported(
                    &place,
                    "Ollama fetches nothing, send the bytes as a data URL",
                ));
            }
            ContentPiece::Audio(_) | ContentPiece::File(_) => {
                return Err(piece.unsupported(&place, "Ollama reads text and images"));
            }
        }
    }
    if let Some(refusal) = &message.refusal {
        text.push_str(refusal);
    }
    let role = match message.role {
        MessageRole::System => "system",
        MessageRole::User => "user",
        MessageRole::Assistant => "assistant",
        MessageRole::Tool => "tool",
    };
    let mut turn = json!({ "role": role, "content": text });
    if !images.is_empty() {
        turn["images"] = json!(images);
    }
    if message.role == MessageRole::Assistant
        && let Some(thoughts) = message.reasoning_content.as_deref()
    {
        turn["thinking"] = thoughts.into();
    }
    let called = message.tool_call_id.as_deref();
    if let Some(name) = called.and_then(|id| chat.function_of(id)) {
        turn["tool_name"] = name.into();
    }
    let mut calls = Vec::new();
    for (place, call) in message.tool_calls.iter().enumerate() {
        let arguments =
            call.arguments(&format!("{field}.tool_calls[{place}].function.arguments"))?;
        let name = &call.function.name;
        calls.push(json!({ "function": { "name": name, "arguments": arguments } }));
    }
    if !calls.is_empty() {
        turn["tool_calls"] = calls.into();
    }
    Ok(turn)
}

fn tool(function: &ToolFunction) -> Value {
    let mut wire = json!({ "name": function.name, "parameters": function.schema() });
    if let Some(description) = &function.description {
        wire["description"] = description.as_str().into();
    }
    json!({ "type": "function", "function": wire })
}
