//! A chat as Responses.

use serde_json::{Map, Value, json};

use super::DIALECT;
use crate::Unsupported;
use crate::chat::{Chat, Choice, Content, Effort, Format, Message, Piece, Role, Tool};

/// The body of a request.
pub(super) fn of(chat: &Chat, model: &str) -> Result<Value, Unsupported> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", model.into());
    // A chat leaves nothing behind at the provider.
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
        if effort != Effort::None {
            // What is not stored there has to be sent back in the next turn.
            set("include", json!(["reasoning.encrypted_content"]));
        }
    }
    if !chat.tools.is_empty() {
        set("tools", chat.tools.iter().map(tool).collect());
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

/// What one message is in Responses: a message, and an item for each call, result and thought.
fn items(input: &mut Vec<Value>, field: &str, message: &Message) -> Result<(), Unsupported> {
    let content = format!("{field}.content");
    match message.role {
        Role::System => {
            let text = message.content.texts(&content)?.concat();
            input.push(json!({ "type": "message", "role": "developer", "content": text }));
        }
        Role::User => {
            let parts = parts(&message.content, &content)?;
            input.push(json!({ "type": "message", "role": "user", "content": parts }));
        }
        Role::Tool => {
            let output = message.content.texts(&content)?.concat();
            let call_id = &message.tool_call_id;
            input.push(
                json!({ "type": "function_call_output", "call_id": call_id, "output": output }),
            );
        }
        Role::Assistant => {
            input.extend(message.opaque(DIALECT).cloned());
            let mut text = message.content.texts(&content)?.concat();
            text.push_str(message.refusal.as_deref().unwrap_or_default());
            if !text.is_empty() {
                input.push(json!({ "type": "message", "role": "assistant", "content": text }));
            }
            input.extend(message.tool_calls.iter().map(|call| {
                let (name, arguments) = (&call.function.name, &call.function.arguments);
                json!({ "type": "function_call", "call_id": call.id, "name": name, "arguments": arguments })
            }));
        }
    }
    Ok(())
}

fn parts(content: &Content, field: &str) -> Result<Vec<Value>, Unsupported> {
    content
        .parts(field)
        .into_iter()
        .map(|(field, piece)| part(&field, piece))
        .collect()
}

fn part(field: &str, piece: Piece<'_>) -> Result<Value, Unsupported> {
    let image = |url: &str, detail: Option<&str>| json!({ "type": "input_image", "image_url": url, "detail": detail.unwrap_or("auto") });
    Ok(match piece {
        Piece::Text(text) => json!({ "type": "input_text", "text": text }),
        Piece::Image(media) => image(&media.url(), media.detail),
        Piece::ImageAt(at) => image(&at.url, at.detail.as_deref()),
        Piece::Audio(_) => return Err(piece.unsupported(field, "Responses take no sound")),
        Piece::File(file) => {
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

fn tool(tool: &Tool) -> Value {
    let function = tool.function();
    let mut wire = json!({
        "type": "function",
        "name": function.name,
        "parameters": function.schema(),
        // Chats are not strict unless they say so; Responses are.
        "strict": function.strict.unwrap_or(false),
    });
    if let Some(description) = &function.description {
        wire["description"] = description.as_str().into();
    }
    wire
}

fn choice(choice: &Choice) -> Value {
    match choice {
        Choice::Auto => "auto".into(),
        Choice::Required => "required".into(),
        Choice::None => "none".into(),
        Choice::One(name) => json!({ "type": "function", "name": name }),
    }
}

fn text_config(chat: &Chat) -> Map<String, Value> {
    let mut text = Map::new();
    match &chat.response_format {
        Format::Text => {}
        Format::JsonObject => {
            text.insert("format".to_owned(), json!({ "type": "json_object" }));
        }
        Format::JsonSchema {
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
            text.insert("format".to_owned(), wire);
        }
    }
    if let Some(verbosity) = &chat.verbosity {
        text.insert("verbosity".to_owned(), verbosity.as_str().into());
    }
    text
}
