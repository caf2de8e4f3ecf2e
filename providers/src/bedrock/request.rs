//! The encoding of a chat as Bedrock's Converse.

use serde_json::{Map, Value, json};

use super::DIALECT;
use crate::chat::{
    AnswerFormat, AttachedFile, ChatMessage, ChatRequest, ContentPiece, EffortShare, MOST_UNSTATED,
    MessageContent, MessageRole, ReasoningEffort, ToolChoice, ToolFunction, Woven, fitting,
    is_blank,
};
use crate::unsupported::Unsupported;

/// The mark in the names of models that think with a budget and take `top_k`.
const CLAUDE: &str = "claude";
/// The longest id of a call, in bytes (the model of the vendor's SDK).
const LONGEST_ID: usize = 64;
/// The characters that an id may contain beside letters and digits (the model of the vendor's SDK).
const ID_MARKS: &str = "_.:-";
/// The name of a document without one.
const UNNAMED: &str = "document";

/// Encodes the body of a request; the address contains the model.
pub(super) fn of(chat: &ChatRequest, model: &str) -> Result<Value, Unsupported> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    let instructions = chat.instructions()?.into_iter();
    let system: Vec<_> = instructions.map(text).collect();
    if !system.is_empty() {
        set("system", system.into());
    }
    set("messages", messages(chat)?.into());
    let is_claude = model.contains(CLAUDE);
    let share = if is_claude { Some(chat.share()?) } else { None };
    let inference = inference(chat, share)?;
    if !inference.is_empty() {
        set("inferenceConfig", inference.into());
    }
    if let Some(tools) = tools(chat)? {
        set("toolConfig", tools);
    }
    if let Some(tier) = chat.service_tier.as_deref().and_then(tier) {
        set("serviceTier", json!({ "type": tier }));
    }
    let own = of_model(chat, share)?;
    if !own.is_empty() {
        set("additionalModelRequestFields", own.into());
    }
    let mut output = Map::new();
    if let Some(format) = format(&chat.response_format)? {
        output.insert("textFormat".to_owned(), format);
    }
    let effort = chat.reasoning_effort.and_then(ReasoningEffort::of_three);
    if let Some(word) = effort.filter(|_| !is_claude) {
        output.insert("effort".to_owned(), word.into());
    }
    if !output.is_empty() {
        set("outputConfig", output.into());
    }
    Ok(body.into())
}

fn inference(
    chat: &ChatRequest,
    share: Option<EffortShare>,
) -> Result<Map<String, Value>, Unsupported> {
    let mut inference = Map::new();
    let mut set = |name: &str, value: Value| inference.insert(name.to_owned(), value);
    let thinks = share.filter(|share| share.thought.is_some());
    // Without a maximum the model's own applies, and counts in full when the call is admitted.
    let most = match thinks {
        Some(share) => share.most,
        None => chat.most_tokens().unwrap_or(MOST_UNSTATED),
    };
    set("maxTokens", most.into());
    if let Some(temperature) = &chat.temperature {
        if temperature.as_f64().is_some_and(|number| number > 1.0) {
            return Err(Unsupported::new("body.temperature", "Bedrock takes 0 to 1"));
        }
        set("temperature", temperature.clone().into());
    }
    if let Some(top_p) = &chat.top_p {
        set("topP", top_p.clone().into());
    }
    if !chat.stop.list().is_empty() {
        set("stopSequences", json!(chat.stop.list()));
    }
    Ok(inference)
}

/// Returns the fields that only Anthropic's models at Bedrock understand.
fn of_model(
    chat: &ChatRequest,
    share: Option<EffortShare>,
) -> Result<Map<String, Value>, Unsupported> {
    let mut own = Map::new();
    let mut set = |name: &str, value: Value| own.insert(name.to_owned(), value);
    if let Some(top_k) = &chat.top_k {
        if share.is_none() {
            let problem = "only Anthropic's models have it at Bedrock, leave it out";
            return Err(Unsupported::new("body.top_k", problem));
        }
        set("top_k", top_k.clone().into());
    }
    if let Some(budget) = share.and_then(|share| share.thought) {
        set(
            "thinking",
            json!({ "type": "enabled", "budget_tokens": budget }),
        );
    } else if share.is_some() && chat.reasoning_effort == Some(ReasoningEffort::None) {
        set("thinking", json!({ "type": "disabled" }));
    }
    Ok(own)
}

fn tier(name: &str) -> Option<&str> {
    ["priority", "default", "flex"]
        .into_iter()
        .find(|tier| *tier == name)
}

fn tools(chat: &ChatRequest) -> Result<Option<Value>, Unsupported> {
    let mut messages = chat.messages.iter();
    let called = messages.any(|message| !message.tool_calls.is_empty());
    if !chat.has_tools() {
        let problem = "Bedrock wants the tools again that messages call";
        return if called {
            Err(Unsupported::new("body.tools", problem))
        } else {
            Ok(None)
        };
    }
    let specs: Vec<_> = chat.functions().map(spec).collect();
    let choice = match &chat.tool_choice {
        ToolChoice::Auto => json!({ "auto": {} }),
        ToolChoice::Required => json!({ "any": {} }),
        ToolChoice::One(name) => json!({ "tool": { "name": name } }),
        ToolChoice::None if called => {
            let problem = "`none` cannot be said to Bedrock once tools were called, leave it out";
            return Err(Unsupported::new("body.tool_choice", problem));
        }
        ToolChoice::None => return Ok(None),
    };
    Ok(Some(json!({ "tools": specs, "toolChoice": choice })))
}

fn spec(function: &ToolFunction) -> Value {
    let mut spec = json!({ "name": function.name, "inputSchema": { "json": function.schema() } });
    let description = function.description.as_deref().unwrap_or_default();
    if !description.is_empty() {
        spec["description"] = description.into();
    }
    if let Some(strict) = function.strict {
        spec["strict"] = strict.into();
    }
    json!({ "toolSpec": spec })
}

fn format(format: &AnswerFormat) -> Result<Option<Value>, Unsupported> {
    match format {
        AnswerFormat::Text => Ok(None),
        AnswerFormat::JsonObject => {
            let problem = "Bedrock has JSON by schema alone, use json_schema";
            Err(Unsupported::new("body.response_format", problem))
        }
        AnswerFormat::JsonSchema { json_schema } => {
            let mut schema =
                json!({ "name": json_schema.name, "schema": json_schema.schema.to_string() });
            if let Some(description) = &json_schema.description {
                schema["description"] = description.as_str().into();
            }
            Ok(Some(
                json!({ "type": "json_schema", "structure": { "jsonSchema": schema } }),
            ))
        }
    }
}

/// Encodes the messages strictly by turns; the first turn must be a user's.
fn messages(chat: &ChatRequest) -> Result<Vec<Value>, Unsupported> {
    let turns = chat.by_turns(turn)?;
    if turns.first().is_none_or(|(of_model, _)| *of_model) {
        return Err(Unsupported::new(
            "body.messages",
            "Bedrock wants a user's message first",
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
        all.push(json!({ "toolUse": { "toolUseId": id, "name": name, "input": input } }));
    }
    Ok(all)
}

fn woven_block(piece: Woven<'_>) -> Option<Value> {
    match piece {
        Woven::Opaque(thought) => Some(thought.clone()),
        Woven::Text(words) => (!is_blank(words)).then(|| text(words)),
    }
}

fn text(text: &str) -> Value {
    json!({ "text": text })
}

fn result(message: &ChatMessage, field: &str) -> Result<Value, Unsupported> {
    let content = blocks(&message.content, &format!("{field}.content"))?;
    let id = call_id(message.tool_call_id.as_deref().unwrap_or_default());
    Ok(json!({ "toolResult": { "toolUseId": id, "content": content, "status": "success" } }))
}

fn call_id(id: &str) -> String {
    fitting(id, LONGEST_ID, ID_MARKS)
}

fn blocks(content: &MessageContent, field: &str) -> Result<Vec<Value>, Unsupported> {
    let pieces = content.parts(field).into_iter();
    // The API refuses a blank text, which has no content anyway.
    let spoken = pieces.filter(|(_, piece)| !piece.is_blank());
    spoken.map(|(field, piece)| block(&field, piece)).collect()
}

fn block(field: &str, piece: ContentPiece<'_>) -> Result<Value, Unsupported> {
    let source = |data: &str| json!({ "bytes": data });
    match piece {
        ContentPiece::Text(words) => Ok(text(words)),
        ContentPiece::Image(media) => match media.format() {
            format @ ("png" | "jpeg" | "gif" | "webp") => {
                Ok(json!({ "image": { "format": format, "source": source(media.data) } }))
            }
            _ => Err(piece.unsupported(field, "Bedrock reads png, jpeg, gif and webp")),
        },
        ContentPiece::ImageAt(_) => Err(piece.unsupported(
            field,
            "Bedrock fetches nothing, send the bytes as a data URL",
        )),
        ContentPiece::Audio(audio) => {
            Ok(json!({ "audio": { "format": audio.format, "source": source(&audio.data) } }))
        }
        ContentPiece::File(file) => document(field, file),
    }
}

fn document(field: &str, file: &AttachedFile) -> Result<Value, Unsupported> {
    let media = file.media(&format!("{field}.file"))?;
    let format = match media.kind {
        "application/pdf" => "pdf",
        "text/csv" => "csv",
        "text/html" => "html",
        "text/plain" => "txt",
        "text/markdown" => "md",
        "application/msword" => "doc",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
        "application/vnd.ms-excel" => "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => "xlsx",
        _ => {
            let problem = "Bedrock does not read files of this type";
            return Err(Unsupported::new(format!("{field}.file"), problem));
        }
    };
    let name = document_name(file.filename.as_deref().unwrap_or(UNNAMED));
    let name = if name.is_empty() { UNNAMED } else { &name };
    Ok(json!({ "document": { "format": format, "name": name, "source": { "bytes": media.data } } }))
}

/// Returns a name of allowed characters: letters, digits, blanks, hyphens and brackets.
fn document_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " -()[]".contains(c);
    let replaced = name.chars().map(|c| if allowed(c) { c } else { '-' });
    let name: String = replaced.take(200).collect();
    // Bedrock refuses several blanks in a row.
    let words = name.split(' ').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}
