//! The parts of a message as text: a part that is not text is described.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::call::{RequestProblem, wrong};
use super::field::text_at;

/// Returns the text of a message's content in OpenAI's form: a string, or a list of parts.
pub(super) fn text(content: Option<&Value>) -> Result<String, RequestProblem> {
    match content {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => join(parts.iter().map(part)),
        _ => Ok(String::new()),
    }
}

/// Joins parts with spaces. Empty parts leave no gap.
pub(super) fn joined(parts: Vec<String>) -> String {
    let mut parts = parts;
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

/// Joins parts with spaces. Returns the problem of the first part that has one.
pub(super) fn join(
    parts: impl Iterator<Item = Result<String, RequestProblem>>,
) -> Result<String, RequestProblem> {
    let parts: Result<Vec<_>, _> = parts.collect();
    Ok(joined(parts?))
}

fn part(part: &Value) -> Result<String, RequestProblem> {
    let field = |pointer: &str| text_at(part, pointer);
    let Some(kind) = field("/type") else {
        return wrong("Missing required parameter: 'messages[].content[].type'.");
    };
    let link = |name: &str| field(&format!("/{name}/url")).or_else(|| field(&format!("/{name}")));
    match kind {
        "text" | "input_text" | "output_text" => Ok(field("/text").unwrap_or_default().to_owned()),
        "refusal" | "thinking" => Ok(String::new()),
        "image_url" | "input_image" => linked(
            "image",
            link("image_url")
                .or_else(|| field("/file_id"))
                .unwrap_or_default(),
        ),
        "document_url" => linked("file", link("document_url").unwrap_or_default()),
        "document" => Ok(match part.pointer("/document/data") {
            Some(Value::String(text)) => text.clone(),
            Some(data) => data.to_string(),
            None => String::new(),
        }),
        "input_audio" => {
            let data = field("/input_audio/data")
                .or_else(|| field("/input_audio"))
                .unwrap_or_default();
            let format = field("/input_audio/format").unwrap_or("wav");
            bytes("audio", &format!("audio/{format}"), data)
        }
        "file" | "input_file" => {
            let file = part.get("file").unwrap_or(part);
            let given = ["file_data", "file_url", "file_id"]
                .iter()
                .find_map(|name| file.get(name)?.as_str());
            linked("file", given.unwrap_or_default())
        }
        _ => wrong(format!(
            "Invalid value: '{kind}'. Supported values are: 'text', 'image_url', 'input_audio', 'refusal', 'audio', and 'file'."
        )),
    }
}

/// Describes a part that is given by its URL. A data URL is decoded and described by its bytes.
pub(super) fn linked(kind: &str, url: &str) -> Result<String, RequestProblem> {
    let Some(data) = url.strip_prefix("data:") else {
        if url.is_empty() {
            return wrong(format!("Invalid {kind}: expected a URL or a data URL."));
        }
        return Ok(format!("[{kind} {url}]"));
    };
    match data.split_once(";base64,") {
        Some((media, data)) => bytes(kind, media, data),
        None => wrong(format!("Invalid {kind}: the data URL is not base64.")),
    }
}

/// Describes a part that is given by its bytes in base64.
pub(super) fn bytes(kind: &str, media: &str, data: &str) -> Result<String, RequestProblem> {
    match BASE64_STANDARD.decode(data).map(|bytes| bytes.len()) {
        Ok(size) if size > 0 => Ok(format!("[{kind} {media} {size} bytes]")),
        _ => wrong(format!("Invalid {kind}: the data is not valid base64.")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_text_is_described() {
        let content = json!([
            { "type": "text", "text": "look:" },
            { "type": "image_url", "image_url": { "url": "data:image/png;base64,Zm9v" } },
            { "type": "input_audio", "input_audio": { "data": "Zm9v", "format": "mp3" } },
            { "type": "image_url", "image_url": { "url": "https://example.org/a.png" } },
        ]);
        let expected = "look: [image image/png 3 bytes] [audio audio/mp3 3 bytes] [image https://example.org/a.png]";
        assert_eq!(text(Some(&content)).as_deref(), Ok(expected));
        let broken =
            json!([{ "type": "image_url", "image_url": { "url": "data:image/png;base64,Z" } }]);
        assert!(text(Some(&broken)).is_err());
    }
}
