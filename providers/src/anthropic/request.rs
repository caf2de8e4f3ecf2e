//! The encoding of a chat as Anthropic's Messages.

use serde_json::{Map, Number, Value, json};

use super::DIALECT;
use crate::chat::{
    AnswerFormat, AttachedFile, ChatMessage, ChatRequest, ContentPiece, EffortShare,
    MessageContent, MessageRole, ReasoningEffort, ToolChoice, ToolFunction, Woven, fitting,
    is_blank,
};
use crate::unsupported::Unsupported;

/// The longest id of a call, in bytes; no maximum is documented.
const LONGEST_ID: usize = 256;
/// The characters that an id may contain beside letters and digits.
const ID_MARKS: &str = "_-";

/// Encodes the body of a request.
pub(crate) fn of(chat: &ChatRequest, model: &str, samples: bool) -> Result<Value, Unsupported> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", model.into());
    // The newer version has no budget: the model thinks as much as it needs.
    let share = if samples {
        chat.share()?
    } else {
        chat.share_without_budget()
    };
    set("max_tokens", share.most.into());
    let instructions = chat.instructions()?.into_iter();
    let system: Vec<_> = instructions.map(text).collect();
    if !system.is_empty() {
        set("system", system.into());
    }
    set("messages", messages(chat)?.into());
    for (name, value) in sampling(chat, samples)? {
        set(name, value);
    }
    if !chat.stop.list().is_empty() {
        set("stop_sequences", json!(chat.stop.list()));
    }
    if chat.has_tools() {
        set("tools", chat.functions().map(tool).collect());
        set("tool_choice", tool_choice(chat));
    }
    if let Some(user) = chat.end_user() {
        set("metadata", json!({ "user_id": user }));
    }
    let mut output = Map::new();
    if let Some(format) = format(&chat.response_format)? {
        output.insert("format".to_owned(), format);
    }
    if let Some(effort) = chat.reasoning_effort {
        set("thinking", thinking(effort, share));
        if let Some(word) = effort_word(effort).filter(|_| !samples) {
            output.insert("effort".to_owned(), word.into());
        }
    }
    if !output.is_empty() {
        set("output_config", output.into());
    }
    Ok(body.into())
}

fn sampling(chat: &ChatRequest, samples: bool) -> Result<Vec<(&'static str, Value)>, Unsupported> {
    let given = [
        ("temperature", &chat.temperature),
        ("top_p", &chat.top_p),
        ("top_k", &chat.top_k),
    ];
    let mut sampling = Vec::new();
    for (name, value) in given {
        if let Some(value) = value {
            sampling.push((name, value.clone().into()));
        }
    }
    if let Some((name, _)) = sampling.first().filter(|_| !samples) {
        let problem = "this version of Anthropic's API takes none; set api_version = \"2023-06-01\" or leave it out";
        return Err(Unsupported::new(format!("body.{name}"), problem));
    }
    let temperature = chat.temperature.as_ref().and_then(Number::as_f64);
    if temperature.is_some_and(|number| number > 1.0) {
        let problem = "Anthropic takes 0 to 1";
        return Err(Unsupported::new("body.temperature", problem));
    }
    Ok(sampling)
}

/// Encodes the effort. The older version has a budget of tokens; in the newer one the model thinks
/// as much as it needs.
fn thinking(effort: ReasoningEffort, share: EffortShare) -> Value {
    match (effort, share.thought) {
        (ReasoningEffort::None, _) => json!({ "type": "disabled" }),
        (_, None) => json!({ "type": "adaptive" }),
        (_, Some(budget)) => json!({ "type": "enabled", "budget_tokens": budget }),
    }
}

fn effort_word(effort: ReasoningEffort) -> Option<&'static str> {
    match effort {
        ReasoningEffort::None => None,
        ReasoningEffort::Minimal | ReasoningEffort::Low => Some("low"),
        ReasoningEffort::Medium => Some("medium"),
        ReasoningEffort::High => Some("high"),
        ReasoningEffort::Xhigh => Some("xhigh"),
        ReasoningEffort::Max => Some("max"),
    }
}

fn format(format: &AnswerFormat) -> Result<Option<Value>, Unsupported> {
    match format {
        AnswerFormat::Text => Ok(None),
        AnswerFormat::JsonObject => {
            let problem = "Anthropic has JSON by schema alone, use json_schema";
            Err(Unsupported::new("body.response_format", problem))
        }
        AnswerFormat::JsonSchema { json_schema } => Ok(Some(
            json!({ "type": "json_schema", "schema": json_schema.schema }),
        )),
    }
}

fn tool(function: &ToolFunction) -> Value {
    let mut tool = json!({ "name": function.name, "input_schema": function.schema() });
    if let Some(description) = &function.description {
        tool["description"] = description.as_str().into();
    }
    if let Some(strict) = function.strict {
        tool["strict"] = strict.into();
    }
    tool
}

fn tool_choice(chat: &ChatRequest) -> Value {
    let mut choice = match &chat.tool_choice {
        ToolChoice::Auto => json!({ "type": "auto" }),
        ToolChoice::Required => json!({ "type": "any" }),
        ToolChoice::None => return json!({ "type": "none" }),
        ToolChoice::One(name) => json!({ "type": "tool", "name": name }),
    };
    if chat.parallel_tool_calls == Some(false) {
        choice["disable_parallel_tool_use"] = true.into();
    }
    choice
}

/// Encodes the messages by turns; the first turn must be a user's.
fn messages(chat: &ChatRequest) -> Result<Vec<Value>, Unsupported> {
    let turns = chat.by_turns(turn)?;
    if turns.first().is_none_or(|(of_model, _)| *of_model) {
        return Err(Unsupported::new(
            "body.messages",
            "Anthropic wants a user's message first",
        ));
    }
    let role = |of_model| if of_model { "assistant" } else { "user" };
    let message =
        |(of_model, content)| json!({ "role": role(of_model), "content": Value::Array(content) });
    Ok(turns.into_iter().map(message).collect())
}

fn turn(message: &ChatMessage, field: &str) -> Result<Vec<Value>, Unsupported> {
    match message.role {
        MessageRole::Assistant => assistant_content(message, field),
        MessageRole::Tool => Ok(vec![result(message, field)?]),
        MessageRole::User | MessageRole::System => {
            blocks(&message.content, &format!("{field}.content"))
        }
    }
}

/// Encodes an earlier message of the model: its thoughts unchanged, its text, its calls.
fn assistant_content(message: &ChatMessage, field: &str) -> Result<Vec<Value>, Unsupported> {
    let mut all: Vec<Value> = Vec::new();
    match message.woven(DIALECT) {
        Some(woven) => all.extend(woven.into_iter().filter_map(woven_block)),
        None => {
            all.extend(message.opaque(DIALECT).cloned());
            all.extend(blocks(&message.content, &format!("{field}.content"))?);
        }
    }
    let refusal = message.refusal.as_deref();
    all.extend(refusal.map(text));
    for (index, call) in message.tool_calls.iter().enumerate() {
        let input = call.arguments(&format!("{field}.tool_calls[{index}].function.arguments"))?;
        let (id, name) = (call_id(&call.id), &call.function.name);
        all.push(json!({ "type": "tool_use", "id": id, "name": name, "input": input }));
    }
    Ok(all)
}

fn woven_block(piece: Woven<'_>) -> Option<Value> {
    match piece {
        Woven::Opaque(thought) => Some(thought.clone()),
        Woven::Text(words) => (!is_blank(words)).then(|| text(words)),
    }
}

fn result(message: &ChatMessage, field: &str) -> Result<Value, Unsupported> {
    let content = blocks(&message.content, &format!("{field}.content"))?;
    let id = call_id(message.tool_call_id.as_deref().unwrap_or_default());
    Ok(json!({ "type": "tool_result", "tool_use_id": id, "content": content }))
}

fn call_id(id: &str) -> String {
    fitting(id, LONGEST_ID, ID_MARKS)
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn blocks(content: &MessageContent, field: &str) -> Result<Vec<Value>, Unsupported> {
    let pieces = content.parts(field).into_iter();
    // The API refuses a blank text, which has no content anyway.
    let spoken = pieces.filter(|(_, piece)| !piece.is_blank());
    spoken.map(|(field, piece)| block(&field, piece)).collect()
}

fn block(field: &str, piece: ContentPiece<'_>) -> Result<Value, Unsupported> {
    match piece {
        ContentPiece::Text(words) => Ok(text(words)),
        ContentPiece::Image(media) => match media.format() {
            "png" | "jpeg" | "gif" | "webp" => {
                let source =
                    json!({ "type": "base64", "media_type": media.kind, "data": media.data });
                Ok(json!({ "type": "image", "source": source }))
            }
            _ => Err(piece.unsupported(field, "Anthropic reads png, jpeg, gif and webp")),
        },
        ContentPiece::ImageAt(image) => {
            Ok(json!({ "type": "image", "source": { "type": "url", "url": image.url } }))
        }
        ContentPiece::Audio(_) => Err(piece.unsupported(field, "Anthropic hears nothing")),
        ContentPiece::File(file) => document(field, file),
    }
}

/// Encodes a document: a PDF as bytes, a text of any kind as text.
fn document(field: &str, file: &AttachedFile) -> Result<Value, Unsupported> {
    let media = file.media(&format!("{field}.file"))?;
    let source = match media.text() {
        _ if media.kind == "application/pdf" => {
            json!({ "type": "base64", "media_type": media.kind, "data": media.data })
        }
        Some(text) => json!({ "type": "text", "media_type": "text/plain", "data": text }),
        None => {
            let problem = "Anthropic reads application/pdf and text alone";
            return Err(Unsupported::new(format!("{field}.file"), problem));
        }
    };
    let mut block = json!({ "type": "document", "source": source });
    let name = file.filename.as_deref().unwrap_or_default();
    if !name.is_empty() {
        block["title"] = name.into();
    }
    Ok(block)
}
