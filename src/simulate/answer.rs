//! Answers and errors as OpenAI words them, made from the request alone.

use axum::http::StatusCode;
use forebay_schemas::subjects::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::account::{Admission, Config, Headers, Refused};

/// The creation time of every answer, in Unix seconds: the same in every run.
const CREATED: u64 = 1_767_225_600;
/// Numbers in a vector, unless the request says otherwise.
const DIMENSIONS: u64 = 8;

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) request_id: String,
    pub(super) body: Vec<u8>,
}

/// The answer to a call.
pub(super) fn to(path: &str, body: &[u8]) -> Answer {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        return Answer::bad_request("We could not parse the JSON body of your request.");
    };
    let Some(model) = request.get("model").and_then(Value::as_str) else {
        return Answer::bad_request("you must provide a model parameter");
    };
    if model == "no-such-model" {
        let message = format!("The model `{model}` does not exist or you do not have access to it.");
        return Answer::error(404, "invalid_request_error", Some("model_not_found"), &message);
    }
    match path {
        "/embeddings" => embeddings(&request, model, body),
        _ => chat(&request, model, body),
    }
}

/// The tokens that a call counts for when it is admitted: the larger of its prompt, estimated from its
/// length, and the longest answer that it asks for, as at OpenAI.
pub(super) fn admission_tokens(body: &[u8]) -> u64 {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    prompt_tokens(body).max(most_tokens(&request).unwrap_or_default())
}

fn most_tokens(request: &Value) -> Option<u64> {
    let fields = ["max_completion_tokens", "max_tokens"];
    fields.iter().find_map(|field| request.get(field).and_then(Value::as_u64))
}

fn prompt_tokens(body: &[u8]) -> u64 {
    body.len() as u64 / 4
}

fn chat(request: &Value, model: &str, body: &[u8]) -> Answer {
    let Some(messages) = request.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty())
    else {
        return Answer::bad_request("Missing required parameter: 'messages'.");
    };
    let said = messages.last().and_then(|message| message.get("content")).and_then(Value::as_str);
    let said = said.unwrap_or_default();
    let id = digest(body);
    let most = most_tokens(request).unwrap_or(u64::MAX);
    let (prompt, answer) = (prompt_tokens(body), (said.len() as u64 / 4 + 2).min(most));
    Answer::ok(
        &id,
        &json!({
            "id": format!("chatcmpl-{id}"),
            "object": "chat.completion",
            "created": CREATED,
            "model": model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": format!("You said: {said}"), "refusal": null },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": { "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer },
        }),
    )
}

fn embeddings(request: &Value, model: &str, body: &[u8]) -> Answer {
    let texts: Vec<&str> = match request.get("input") {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if texts.is_empty() {
        return Answer::bad_request("'$.input' is invalid.");
    }
    let dimensions = request.get("dimensions").and_then(Value::as_u64).unwrap_or(DIMENSIONS).clamp(1, 4096);
    let data: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            json!({ "object": "embedding", "index": index, "embedding": vector(text, dimensions) })
        })
        .collect();
    let tokens = texts.iter().map(|text| text.len() as u64).sum::<u64>() / 4 + 1;
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Answer::ok(&digest(body), &json!({ "object": "list", "data": data, "model": model, "usage": usage }))
}

/// A vector that only this text has.
fn vector(text: &str, dimensions: u64) -> Vec<f64> {
    let number = |index: u64| {
        let digest = Sha256::digest(format!("{index}:{text}"));
        f64::from(i16::from_be_bytes([digest[0], digest[1]])) / 32_768.0
    };
    (0..dimensions).map(number).collect()
}

fn digest(body: &[u8]) -> String {
    hex(&Sha256::digest(body)[..12])
}

impl Answer {
    fn ok(id: &str, body: &Value) -> Self {
        Self { status: StatusCode::OK, request_id: format!("req_{id}"), body: body.to_string().into_bytes() }
    }

    fn error(status: u16, kind: &str, code: Option<&str>, message: &str) -> Self {
        let body = json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
        Self {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            request_id: format!("req_{}", digest(message.as_bytes())),
            body: body.to_string().into_bytes(),
        }
    }

    pub(super) fn bad_request(message: &str) -> Self {
        Self::error(400, "invalid_request_error", None, message)
    }

    pub(super) fn unknown_path(path: &str) -> Self {
        Self::error(
            404,
            "invalid_request_error",
            Some("unknown_url"),
            &format!("Unknown request URL: {path}."),
        )
    }

    pub(super) fn no_key() -> Self {
        let message = "You didn't provide an API key. Send it as `Authorization: Bearer YOUR_KEY`.";
        Self::error(401, "invalid_request_error", None, message)
    }

    /// OpenAI repeats the ends of a wrong key; so does this, that redaction has something to do.
    pub(super) fn wrong_key(key: &str) -> Self {
        let first: String = key.chars().take(8).collect();
        let message = format!("Incorrect API key provided: {first}****.");
        Self::error(401, "invalid_request_error", Some("invalid_api_key"), &message)
    }

    pub(super) fn refused(
        account: &Config,
        admission: &Admission<'_>,
        refused: Refused,
        tokens: u64,
    ) -> Self {
        let (kind, rest, requested, wait) = match refused {
            Refused::Calls(wait) => ("requests", admission.calls, 1, Some(wait)),
            Refused::Tokens(wait) => ("tokens", admission.tokens, tokens, Some(wait)),
            Refused::TooLarge => ("tokens", admission.tokens, tokens, None),
        };
        let (name, code) = (&account.name, Some("rate_limit_exceeded"));
        let limit = rest.map_or(0, |rest| rest.limit);
        let used = rest.map_or(0, |rest| rest.limit - rest.remaining);
        let Some(wait) = wait else {
            let message = format!(
                "Request too large for organization {name} on {kind} per min: Limit {limit}, Requested \
                 {requested}."
            );
            return Self::error(429, kind, code, &message);
        };
        if account.headers == Headers::None {
            return Self::error(429, kind, code, &format!("Rate limit reached for {kind}"));
        }
        let message = format!(
            "Rate limit reached for {kind} in organization {name}: Limit {limit}, Used {used}, Requested \
             {requested}. Please try again in {}ms.",
            wait.as_millis()
        );
        Self::error(429, kind, code, &message)
    }

    pub(super) fn server_error() -> Self {
        let message = "The server had an error while processing your request. Sorry about that!";
        Self::error(500, "server_error", None, message)
    }

    pub(super) fn overloaded() -> Self {
        Self::error(503, "server_error", None, "The engine is currently overloaded, please try again later")
    }

    pub(super) fn models() -> Self {
        let model =
            |id: &str| json!({ "id": id, "object": "model", "created": CREATED, "owned_by": "forebay" });
        Self::ok(
            "models",
            &json!({ "object": "list", "data": [model("gpt-4o-mini"), model("text-embedding-3-small")] }),
        )
    }
}
