//! The encoding of a chat for Cohere.

use serde_json::{Map, Number, Value, json};

use crate::chat::{
    AnswerFormat, ChatMessage, ChatRequest, ContentPiece, MessageContent, MessageRole,
    ReasoningEffort, ToolCall, ToolChoice, ToolFunction,
};
use crate::unsupported::Unsupported;

/// Encodes the body of a request.
pub(super) fn of(chat: &ChatRequest, model: &str) -> Result<Value, Unsupported> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", model.into());
    // The vendor's client sends this too; without it some gateways stream.
    set("stream", false.into());
    let messages = chat.messages.iter().enumerate();
    let messages: Result<Vec<_>, _> = messages
        .map(|(index, message)| turn(index, message))
        .collect();
    set("messages", messages?.into());
    let numbers = [
        ("temperature", "temperature", &chat.temperature),
        ("top_p", "p", &chat.top_p),
        ("top_k", "k", &chat.top_k),
        (
            "presence_penalty",
            "presence_penalty",
            &chat.presence_penalty,
        ),
        (
            "frequency_penalty",
            "frequency_penalty",
            &chat.frequency_penalty,
        ),
    ];
    for (field, name, number) in numbers {
        if let Some(number) = number {
            set(name, within(field, number)?.into());
        }
    }
    if let Some(most) = chat.most_tokens() {
        set("max_tokens", most.into());
    }
    if let Some(seed) = chat.seed {
        set("seed", seed.into());
    }
    if !chat.stop.list().is_empty() {
        set("stop_sequences", json!(chat.stop.list()));
    }
    if chat.has_tools() {
        let is_sent = |function: &&ToolFunction| is_sent(function, &chat.tool_choice);
        let sent = chat.functions().filter(is_sent);
        set("tools", sent.map(tool).collect());
        let is_strict = |function: &ToolFunction| function.strict == Some(true);
        if chat.functions().any(is_strict) {
            set("strict_tools", true.into());
        }
        match chat.tool_choice {
            ToolChoice::Auto => {}
            ToolChoice::Required | ToolChoice::One(_) => {
                set("tool_choice", "REQUIRED".into());
            }
            ToolChoice::None => {
                set("tool_choice", "NONE".into());
            }
        }
    }
    if let Some(format) = format(&chat.response_format) {
        set("response_format", format);
    }
    if let Some(effort) = chat.reasoning_effort {
        set("thinking", thinking(effort));
    }
    Ok(body.into())
}

/// Returns true if a function is sent. Cohere can force a call but not choose its function. So a
/// chosen function is the only one that is sent.
fn is_sent(function: &ToolFunction, choice: &ToolChoice) -> bool {
    match choice {
        ToolChoice::One(name) => function.name == *name,
        _ => true,
    }
}

/// Checks a number whose range is narrower than OpenAI's.
fn within(field: &str, number: &Number) -> Result<Number, Unsupported> {
    let (least, most) = match field {
        "temperature" | "presence_penalty" | "frequency_penalty" => (0.0, 1.0),
        "top_p" => (0.01, 0.99),
        "top_k" => (0.0, 500.0),
        _ => return Ok(number.clone()),
    };
    match number.as_f64() {
        Some(value) if !(least..=most).contains(&value) => Err(Unsupported::new(
            format!("body.{field}"),
            format!("Cohere takes {least} to {most}"),
        )),
        _ => Ok(number.clone()),
    }
}

fn thinking(effort: ReasoningEffort) -> Value {
    match effort {
        ReasoningEffort::None => json!({ "type": "disabled" }),
        _ => json!({ "type": "enabled", "token_budget": effort.budget() }),
    }
}

fn turn(index: usize, message: &ChatMessage) -> Result<Value, Unsupported> {
    let field = format!("body.messages[{index}].content");
    match message.role {
        MessageRole::System => {
            Ok(json!({ "role": "system", "content": message.content.texts(&field)?.concat() }))
        }
        MessageRole::User => {
            Ok(json!({ "role": "user", "content": content(&message.content, &field)? }))
        }
        MessageRole::Tool => {
            let text = message.content.texts(&field)?.concat();
            Ok(json!({ "role": "tool", "tool_call_id": message.tool_call_id, "content": text }))
        }
        MessageRole::Assistant => {
            let text = message.text_and_refusal(&field)?;
            let mut turn = json!({ "role": "assistant" });
            if !text.is_empty() || message.tool_calls.is_empty() {
                turn["content"] = text.into();
            }
            if !message.tool_calls.is_empty() {
                // The API wants the model's plan for its tools back.
                if let Some(plan) = &message.reasoning_content {
                    turn["tool_plan"] = plan.as_str().into();
                }
                let calls = message.tool_calls.iter();
                turn["tool_calls"] = calls.map(call).collect();
            }
            Ok(turn)
        }
    }
}

fn call(call: &ToolCall) -> Value {
    call.with_id(&call.id)
}

fn content(content: &MessageContent, field: &str) -> Result<Value, Unsupported> {
    if let MessageContent::Text(text) = content {
        return Ok(text.as_str().into());
    }
    let pieces = content.parts(field).into_iter();
    pieces.map(|(field, piece)| part(&field, piece)).collect()
}

fn part(field: &str, piece: ContentPiece<'_>) -> Result<Value, Unsupported> {
    match piece {
        ContentPiece::Text(text) => Ok(json!({ "type": "text", "text": text })),
        ContentPiece::Image(media) => Ok(image(&media.url(), media.detail)),
        ContentPiece::ImageAt(at) => Ok(image(&at.url, at.detail.as_deref())),
        ContentPiece::Audio(_) | ContentPiece::File(_) => {
            Err(piece.unsupported(field, "Cohere reads text and images"))
        }
    }
}

fn image(url: &str, detail: Option<&str>) -> Value {
    let mut image = json!({ "url": url });
    if let Some(detail) = detail {
        image["detail"] = detail.into();
    }
    json!({ "type": "image_url", "image_url": image })
}

fn tool(function: &ToolFunction) -> Value {
    let mut wire = json!({ "name": function.name, "parameters": function.schema() });
    if let Some(description) = &function.description {
        wire["description"] = description.as_str().into();
    }
    json!({ "type": "function", "function": wire })
}

fn format(format: &AnswerFormat) -> Option<Value> {
    match format {
        AnswerFormat::Text => None,
        AnswerFormat::JsonObject => Some(json!({ "type": "json_object" })),
        AnswerFormat::JsonSchema { json_schema } => {
            Some(json!({ "type": "json_object", "json_schema": json_schema.schema }))
        }
    }
}
