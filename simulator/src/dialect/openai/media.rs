//! The dialect of OpenAI's APIs other than chat: embeddings, moderations, images, speech, transcriptions and
//! rerankings.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::answer::{
    CREATED, DIMENSIONS, MOST_DIMENSIONS, VendorAnswer, digest, documents, ranking, vector,
};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{number_field, text_field};
use crate::multipart::FormPart;

/// The moderation categories, in OpenAI's names.
const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];
/// An image of one transparent pixel, a PNG in base64.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
/// The most texts that one call may embed.
const MOST_TEXTS: usize = 2_048;
/// The most tokens of each text.
const LONGEST_TEXT: u64 = 8_192;
/// The most tokens of all texts together.
const MOST_TOKENS: u64 = 300_000;
/// The prefix of a text that cannot be embedded.
const REJECTED: &str = "reject ";
/// The most images of one call.
const MOST_PICTURES: u64 = 10;

/// Returns the texts to embed or to moderate: one text, or a list of texts. A list of numbers is the tokens of one
/// text.
fn texts(input: Option<&Value>) -> Vec<String> {
    match input {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) if list.iter().all(Value::is_number) && !list.is_empty() => {
            vec![Value::Array(list.clone()).to_string()]
        }
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|item| match item {
                Value::String(text) => Some(text.clone()),
                Value::Array(tokens) => Some(Value::Array(tokens.clone()).to_string()),
                other => text_field(other, "text").map(str::to_owned),
            })
            .collect(),
        _ => Vec::new(),
    }
}

pub(crate) fn embeddings(request: &Value, model: &str) -> Outcome {
    let texts = texts(request.get("input"));
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return wrong("'$.input' is invalid.");
    }
    if texts.iter().any(|text| text.starts_with(REJECTED)) {
        return wrong("'$.input' holds a text that cannot be embedded.");
    }
    if texts.len() > MOST_TEXTS {
        let length = texts.len();
        return wrong(format!(
            "'$.input' has {length} items, at most {MOST_TEXTS} are allowed."
        ));
    }
    let tokens_of = |text: &String| text.len() as u64 / 4 + 1;
    if texts.iter().any(|text| tokens_of(text) > LONGEST_TEXT) {
        return Err(RequestProblem::Case("context_too_long"));
    }
    let tokens: u64 = texts.iter().map(tokens_of).sum();
    if tokens > MOST_TOKENS {
        return wrong(format!(
            "Requested {tokens} tokens, max {MOST_TOKENS} tokens per request."
        ));
    }
    let dimensions = request
        .get("dimensions")
        .or_else(|| request.get("output_dimension"));
    let dimensions = dimensions.and_then(Value::as_u64).unwrap_or(DIMENSIONS);
    let dimensions = dimensions.clamp(1, MOST_DIMENSIONS);
    let packed = text_field(request, "encoding_format") == Some("base64");
    let mut data = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let numbers = vector(text, dimensions);
        let embedding = if packed {
            json!(pack(&numbers))
        } else {
            json!(numbers)
        };
        data.push(json!({ "object": "embedding", "index": index, "embedding": embedding }));
    }
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    let body = json!({ "object": "list", "data": data, "model": model, "usage": usage });
    Ok(VendorAnswer::json(200, &body).spending(tokens, 0))
}

/// Encodes numbers as OpenAI does: four bytes each, little-endian, in base64.
pub(crate) fn pack(numbers: &[f64]) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what is packed is less precise"
    )]
    let bytes = numbers
        .iter()
        .flat_map(|number| (*number as f32).to_le_bytes());
    let bytes: Vec<u8> = bytes.collect();
    BASE64_STANDARD.encode(&bytes)
}

pub(crate) fn moderation(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let texts = texts(request.get("input"));
    if texts.is_empty() {
        return wrong("Invalid type for 'input': expected a string or an array of strings.");
    }
    let results: Vec<_> = texts.iter().map(|text| moderated(text)).collect();
    let id = format!("modr-{}", digest(call.body));
    let body = json!({ "id": id, "model": model, "results": results });
    Ok(VendorAnswer::json(200, &body))
}

/// Returns the moderation of a text. A text that begins with `refuse ` is violent, every other text is harmless.
fn moderated(text: &str) -> Value {
    let flagged = text.starts_with("refuse ");
    let mut result = json!({
        "flagged": flagged, "categories": {}, "category_scores": {}, "category_applied_input_types": {}
    });
    for name in CATEGORIES {
        let hit = flagged && name == "violence";
        result["categories"][name] = json!(hit);
        result["category_scores"][name] = json!(if hit { 0.9 } else { 0.01 });
        result["category_applied_input_types"][name] = json!(["text"]);
    }
    result
}

pub(crate) fn image(request: &Value) -> Outcome {
    if text_field(request, "prompt").is_none_or(str::is_empty) {
        return wrong("Missing required parameter: 'prompt'.");
    }
    let count = number_field(request, "n").unwrap_or(1);
    let count = count.clamp(1, MOST_PICTURES);
    let data: Vec<_> = (0..count).map(|_| json!({ "b64_json": PICTURE })).collect();
    let usage = json!({
        "input_tokens": 10,
        "output_tokens": 100,
        "total_tokens": 110,
        "input_tokens_details": { "text_tokens": 10, "image_tokens": 0 },
    });
    let body = json!({ "created": CREATED, "data": data, "usage": usage });
    Ok(VendorAnswer::json(200, &body))
}

/// Returns bytes that only this text has and that no JSON parser accepts. They are no audio.
pub(crate) fn speech(request: &Value) -> Outcome {
    let Some(text) = text_field(request, "input").filter(|text| !text.is_empty()) else {
        return wrong("Missing required parameter: 'input'.");
    };
    if request.get("voice").is_none_or(Value::is_null) {
        return wrong("Missing required parameter: 'voice'.");
    }
    let mut bytes = vec![0xff, 0xfb, 0x90, 0x00];
    bytes.extend(digest(text.as_bytes()).into_bytes());
    Ok(VendorAnswer::raw(200, "audio/mpeg", bytes))
}

pub(crate) fn transcription(call: &VendorCall<'_>) -> Outcome {
    let Some(parts) = call.form() else {
        return wrong("Could not parse multipart form");
    };
    let part = |name: &str| parts.iter().find(|part| part.name == name);
    if part("model").is_none_or(|part| part.bytes.is_empty()) {
        return wrong("you must provide a model parameter");
    }
    let Some(file) = part("file").filter(|part| part.holds_file()) else {
        return wrong("Audio file might be corrupted or unsupported");
    };
    let text = transcript(file);
    if part("response_format").is_some_and(|part| *part.bytes == *b"text") {
        let plain = "text/plain; charset=utf-8";
        return Ok(VendorAnswer::raw(200, plain, text.into_bytes()));
    }
    let (heard, written) = (file.bytes.len() as u64 / 100 + 1, text.len() as u64 / 4);
    let usage = json!({
        "type": "tokens",
        "input_tokens": heard,
        "output_tokens": written,
        "total_tokens": heard + written,
        "input_token_details": { "text_tokens": 0, "audio_tokens": heard },
    });
    let id = format!("req_{}", digest(&file.bytes));
    Ok(VendorAnswer::json(200, &json!({ "text": text, "usage": usage })).with("x-request-id", &id))
}

/// Returns the transcript of a file, which names the file's size, name and hash.
pub(crate) fn transcript(file: &FormPart<'_>) -> String {
    let (size, hash) = (file.bytes.len(), digest(&file.bytes));
    let name = file.file.as_deref().unwrap_or_default();
    format!("You sent: {size} bytes of {name} {hash}")
}

/// Returns the model that a form names.
pub(crate) fn model_of_form(call: &VendorCall<'_>) -> Option<String> {
    let parts = call.form()?;
    let model = parts.iter().find(|part| part.name == "model")?;
    Some(String::from_utf8_lossy(&model.bytes).into_owned())
}

pub(crate) fn rerank(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let query = text_field(request, "query");
    let (Some(query), Some(documents)) = (query, documents(request)) else {
        return wrong("'query' and 'documents' are required");
    };
    let mut results = Vec::new();
    for (index, score) in ranking(query, &documents, number_field(request, "top_n")) {
        let document = json!({ "text": documents[index] });
        results.push(json!({ "index": index, "document": document, "relevance_score": score }));
    }
    let tokens = call.body.len() as u64 / 4;
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    let id = format!("rerank-{}", digest(call.body));
    let body = json!({ "id": id, "model": model, "usage": usage, "results": results });
    Ok(VendorAnswer::json(200, &body))
}
