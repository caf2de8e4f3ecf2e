//! The dialect of OpenAI's chat, and the additions of Azure, Groq, DeepSeek and OpenRouter.

pub(crate) mod media;
pub(crate) mod messages;
mod responses;

use serde_json::{Value, json};

use crate::answer::{CREATED, VendorAnswer, digest, prompt_tokens};
use crate::asked::{AnswerContent, AnswerEnd, UnifiedAnswer, UnifiedRequest, encode_calls, reply};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{list_field, number_field, text_or_empty};
use crate::route::ApiTask;
use crate::signature;
use crate::vendor::Vendor;

/// The most candidates of one answer.
const MOST_CANDIDATES: u64 = 128;

pub(super) fn answer(call: &VendorCall<'_>) -> Outcome {
    if call.task == ApiTask::Transcribe {
        return media::transcription(call);
    }
    let request = call.request()?;
    let Some(model) = call.model_of(request) else {
        return wrong("you must provide a model parameter");
    };
    let id = format!("req_{}", digest(call.body));
    let answer = match call.task {
        ApiTask::Responses => responses::answer(call, request, model)?,
        ApiTask::Embed => media::embeddings(request, model)?,
        ApiTask::Moderate => media::moderation(call, request, model)?,
        ApiTask::Image => media::image(request)?,
        ApiTask::Speech => media::speech(request)?,
        ApiTask::Rerank => media::rerank(call, request, model)?,
        _ => chat(call, request, model)?,
    };
    Ok(answer.with("x-request-id", &id))
}

fn chat(call: &VendorCall<'_>, request: &Value, model: &str) -> Outcome {
    check_vendor_fields(call.vendor, request)?;
    let unified = messages::read_request(call.vendor, request)?;
    let mut answer = reply(&unified);
    let must_reason = call.vendor == Vendor::DeepSeek && model.contains("reasoner");
    if must_reason && answer.thought.is_none() {
        answer = reply(&UnifiedRequest {
            reasoning: true,
            ..unified.clone()
        });
    }
    let count = number_field(request, "n").unwrap_or(1);
    let count = count.clamp(1, MOST_CANDIDATES);
    let id = digest(call.body);
    let choices: Vec<_> = (0..count)
        .map(|index| choice(call.vendor, &answer, &id, index))
        .collect();
    let (prompt, written) = (prompt_tokens(call.body), answer.all_tokens() * count);
    let cached = unified.cached(prompt);
    let mut usage = json!({ "prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written });
    if answer.thought.is_some() {
        usage["completion_tokens_details"] =
            json!({ "reasoning_tokens": answer.thought_tokens * count });
    }
    if cached > 0 {
        usage["prompt_tokens_details"] = json!({ "cached_tokens": cached });
    }
    let mut body = json!({
        "id": format!("chatcmpl-{id}"),
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": choices,
        "usage": usage,
    });
    add(call.vendor, &mut body, &id, (prompt, cached));
    Ok(VendorAnswer::json(200, &body).spending(prompt - cached, written))
}

fn choice(vendor: Vendor, answer: &UnifiedAnswer, id: &str, index: u64) -> Value {
    let filters = filters(vendor);
    let (content, refusal) = match &answer.content {
        AnswerContent::Text(text) => (json!(text), Value::Null),
        // A filter removes the text; the model itself does not decline.
        AnswerContent::Refusal(_) if filters => (json!(""), Value::Null),
        AnswerContent::Refusal(text) => (Value::Null, json!(text)),
        AnswerContent::Calls(_) => (Value::Null, Value::Null),
    };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": refusal });
    if let AnswerContent::Calls(calls) = &answer.content {
        let calls = encode_calls(calls, |at, call| {
            let function = json!({ "name": call.name, "arguments": call.arguments.to_string() });
            json!({ "id": format!("call_{id}{index}{at}"), "type": "function", "function": function })
        });
        message["tool_calls"] = json!(calls);
    }
    if let Some(thought) = &answer.thought {
        think(vendor, &mut message, thought);
    }
    let filtered = filters && matches!(answer.content, AnswerContent::Refusal(_));
    let reason = if filtered {
        "content_filter"
    } else {
        finish(answer)
    };
    let mut choice =
        json!({ "index": index, "message": message, "logprobs": null, "finish_reason": reason });
    if vendor == Vendor::OpenRouter {
        choice["native_finish_reason"] = json!(reason);
    }
    if vendor == Vendor::Azure {
        choice["content_filter_results"] = unfiltered();
        if filtered {
            choice["content_filter_results"]["violence"] =
                json!({ "filtered": true, "severity": "high" });
        }
    }
    choice
}

/// Returns true if the vendor removes forbidden text with a filter, instead of letting the model decline.
fn filters(vendor: Vendor) -> bool {
    matches!(vendor, Vendor::Azure | Vendor::DeepSeek)
}

/// Adds the reasoning to a message, if this vendor shows it. OpenAI's chat shows none.
fn think(vendor: Vendor, message: &mut Value, thought: &str) {
    match vendor {
        Vendor::DeepSeek => message["reasoning_content"] = json!(thought),
        Vendor::Groq => message["reasoning"] = json!(thought),
        Vendor::OpenRouter => {
            message["reasoning"] = json!(thought);
            message["reasoning_details"] = json!([{
                "type": "reasoning.text",
                "text": thought,
                "signature": signature::sign(thought),
                "format": "anthropic-claude-v1",
                "index": 0,
            }]);
        }
        _ => {}
    }
}

pub(super) fn finish(answer: &UnifiedAnswer) -> &'static str {
    match (&answer.content, &answer.end) {
        (AnswerContent::Calls(_), _) => "tool_calls",
        (_, AnswerEnd::Length) => "length",
        _ => "stop",
    }
}

fn add(vendor: Vendor, body: &mut Value, id: &str, (prompt, cached): (u64, u64)) {
    match vendor {
        Vendor::Azure => {
            body["prompt_filter_results"] =
                json!([{ "prompt_index": 0, "content_filter_results": unfiltered() }]);
        }
        Vendor::Groq => body["x_groq"] = json!({ "id": format!("req_{id}") }),
        Vendor::DeepSeek => {
            body["usage"]["prompt_cache_hit_tokens"] = json!(cached);
            body["usage"]["prompt_cache_miss_tokens"] = json!(prompt - cached);
        }
        Vendor::OpenRouter => body["provider"] = json!("Simulated"),
        _ => {}
    }
}

fn unfiltered() -> Value {
    let safe = json!({ "filtered": false, "severity": "safe" });
    json!({ "hate": safe, "self_harm": safe, "sexual": safe, "violence": safe })
}

/// Refuses the fields that reasoning models do not accept: `max_tokens`, and a `temperature` other than 1.
fn check_reasoning_model(request: &Value) -> Result<(), RequestProblem> {
    let model = text_or_empty(request, "model");
    let mut prefixes = ["o1", "o3", "o4", "gpt-5"].into_iter();
    if !prefixes.any(|prefix| model.starts_with(prefix)) {
        return Ok(());
    }
    let max_tokens = request.get("max_tokens").unwrap_or(&Value::Null);
    if !max_tokens.is_null() {
        return wrong(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        );
    }
    match request.get("temperature").and_then(Value::as_f64) {
        Some(temperature) if (temperature - 1.0).abs() > f64::EPSILON => wrong(format!(
            "Unsupported value: 'temperature' does not support {temperature} with this model. Only the default (1) value is supported."
        )),
        _ => Ok(()),
    }
}

/// Refuses the fields that this vendor does not accept.
fn check_vendor_fields(vendor: Vendor, request: &Value) -> Result<(), RequestProblem> {
    match vendor {
        Vendor::OpenAi | Vendor::Azure => return check_reasoning_model(request),
        Vendor::Groq => {}
        _ => return Ok(()),
    }
    let is_set = |field: &&str| {
        let value = request.get(*field).unwrap_or(&Value::Null);
        !value.is_null() && *value != json!(false)
    };
    let mut unsupported = ["logprobs", "logit_bias", "top_logprobs"].into_iter();
    if let Some(field) = unsupported.find(is_set) {
        return wrong(format!("property '{field}' is unsupported"));
    }
    if request.get("n").is_some_and(|n| n.as_u64() != Some(1)) {
        return wrong("'n' : number must be at most 1");
    }
    let named = |message: &Value| {
        message.get("name").is_some() && message.get("role") != Some(&json!("tool"))
    };
    let messages = list_field(request, "messages").iter();
    match messages.enumerate().find(|(_, message)| named(message)) {
        Some((at, _)) => wrong(format!("'messages.{at}' : property 'name' is unsupported")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_reason_and_groq_take_less_than_others() {
        let refused = |vendor, fields: Value| check_vendor_fields(vendor, &fields).is_err();
        assert!(refused(
            Vendor::OpenAi,
            json!({ "model": "gpt-5-mini", "max_tokens": 9 })
        ));
        assert!(refused(
            Vendor::OpenAi,
            json!({ "model": "o4-mini", "temperature": 0.5 })
        ));
        assert!(!refused(
            Vendor::OpenAi,
            json!({ "model": "gpt-5-mini", "temperature": 1, "max_completion_tokens": 9 })
        ));
        assert!(!refused(
            Vendor::OpenAi,
            json!({ "model": "gpt-4o-mini", "temperature": 0.5, "max_tokens": 9 })
        ));
        assert!(refused(Vendor::Groq, json!({ "model": "m", "n": 2 })));
        assert!(refused(
            Vendor::Groq,
            json!({ "model": "m", "messages": [{ "role": "user", "name": "x" }] })
        ));
        assert!(!refused(Vendor::DeepSeek, json!({ "model": "m", "n": 2 })));
    }
}
