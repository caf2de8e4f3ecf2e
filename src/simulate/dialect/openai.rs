//! Chat as OpenAI speaks it, and what Azure, Groq, DeepSeek and OpenRouter add to it.

pub(crate) mod media;
pub(crate) mod messages;
mod responses;

use serde_json::{Value, json};

use super::super::answer::{Answer, CREATED, digest, prompt_tokens};
use super::super::asked::{Asked, Content, End, Said, reply};
use super::super::call::{Call, Outcome, Wrong, wrong};
use super::super::route::Task;
use super::super::signature;
use super::super::vendor::Vendor;

/// The most candidates that a call may ask for.
const MOST_CANDIDATES: u64 = 128;

pub(super) fn answer(call: &Call<'_>) -> Outcome {
    if call.task == Task::Transcribe {
        return media::transcription(call);
    }
    let request = call.request()?;
    let Some(model) = call.model_of(&request) else {
        return wrong("you must provide a model parameter");
    };
    let id = format!("req_{}", digest(call.body));
    let answer = match call.task {
        Task::Responses => responses::answer(call, &request, model)?,
        Task::Embed => media::embeddings(&request, model)?,
        Task::Moderate => media::moderation(call, &request, model)?,
        Task::Draw => media::image(&request)?,
        Task::Speak => media::speech(&request)?,
        Task::Rerank => media::rerank(call, &request, model)?,
        _ => chat(call, &request, model)?,
    };
    Ok(answer.with("x-request-id", &id))
}

fn chat(call: &Call<'_>, request: &Value, model: &str) -> Outcome {
    refuse_what_this_vendor_does(call.vendor, request)?;
    let asked = messages::asked(call.vendor, request)?;
    let mut said = reply(&asked);
    if call.vendor == Vendor::DeepSeek && model.contains("reasoner") && said.thought.is_none() {
        said = reply(&Asked { thinks: true, ..asked });
    }
    let count = request.get("n").and_then(Value::as_u64).unwrap_or(1).clamp(1, MOST_CANDIDATES);
    let id = digest(call.body);
    let choices: Vec<_> = (0..count).map(|index| choice(call.vendor, &said, &id, index)).collect();
    let (prompt, written) = (prompt_tokens(call.body), said.all_tokens() * count);
    let mut usage =
        json!({ "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written });
    if said.thought.is_some() {
        usage["completion_tokens_details"] = json!({ "reasoning_tokens": said.thought_tokens * count });
    }
    let mut body = json!({
        "id": format!("chatcmpl-{id}"),
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": choices,
        "usage": usage,
    });
    add(call.vendor, &mut body, &id, prompt);
    Ok(Answer::json(200, &body).spending(prompt, written))
}

fn choice(vendor: Vendor, said: &Said, id: &str, index: u64) -> Value {
    let (content, refusal) = match &said.content {
        Content::Text(text) => (json!(text), Value::Null),
        Content::Refusal(text) => (Value::Null, json!(text)),
        Content::Call { .. } => (Value::Null, Value::Null),
    };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": refusal });
    if let Content::Call { name, arguments } = &said.content {
        message["tool_calls"] = json!([{
            "id": format!("call_{id}{index}"),
            "type": "function",
            "function": { "name": name, "arguments": arguments.to_string() },
        }]);
    }
    if let Some(thought) = &said.thought {
        think(vendor, &mut message, thought);
    }
    let reason = finish(said);
    let mut choice = json!({ "index": index, "message": message, "logprobs": null, "finish_reason": reason });
    if vendor == Vendor::OpenRouter {
        choice["native_finish_reason"] = json!(reason);
    }
    if vendor == Vendor::Azure {
        choice["content_filter_results"] = unfiltered();
    }
    choice
}

/// Reasoning, where this vendor shows it. OpenAI's chat shows none.
fn think(vendor: Vendor, message: &mut Value, thought: &str) {
    match vendor {
        Vendor::DeepSeek => message["reasoning_content"] = json!(thought),
        Vendor::Groq => message["reasoning"] = json!(thought),
        Vendor::OpenRouter => {
            message["reasoning"] = json!(thought);
            message["reasoning_details"] = json!([{
                "type": "reasoning.text",
                "text": thought,
                "signature": signature::seal(thought),
                "format": "anthropic-claude-v1",
                "index": 0,
            }]);
        }
        _ => {}
    }
}

pub(super) fn finish(said: &Said) -> &'static str {
    match (&said.content, &said.end) {
        (Content::Call { .. }, _) => "tool_calls",
        (_, End::Length) => "length",
        _ => "stop",
    }
}

fn add(vendor: Vendor, body: &mut Value, id: &str, prompt: u64) {
    match vendor {
        Vendor::Azure => {
            body["prompt_filter_results"] =
                json!([{ "prompt_index": 0, "content_filter_results": unfiltered() }]);
        }
        Vendor::Groq => body["x_groq"] = json!({ "id": format!("req_{id}") }),
        Vendor::DeepSeek => {
            body["usage"]["prompt_cache_hit_tokens"] = json!(0);
            body["usage"]["prompt_cache_miss_tokens"] = json!(prompt);
        }
        Vendor::OpenRouter => body["provider"] = json!("Simulated"),
        _ => {}
    }
}

fn unfiltered() -> Value {
    let safe = json!({ "filtered": false, "severity": "safe" });
    json!({ "hate": safe, "self_harm": safe, "sexual": safe, "violence": safe })
}

fn refuse_what_this_vendor_does(vendor: Vendor, request: &Value) -> Result<(), Wrong> {
    if vendor != Vendor::Groq {
        return Ok(());
    }
    let set =
        |field: &&str| request.get(*field).is_some_and(|value| !value.is_null() && *value != json!(false));
    if let Some(field) = ["logprobs", "logit_bias", "top_logprobs"].into_iter().find(|field| set(field)) {
        return wrong(format!("property '{field}' is unsupported"));
    }
    if request.get("n").is_some_and(|n| n.as_u64() != Some(1)) {
        return wrong("'n' : number must be at most 1");
    }
    let named =
        |message: &Value| message.get("name").is_some() && message.get("role") != Some(&json!("tool"));
    let messages = request.get("messages").and_then(Value::as_array).into_iter().flatten();
    match messages.enumerate().find(|(_, message)| named(message)) {
        Some((at, _)) => wrong(format!("'messages.{at}' : property 'name' is unsupported")),
        None => Ok(()),
    }
}
