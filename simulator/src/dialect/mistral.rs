//! The dialect of Mistral: OpenAI's form with rules of its own.

use serde_json::{Value, json};

use super::openai::{media, messages};
use crate::answer::{CREATED, VendorAnswer, digest, prompt_tokens};
use crate::asked::{
    AnswerCall, AnswerContent, AnswerEnd, ToolSelection, UnifiedAnswer, UnifiedRequest,
    encode_calls, reply,
};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{
    filled_list_field, list_field, number_field, text_at, text_field, text_or_empty,
};
use crate::route::ApiTask;
use crate::signature;

/// The fields that a chat request may have. The lists below are those of the other tasks.
const CHAT_FIELDS: [&str; 30] = [
    "model",
    "messages",
    "temperature",
    "top_p",
    "max_tokens",
    "stream",
    "stop",
    "random_seed",
    "metadata",
    "response_format",
    "tools",
    "tool_choice",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "prediction",
    "parallel_tool_calls",
    "prompt_mode",
    "reasoning_effort",
    "safe_prompt",
    "guardrails",
    "prompt_cache_key",
    "service_tier",
    "min_tokens",
    "repetition_penalty",
    "top_k",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "top_prompt_logprobs",
];
const EMBEDDING_FIELDS: [&str; 6] = [
    "model",
    "input",
    "metadata",
    "output_dimension",
    "output_dtype",
    "encoding_format",
];
const MODERATION_FIELDS: [&str; 3] = ["model", "input", "metadata"];
const TRANSCRIPTION_FIELDS: [&str; 11] = [
    "model",
    "file",
    "file_url",
    "file_id",
    "language",
    "temperature",
    "stream",
    "diarize",
    "context_bias",
    "speaker_references",
    "timestamp_granularities",
];
/// The moderation categories, in Mistral's names.
const CATEGORIES: [&str; 9] = [
    "sexual",
    "hate_and_discrimination",
    "violence_and_threats",
    "dangerous_and_criminal_content",
    "selfharm",
    "health",
    "financial",
    "law",
    "pii",
];
/// The length of the id of a tool call.
const CALL_ID_LENGTH: usize = 9;
/// The bytes that count as one second of audio.
const BYTES_A_SECOND: u64 = 32_000;

pub(super) fn answer(call: &VendorCall<'_>) -> Outcome {
    if call.task == ApiTask::Transcribe {
        return transcription(call);
    }
    let request = call.request()?;
    let known: &[&str] = match call.task {
        ApiTask::Embed => &EMBEDDING_FIELDS,
        ApiTask::Moderate => &MODERATION_FIELDS,
        _ => &CHAT_FIELDS,
    };
    let Some(fields) = request.as_object() else {
        return Err(RequestProblem::Unreadable);
    };
    let is_unknown = |field: &&str| !known.contains(field);
    if let Some(field) = fields.keys().map(String::as_str).find(is_unknown) {
        return in_field(&[field], "Extra inputs are not permitted");
    }
    let Some(model) = text_field(request, "model") else {
        return in_field(&["model"], "Field required");
    };
    match call.task {
        ApiTask::Embed => embeddings(call, request, model),
        ApiTask::Moderate => moderation(call, request, model),
        _ => chat(call, request, model),
    }
}

fn in_field<T>(path: &[&str], message: &str) -> Result<T, RequestProblem> {
    let path = ["body"].iter().chain(path);
    let path = path.map(|part| (*part).to_owned()).collect();
    Err(RequestProblem::Field(path, message.to_owned()))
}

fn embeddings(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let answer = media::embeddings(request, model)?;
    let body: Result<Value, _> = serde_json::from_slice(&answer.body);
    let mut body = body.map_err(|_| RequestProblem::Unreadable)?;
    body["id"] = json!(digest(call.body));
    body["usage"]["completion_tokens"] = json!(0);
    let (input, output) = answer.spent.unwrap_or_default();
    Ok(VendorAnswer::json(200, &body).spending(input, output))
}

fn moderation(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let texts = messages::text_list(request.get("input"));
    if texts.is_empty() {
        return in_field(&["input"], "Field required");
    }
    let results: Vec<_> = texts.iter().map(|text| moderated(text)).collect();
    let body = json!({ "id": digest(call.body), "model": model, "results": results });
    Ok(VendorAnswer::json(200, &body))
}

/// Returns the moderation of a text. A text that begins with `refuse ` is violent, every other text is harmless.
fn moderated(text: &str) -> Value {
    let flagged = text.starts_with("refuse ");
    let mut result = json!({ "categories": {}, "category_scores": {} });
    for name in CATEGORIES {
        let hit = flagged && name == "violence_and_threats";
        result["categories"][name] = json!(hit);
        result["category_scores"][name] = json!(if hit { 0.9 } else { 0.01 });
    }
    result
}

/// Returns the transcription of a file or a URL. The fields of a list have the same name, unlike OpenAI's.
fn transcription(call: &VendorCall<'_>) -> Outcome {
    let Some(parts) = call.form() else {
        return Err(RequestProblem::Unreadable);
    };
    let mut names = parts.iter().map(|part| part.name.as_str());
    if let Some(name) = names.find(|name| !TRANSCRIPTION_FIELDS.contains(name)) {
        return in_field(&[name], "Extra inputs are not permitted");
    }
    let text = |name: &str| {
        let mut fields = parts.iter().filter(|part| part.file.is_none());
        let field = fields.find(|part| part.name == name)?;
        let text = std::str::from_utf8(&field.bytes).ok()?;
        (!text.is_empty()).then_some(text)
    };
    let Some(model) = text("model") else {
        return in_field(&["model"], "Field required");
    };
    let mut files = parts.iter().filter(|part| part.name == "file");
    let file = files.find(|part| part.holds_file());
    let (transcript, length) = match (file, text("file_url")) {
        (Some(file), None) => (media::transcript(file), file.bytes.len() as u64),
        // The URL is not fetched. Its audio counts as one second long.
        (None, Some(url)) => (format!("You sent: {url}"), BYTES_A_SECOND),
        _ => {
            return in_field(
                &["file"],
                "Exactly one of file, file_url and file_id is required",
            );
        }
    };
    let seconds = length.div_ceil(BYTES_A_SECOND);
    // Words are not supported. The whole text is one segment.
    let wants_segments = parts
        .iter()
        .any(|part| part.name == "timestamp_granularities" && *part.bytes == *b"segment");
    let segment = json!({ "type": "transcription_segment", "text": transcript, "start": 0.0, "end": seconds });
    let (input, output) = (length / 100 + 1, transcript.len() as u64 / 4);
    let body = json!({
        "model": model,
        "text": transcript,
        "language": text("language"),
        "segments": if wants_segments { vec![segment] } else { Vec::new() },
        "usage": {
            "prompt_audio_seconds": seconds,
            "prompt_tokens": input,
            "completion_tokens": output,
            "total_tokens": input + output,
        },
    });
    Ok(VendorAnswer::json(200, &body).spending(input, output))
}

fn chat(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    let Some(list) = filled_list_field(request, "messages") else {
        return in_field(&["messages"], "Field required");
    };
    check(list)?;
    let mut unified = messages::read_request(call.vendor, request)?;
    unified.reasoning |= text_field(request, "prompt_mode") == Some("reasoning");
    if let Some(name) = forbidden(&unified) {
        return wrong(format!("Tool {name} is not among the tools of the request"));
    }
    let answer = reply(&unified);
    let count = number_field(request, "n").unwrap_or(1).clamp(1, 128);
    let id = digest(call.body);
    let choices = (0..count).map(|index| choice(&answer, &id, index));
    let choices: Vec<_> = choices.collect();
    let (input, output) = (prompt_tokens(call.body), answer.all_tokens() * count);
    let mut usage = json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output });
    if unified.cached(input) > 0 {
        usage["prompt_tokens_details"] = json!({ "cached_tokens": unified.cached(input) });
    }
    let body = json!({
        "id": id,
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": choices,
        "usage": usage,
    });
    Ok(VendorAnswer::json(200, &body).spending(input, output))
}

fn forbidden(unified: &UnifiedRequest) -> Option<&str> {
    let ToolSelection::Named(name) = &unified.choice else {
        return None;
    };
    let known = unified.tools.iter().any(|tool| tool.name == *name);
    (!known).then_some(name)
}

fn choice(answer: &UnifiedAnswer, id: &str, index: u64) -> Value {
    let mut message = json!({ "role": "assistant", "content": answer.text(), "tool_calls": null, "prefix": false });
    if let Some(thought) = &answer.thought {
        let text = json!({ "type": "text", "text": answer.text() });
        let thinking = json!({
            "type": "thinking",
            "thinking": [{ "type": "text", "text": thought }],
            "signature": signature::sign(thought),
            "closed": true,
        });
        message["content"] = json!([thinking, text]);
    }
    if let AnswerContent::Calls(calls) = &answer.content {
        let encode = |at, call: &AnswerCall| {
            let function = json!({ "name": call.name, "arguments": call.arguments.to_string() });
            // The last character distinguishes the calls of one answer.
            let id = format!("{}{}", &id[..CALL_ID_LENGTH - 1], at % 10);
            json!({ "id": id, "type": "function", "function": function, "index": at })
        };
        message["tool_calls"] = json!(encode_calls(calls, encode));
    }
    let reason = match (&answer.content, &answer.end) {
        (AnswerContent::Calls(_), _) => "tool_calls",
        (_, AnswerEnd::Length) => "length",
        _ => "stop",
    };
    json!({ "index": index, "message": message, "finish_reason": reason })
}

fn is_call_id(id: &str) -> bool {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain && id.len() == CALL_ID_LENGTH
}

/// Checks the role of the last message, the ids of tool calls and the signatures of reasoning.
fn check(list: &[Value]) -> Result<(), RequestProblem> {
    let last = list.last().unwrap_or(&Value::Null);
    let role = text_or_empty(last, "role");
    let prefix = last.get("prefix") == Some(&json!(true));
    let may_end = matches!(role, "user" | "tool") || role == "assistant" && prefix;
    if !may_end {
        return wrong(format!(
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got {role}"
        ));
    }
    for (at, message) in list.iter().enumerate() {
        let calls = list_field(message, "tool_calls").iter();
        let ids = calls.filter_map(|call| text_field(call, "id"));
        for id in ids.chain(text_field(message, "tool_call_id")) {
            if !is_call_id(id) {
                return wrong(format!(
                    "Tool call id was {id} but must be a-z, A-Z, 0-9, with a length of {CALL_ID_LENGTH}."
                ));
            }
        }
        for part in list_field(message, "content") {
            let Some(seal) = text_field(part, "signature") else {
                continue;
            };
            let thought = text_at(part, "/thinking/0/text").unwrap_or_default();
            if !signature::is_valid(thought, seal) {
                return in_field(
                    &["messages", &at.to_string(), "content"],
                    "Invalid signature of a thinking chunk",
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_nine_letters_and_digits_and_the_user_or_a_tool_speaks_last() {
        let user = json!({ "role": "user", "content": "hi" });
        let call = |id: &str| json!({ "role": "assistant", "tool_calls": [{ "id": id, "function": { "name": "f", "arguments": "{}" } }] });
        let result = |id: &str| json!({ "role": "tool", "tool_call_id": id, "content": "rain" });
        assert!(check(&[user.clone(), call("abcDEF123"), result("abcDEF123")]).is_ok());
        assert!(check(&[user.clone(), call("call_1"), result("call_1")]).is_err());
        assert!(check(&[user, call("abcDEF123")]).is_err());
        assert!(
            check(&[json!({ "role": "assistant", "content": "Once", "prefix": true })]).is_ok()
        );
    }
}
