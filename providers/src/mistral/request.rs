//! The encoding of a chat for Mistral.

use forebay_schemas::subjects::hex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::DIALECT;
use crate::chat::{
    AnswerFormat, ChatMessage, ChatRequest, ContentPiece, MessageContent, MessageRole, ToolCall,
    ToolChoice, ToolFunction,
};
use crate::unsupported::Unsupported;

/// The length of the id of a call, in letters and digits.
const ID_LENGTH: usize = 9;

/// Encodes the body of a request.
pub(super) fn of(chat: &ChatRequest, model: &str) -> Result<Value, Unsupported> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", model.into());
    let messages = chat.messages.iter().enumerate();
    let messages: Result<Vec<_>, _> = messages
        .map(|(index, message)| turn(chat, index, message))
        .collect();
    set("messages", messages?.into());
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
    let counts = [("max_tokens", chat.most_tokens()), ("n", chat.n)];
    for (name, count) in counts {
        if let Some(count) = count {
            set(name, count.into());
        }
    }
    if let Some(seed) = chat.seed {
        set("random_seed", seed.into());
    }
    if !chat.stop.list().is_empty() {
        set("stop", json!(chat.stop.list()));
    }
    if chat.has_tools() {
        set("tools", chat.functions().map(tool).collect());
        set("tool_choice", choice(&chat.tool_choice));
        if let Some(parallel) = chat.parallel_tool_calls {
            set("parallel_tool_calls", parallel.into());
        }
    }
    if let Some(format) = format(&chat.response_format) {
        set("response_format", format);
    }
    if let Some(effort) = chat.reasoning_effort {
        set("reasoning_effort", effort.as_str().into());
    }
    if let Some(key) = &chat.prompt_cache_key {
        set("prompt_cache_key", key.as_str().into());
    }
    if let Some(metadata) = &chat.metadata {
        set("metadata", metadata.clone().into());
    }
    Ok(body.into())
}

fn turn(chat: &ChatRequest, index: usize, message: &ChatMessage) -> Result<Value, Unsupported> {
    let field = format!("body.messages[{index}].content");
    match message.role {
        MessageRole::System => {
            Ok(json!({ "role": "system", "content": message.content.texts(&field)?.concat() }))
        }
        MessageRole::User => {
            Ok(json!({ "role": "user", "content": content(&message.content, &field)? }))
        }
        MessageRole::Assistant => assistant_content(message, &field),
        MessageRole::Tool => {
            let id = message.tool_call_id.as_deref().unwrap_or_default();
            let text = message.content.texts(&field)?.concat();
            let mut result =
                json!({ "role": "tool", "tool_call_id": call_id(id), "content": text });
            if let Some(name) = chat.function_of(id) {
                result["name"] = name.into();
            }
            Ok(result)
        }
    }
}

/// Encodes an earlier message of the model, with its thoughts unchanged.
fn assistant_content(message: &ChatMessage, field: &str) -> Result<Value, Unsupported> {
    let text = message.text_and_refusal(field)?;
    let mut chunks: Vec<_> = message.opaque(DIALECT).cloned().collect();
    let content = match chunks.is_empty() {
        true => text.into(),
        false => {
            if !text.is_empty() {
                chunks.push(json!({ "type": "text", "text": text }));
            }
            Value::from(chunks)
        }
    };
    let mut turn = json!({ "role": "assistant", "content": content });
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter();
        turn["tool_calls"] = calls.map(call).collect();
    }
    Ok(turn)
}

fn call(call: &ToolCall) -> Value {
    call.with_id(&call_id(&call.id))
}

/// Returns an id in Mistral's form. Any other id is replaced by a part of its hash, which is the
/// same each time.
fn call_id(id: &str) -> String {
    let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain && id.len() == ID_LENGTH {
        return id.to_owned();
    }
    hex(&Sha256::digest(id))[..ID_LENGTH].to_owned()
}

fn content(content: &MessageContent, field: &str) -> Result<Value, Unsupported> {
    if let MessageContent::Text(text) = content {
        return Ok(text.as_str().into());
    }
    let pieces = content.parts(field).into_iter();
    pieces.map(|(field, piece)| chunk(&field, piece)).collect()
}

fn chunk(field: &str, piece: ContentPiece<'_>) -> Result<Value, Unsupported> {
    Ok(match piece {
        ContentPiece::Text(text) => json!({ "type": "text", "text": text }),
        ContentPiece::Image(media) => image(&media.url(), media.detail),
        ContentPiece::ImageAt(at) => image(&at.url, at.detail.as_deref()),
        ContentPiece::Audio(audio) => json!({ "type": "input_audio", "input_audio": audio.data }),
        ContentPiece::File(file) => {
            let media = file.media(&format!("{field}.file"))?;
            let mut chunk = json!({ "type": "document_url", "document_url": media.url() });
            if let Some(name) = &file.filename {
                chunk["document_name"] = name.as_str().into();
            }
            chunk
        }
    })
}

fn image(url: &str, detail: Option<&str>) -> Value {
    match detail {
        None => json!({ "type": "image_url", "image_url": url }),
        Some(detail) => {
            json!({ "type": "image_url", "image_url": { "url": url, "detail": detail } })
        }
    }
}

fn tool(function: &ToolFunction) -> Value {
    let mut wire = json!({ "name": function.name, "parameters": function.schema() });
    if let Some(description) = &function.description {
        wire["description"] = description.as_str().into();
    }
    if let Some(strict) = function.strict {
        wire["strict"] = strict.into();
    }
    json!({ "type": "function", "function": wire })
}

fn choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::Required => "any".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::One(name) => json!({ "type": "function", "function": { "name": name } }),
    }
}

fn format(format: &AnswerFormat) -> Option<Value> {
    match format {
        AnswerFormat::Text => None,
        AnswerFormat::JsonObject => Some(json!({ "type": "json_object" })),
        AnswerFormat::JsonSchema {
            json_schema: schema,
        } => {
            let mut wire = json!({ "name": schema.name, "schema": schema.schema });
            if let Some(description) = &schema.description {
                wire["description"] = description.as_str().into();
            }
            if let Some(strict) = schema.strict {
                wire["strict"] = strict.into();
            }
            Some(json!({ "type": "json_schema", "json_schema": wire }))
        }
    }
}
