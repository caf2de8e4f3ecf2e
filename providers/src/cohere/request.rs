//! The encoding of a chat for Cohere.

use serde_json::{Map, Number, Value, json};

use crate::chat::{
    AnswerFormat, ChatMessage, ChatRequest, ContentPiece, MessageContent, MessageRole, OfferedTool,
    ReasoningEffort, ToolChoice,
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
    if !chat.tools.is_empty() {
        let chosen = |tool: &&OfferedTool| match &chat.tool_choice {
            // Cohere can force a call but not choose its function. So the chosen function is the
            // only one that is sent.
            ToolChoice::One(name) => tool.function().name == *name,
            _ => true,
        };
        set(
            "tools",
            chat.tools.iter().filter(chosen).map(tool).collect(),
        );
        if chat
            .tools
            .iter()
            .any(|tool| tool.function().strict == Some(true))
        {
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
            let mut text = message.content.texts(&field)?.concat();
            text.push_str(message.refusal.as_deref().unwrap_or_default());
            let mut turn = json!({ "role": "assistant" });
            if !text.is_empty() || message.tool_calls.is_empty() {
                turn["content"] = text.into();
            }
            if !message.tool_calls.is_empty() {
                // The API wants the model's plan for its tools back.
                if let Some(plan) = &message.reasoning_content {
                    turn["tool_plan"] = plan.as_str().into();
                }
                let calls = message.tool_calls.iter().map(|call| {
                    let function =
                        json!({ "name": call.function.name, "arguments": call.function.arguments });
                    json!({ "id": call.id, "type": "function", "function": function })
                });
                turn["tool_calls"] = calls.collect();
            }
            Ok(turn)
        }
    }
}

fn content(content: &MessageContent, field: &str) -> Result<Value, Unsupported> {
    if let MessageContent::Text(text) = content {
        return Ok(text.as_str().into());
    }
    let part = |(field, piece): (String, ContentPiece<'_>)| match piece {
        ContentPiece::Text(text) => Ok(json!({ "type": "text", "text": text })),
        ContentPiece::Image(media) => Ok(image(&media.url(), media.detail)),
        ContentPiece::ImageAt(at) => Ok(image(&at.url, at.detail.as_deref())),
        ContentPiece::Audio(_) | ContentPiece::File(_) => {
            Err(piece.unsupported(&field, "Cohere reads text and images"))
        }
    };
    content.parts(field).into_iter().map(part).collect()
}

fn image(url: &str, detail: Option<&str>) -> Value {
    let mut image = json!({ "url": url });
    if let Some(detail) = detail {
        image["detail"] = detail.into();
    }
    json!({ "type": "image_url", "image_url": image })
}

fn tool(tool: &OfferedTool) -> Value {
    let function = tool.function();
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
