//! The form of a transcription: the bytes of the file, and the other fields as text.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use forebay_schemas::job::Object;
use forebay_schemas::quoting::without_values;
use forebay_schemas::subjects::hex;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::chat::MediaContent;
use crate::unsupported::Unsupported;

/// A file in a job's body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MultipartFile {
    /// The bytes in base64, or a data URL.
    data: String,
    /// The name. Providers recognise the format by its ending.
    filename: Option<String>,
}

/// Returns the form's content type and the form. `of_lists` is appended to the name of a list.
pub(super) fn of(body: &Object, of_lists: &str) -> Result<(HeaderValue, Bytes), Unsupported> {
    let (filename, bytes) = file(body)?;
    // A boundary must not occur in the file, so it is made from the file's hash.
    let hash = Sha256::digest(&bytes);
    let boundary = format!("forebay-{}", hex(&hash[..16]));
    let mut form = Vec::with_capacity(bytes.len() + 1024);
    for (name, value) in body.iter().filter(|(name, _)| *name != "file") {
        for (name, text) in fields(name, value.get(), of_lists) {
            let head = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n",
                quoted(&name)
            );
            form.extend_from_slice(head.as_bytes());
            form.extend_from_slice(text.as_bytes());
            form.extend_from_slice(b"\r\n");
        }
    }
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n",
        quoted(&filename)
    );
    form.extend_from_slice(head.as_bytes());
    form.extend_from_slice(&bytes);
    form.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let content_type = HeaderValue::try_from(format!("multipart/form-data; boundary={boundary}"));
    Ok((
        content_type.map_err(|error| wrong(&error.to_string()))?,
        form.into(),
    ))
}

/// Reads the file's name and its bytes.
pub(super) fn file(body: &Object) -> Result<(String, Vec<u8>), Unsupported> {
    let file = body
        .get("file")
        .ok_or_else(|| wrong("is missing: write {\"data\": BASE64, \"filename\": …}"))?;
    let file: MultipartFile =
        serde_json::from_str(file.get()).map_err(|error| wrong(&without_values(&error)))?;
    let media = MediaContent::of(&file.data);
    let data = media.map_or(&*file.data, |media| media.data);
    let bytes = BASE64_STANDARD.decode(data);
    let of_type = || media.map(|media| format!("audio.{}", ending(&media)));
    let Some(name) = file.filename.or_else(of_type) else {
        let problem =
            "is missing: providers tell the sound's format by the ending, such as `a.mp3`";
        return Err(Unsupported::invalid("body.file.filename", problem));
    };
    let bytes = bytes.map_err(|_| Unsupported::invalid("body.file.data", "is not base64"))?;
    Ok((name, bytes))
}

/// Returns the ending of the names of files of this type.
fn ending<'a>(media: &MediaContent<'a>) -> &'a str {
    match media.format() {
        "mpeg" => "mp3",
        "vnd.wave" | "wave" => "wav",
        other => other.strip_prefix("x-").unwrap_or(other),
    }
}

/// Returns a field as text; a list becomes one field for each item.
fn fields(name: &str, raw: &str, of_lists: &str) -> Vec<(String, String)> {
    match serde_json::from_str(raw) {
        Ok(Value::Null) => Vec::new(),
        Ok(Value::Array(items)) => items
            .into_iter()
            .map(|item| (format!("{name}{of_lists}"), as_text(item)))
            .collect(),
        Ok(value) => vec![(name.to_owned(), as_text(value))],
        Err(_) => vec![(name.to_owned(), raw.to_owned())],
    }
}

fn as_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Escapes a name in a header as browsers do.
fn quoted(name: &str) -> String {
    name.replace('"', "%22")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn wrong(problem: &str) -> Unsupported {
    Unsupported::invalid("body.file", problem)
}
