//! The encoding of a chat as `generateContent`.

use serde_json::{Map, Value, json};

use super::DIALECT;
use crate::chat::{
    AnswerFormat, ChatMessage, ChatRequest, ContentPiece, MessageContent, MessageRole,
    ReasoningEffort, ToolCall, ToolChoice, ToolFunction, Woven,
};
use crate::unsupported::Unsupported;

/// Encodes the body of a request; the address contains the model.
pub(super) fn of(chat: &ChatRequest) -> Result<Value, Unsupported> {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    let instructions = chat.instructions()?.into_iter();
    let system: Vec<_> = instructions.map(text).collect();
    if !system.is_empty() {
        set("systemInstruction", json!({ "parts": system }));
    }
    set("contents", contents(chat)?.into());
    let config = config(chat)?;
    if !config.is_empty() {
        set("generationConfig", config.into());
    }
    if chat.has_tools() {
        let functions: Vec<_> = chat.functions().map(declaration).collect();
        set("tools", json!([{ "functionDeclarations": functions }]));
        set(
            "toolConfig",
            json!({ "functionCallingConfig": calling(&chat.tool_choice) }),
        );
    }
    Ok(body.into())
}

fn config(chat: &ChatRequest) -> Result<Map<String, Value>, Unsupported> {
    let mut config = Map::new();
    let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
    let numbers = [
        ("temperature", &chat.temperature),
        ("topP", &chat.top_p),
        ("topK", &chat.top_k),
        ("presencePenalty", &chat.presence_penalty),
        ("frequencyPenalty", &chat.frequency_penalty),
    ];
    for (name, number) in numbers {
        let Some(number) = number else {
            continue;
        };
        // Some models have no penalties and refuse even a penalty of 0.
        if !name.ends_with("Penalty") || number.as_f64() != Some(0.0) {
            set(name, number.clone().into());
        }
    }
    if let Some(most) = chat.most_tokens() {
        set("maxOutputTokens", most.into());
    }
    if let Some(seed) = chat.seed {
        if i32::try_from(seed).is_err() {
            return Err(Unsupported::new(
                "body.seed",
                "Gemini takes a number of 32 bits",
            ));
        }
        set("seed", seed.into());
    }
    if let Some(n) = chat.n.filter(|n| *n != 1) {
        set("candidateCount", n.into());
    }
    if !chat.stop.list().is_empty() {
        set("stopSequences", json!(chat.stop.list()));
    }
    match &chat.response_format {
        AnswerFormat::Text => {}
        AnswerFormat::JsonObject => {
            set("responseMimeType", "application/json".into());
        }
        AnswerFormat::JsonSchema { json_schema } => {
            set("responseMimeType", "application/json".into());
            set("responseJsonSchema", json_schema.schema.clone());
        }
    }
    if let Some(effort) = chat.reasoning_effort {
        set("thinkingConfig", thinking(effort));
    }
    Ok(config)
}

/// Encodes the effort as a budget: every model that thinks understands one, and only the newest
/// understand levels.
fn thinking(effort: ReasoningEffort) -> Value {
    json!({ "thinkingBudget": effort.budget(), "includeThoughts": effort != ReasoningEffort::None })
}

fn declaration(function: &ToolFunction) -> Value {
    let mut declaration = json!({ "name": function.name });
    if let Some(description) = &function.description {
        declaration["description"] = description.as_str().into();
    }
    let schema = function.parameters.as_ref();
    if let Some(schema) = schema.filter(|schema| !schema.is_null()) {
        declaration["parametersJsonSchema"] = schema.clone();
    }
    declaration
}

fn calling(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!({ "mode": "AUTO" }),
        ToolChoice::Required => json!({ "mode": "ANY" }),
        ToolChoice::None => json!({ "mode": "NONE" }),
        ToolChoice::One(name) => json!({ "mode": "ANY", "allowedFunctionNames": [name] }),
    }
}

/// Encodes the turns of the user and of the model. The results of one turn's calls are together.
fn contents(chat: &ChatRequest) -> Result<Vec<Value>, Unsupported> {
    let turns = chat.by_turns(|message, field| turn(chat, message, field))?;
    if turns.is_empty() {
        return Err(Unsupported::new(
            "body.messages",
            "Gemini wants a message beside the instructions",
        ));
    }
    let role = |of_model| if of_model { "model" } else { "user" };
    let content =
        |(of_model, parts)| json!({ "role": role(of_model), "parts": Value::Array(parts) });
    Ok(turns.into_iter().map(content).collect())
}

fn turn(chat: &ChatRequest, message: &ChatMessage, field: &str) -> Result<Vec<Value>, Unsupported> {
    match message.role {
        MessageRole::Assistant => assistant_content(message, field),
        MessageRole::Tool => Ok(vec![result(chat, message, field)?]),
        MessageRole::User | MessageRole::System => {
            parts(&message.content, &format!("{field}.content"))
        }
    }
}

/// Encodes an earlier message of the model, with the signatures of its thoughts at their former
/// places.
fn assistant_content(message: &ChatMessage, field: &str) -> Result<Vec<Value>, Unsupported> {
    let mut all = Vec::new();
    if let Some(woven) = message.woven(DIALECT) {
        for piece in woven {
            match piece {
                Woven::Text(words) => all.push(text(words)),
                Woven::Opaque(signature) => sign(&mut all, signature),
            }
        }
    } else {
        all = parts(&message.content, &format!("{field}.content"))?;
        message
            .opaque(DIALECT)
            .for_each(|signature| sign(&mut all, signature));
    }
    let refusal = message.refusal.as_deref();
    all.extend(refusal.map(text));
    for (index, call) in message.tool_calls.iter().enumerate() {
        let args = call.arguments(&format!("{field}.tool_calls[{index}].function.arguments"))?;
        let (id, name) = (&call.id, &call.function.name);
        let mut part = json!({ "functionCall": { "id": id, "name": name, "args": args } });
        if let Some(signature) = signature(call) {
            part["thoughtSignature"] = signature.clone();
        }
        all.push(part);
    }
    Ok(all)
}

/// Adds a signature to the last part, with which it came. If that part has one already, the
/// signature gets an empty part of its own.
fn sign(parts: &mut Vec<Value>, signature: &Value) {
    let last = parts.last_mut();
    match last.filter(|part| part.get("thoughtSignature").is_none()) {
        Some(part) => part["thoughtSignature"] = signature.clone(),
        None => parts.push(json!({ "text": "", "thoughtSignature": signature })),
    }
}

/// Returns the signature of a call, from the place where Google's own OpenAI surface puts it.
fn signature(call: &ToolCall) -> Option<&Value> {
    call.extra_content
        .as_ref()?
        .pointer("/google/thought_signature")
}

/// Encodes the result of a call. A text that is not a JSON object is put into one.
fn result(chat: &ChatRequest, message: &ChatMessage, field: &str) -> Result<Value, Unsupported> {
    let id = message.tool_call_id.as_deref().unwrap_or_default();
    let name = chat.function_of(id);
    let text = message.content.texts(&format!("{field}.content"))?.concat();
    let response = match serde_json::from_str(&text) {
        Ok(object @ Value::Object(_)) => object,
        _ => json!({ "output": text }),
    };
    Ok(json!({ "functionResponse": { "id": id, "name": name, "response": response } }))
}

fn text(text: &str) -> Value {
    json!({ "text": text })
}

fn parts(content: &MessageContent, field: &str) -> Result<Vec<Value>, Unsupported> {
    let pieces = content.parts(field).into_iter();
    // The API refuses a blank text, which has no content anyway.
    let spoken = pieces.filter(|(_, piece)| !piece.is_blank());
    spoken.map(|(field, piece)| part(&field, piece)).collect()
}

fn part(field: &str, piece: ContentPiece<'_>) -> Result<Value, Unsupported> {
    let inline =
        |kind: &str, data: &str| json!({ "inlineData": { "mimeType": kind, "data": data } });
    match piece {
        ContentPiece::Text(words) => Ok(text(words)),
        ContentPiece::Image(media) => Ok(inline(media.kind, media.data)),
        ContentPiece::ImageAt(image) => match image_type(&image.url) {
            Some(kind) => Ok(json!({ "fileData": { "mimeType": kind, "fileUri": image.url } })),
            None => {
                let problem = "has no ending that tells its type to Gemini, such as .png; or send the bytes as a data URL";
                Err(piece.unsupported(field, problem))
            }
        },
        ContentPiece::Audio(audio) => Ok(inline(&format!("audio/{}", audio.format), &audio.data)),
        ContentPiece::File(file) => {
            let media = file.media(&format!("{field}.file"))?;
            Ok(inline(media.kind, media.data))
        }
    }
}

/// Returns the type of an image at an address, by the ending of its path. Gemini requires the type.
fn image_type(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next()?;
    let file = path.rsplit('/').next()?;
    let (_, ending) = file.rsplit_once('.')?;
    match ending.to_ascii_lowercase().as_str() {
        "png" => Some("image/png"),
        "jpg" | "jpeg" => Some("image/jpeg"),
        "webp" => Some("image/webp"),
        "gif" => Some("image/gif"),
        "heic" => Some("image/heic"),
        "heif" => Some("image/heif"),
        _ => None,
    }
}
