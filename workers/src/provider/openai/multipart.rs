//! A transcription's form: the file's bytes and the other fields as text.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use forebay_schemas::job::Object;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::provider::Unsupported;

/// What stands for a file in a job's body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Its bytes in base64.
    data: String,
    /// Its name: providers tell the format by its ending.
    #[serde(default = "unnamed")]
    filename: String,
}

fn unnamed() -> String {
    "audio.wav".to_owned()
}

/// The form and its content type. `of_lists` follows the name of a list.
pub(super) fn of(body: &Object, of_lists: &str) -> Result<(HeaderValue, Bytes), Unsupported> {
    let (filename, bytes) = file(body)?;
    // Made from what it must not occur in.
    let boundary = format!("forebay-{}", forebay_schemas::subjects::hex(&Sha256::digest(&bytes)[..16]));
    let mut form = Vec::with_capacity(bytes.len() + 1024);
    for (name, value) in body.iter().filter(|(name, _)| *name != "file") {
        for (name, text) in fields(name, value.get(), of_lists) {
            let head =
                format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n", quoted(&name));
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
    Ok((content_type.map_err(|error| wrong(&error.to_string()))?, form.into()))
}

/// The file's name and its bytes.
pub(super) fn file(body: &Object) -> Result<(String, Vec<u8>), Unsupported> {
    let file =
        body.get("file").ok_or_else(|| wrong("is missing: write {\"data\": BASE64, \"filename\": …}"))?;
    let file: File = serde_json::from_str(file.get()).map_err(|error| wrong(&error.to_string()))?;
    let bytes = BASE64_STANDARD.decode(&file.data);
    let bytes = bytes.map_err(|error| Unsupported::new("body.file.data", error.to_string()))?;
    Ok((file.filename, bytes))
}

/// A field as text; of a list one field an item.
fn fields(name: &str, raw: &str, of_lists: &str) -> Vec<(String, String)> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    match serde_json::from_str(raw) {
        Ok(Value::Null) => Vec::new(),
        Ok(Value::Array(items)) => {
            items.into_iter().map(|item| (format!("{name}{of_lists}"), text(item))).collect()
        }
        Ok(value) => vec![(name.to_owned(), text(value))],
        Err(_) => vec![(name.to_owned(), raw.to_owned())],
    }
}

/// A name in a header, as browsers escape it.
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

fn wrong(problem: &str) -> Unsupported {
    Unsupported::new("body.file", problem)
}
