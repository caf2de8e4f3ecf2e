//! The encoding of a chat for Ollama.

use serde_json::{Map, Value, json};

use crate::chat::{
    AnswerFormat, ChatMessage, ChatRequest, ContentPiece, MessageRole, OfferedTool, ToolChoice,
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
        ToolChoice::Auto if !chat.tools.is_empty() => {
            set("tools", chat.tools.iter().map(tool).collect());
        }
        ToolChoice::Auto | ToolChoice::None => {}
        ToolChoice::Required | ToolChoice::One(_) => {
            let problem = "Ollama lets the model choose, use `auto` or leave it out";
            return Err(Unsupported::new("body.tool_choice", problem));
        }
    }
    if let Some(effort) = chat.reasoning_effort {
        set(
            "think",
            effort.of_three().map_or_else(|| false.into(), Value::from),
        );
    }
    Ok(body.into())
}

fn options(chat: &ChatRequest) -> Map<String, Value> {
    let mut options = Map::new();
    let numbers = [
        ("temperature", &chat.temperature),
        ("top_p", &chat.top_p),
        ("top_k", &chat.top_k),
        ("presence_penalty", &chat.presence_penalty),
        ("frequency_penalty", &chat.frequency_penalty),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            options.insert(name.to_owned(), number.clone().into());
        }
    }
    if let Some(most) = chat.most_tokens() {
        options.insert("num_predict".to_owned(), most.into());
    }
    if let Some(seed) = chat.seed {
        options.insert("seed".to_owned(), seed.into());
    }
    if !chat.stop.list().is_empty() {
        options.insert("stop".to_owned(), json!(chat.stop.list()));
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
    text.push_str(message.refusal.as_deref().unwrap_or_default());
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
    if let Some(thoughts) = message
        .reasoning_content
        .as_deref()
        .filter(|_| message.role == MessageRole::Assistant)
    {
        turn["thinking"] = thoughts.into();
    }
    if let Some(name) = message
        .tool_call_id
        .as_deref()
        .and_then(|id| chat.function_of(id))
    {
        turn["tool_name"] = name.into();
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().enumerate().map(|(place, call)| {
            let arguments =
                call.arguments(&format!("{field}.tool_calls[{place}].function.arguments"))?;
            Ok(json!({ "function": { "name": call.function.name, "arguments": arguments } }))
        });
        turn["tool_calls"] = calls.collect::<Result<_, Unsupported>>()?;
    }
    Ok(turn)
}

fn tool(tool: &OfferedTool) -> Value {
    let function = tool.function();
    let mut wire = json!({ "name": function.name, "parameters": function.schema() });
    if let Some(description) = &function.description {
        wire["description"] = description.as_str().into();
    }
    json!({ "type": "function", "function": wire })
}
