//! The dialect of Anthropic's Messages API.

mod conversation;

use serde_json::{Value, json};

use crate::answer::{VendorAnswer, digest, prompt_tokens};
use crate::asked::{
    AnswerContent, AnswerEnd, AnswerForm, RequestTool, ToolSelection, UnifiedAnswer,
    UnifiedRequest, encode_calls, reply,
};
use crate::call::{Outcome, RequestProblem, VendorCall, wrong};
use crate::field::{list_field, number_field, text_field};
use crate::signature;

/// The fields that a request may have in every version. The fields of `SAMPLING` exist in the older version only.
const FIELDS: [&str; 20] = [
    "model",
    "messages",
    "max_tokens",
    "system",
    "stop_sequences",
    "stream",
    "thinking",
    "tools",
    "tool_choice",
    "metadata",
    "service_tier",
    "output_config",
    "cache_control",
    "container",
    "diagnostics",
    "inference_geo",
    "speed",
    "user_profile_id",
    "workspace_id",
    "context_management",
];
/// The fields of sampling, which the newer version refuses.
const SAMPLING: [&str; 3] = ["temperature", "top_p", "top_k"];
/// The smallest budget for reasoning, in tokens.
const LEAST_BUDGET: u64 = 1_024;

/// The versions of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApiVersion {
    /// `2023-06-01`.
    Of2023,
    /// `2026-10-21`.
    Of2026,
}

pub(super) fn answer(call: &VendorCall<'_>) -> Outcome {
    let version = call.headers.get("anthropic-version");
    let version = version.and_then(|value| value.to_str().ok());
    let version = match version {
        Some("2023-06-01") => ApiVersion::Of2023,
        Some("2026-10-21") => ApiVersion::Of2026,
        Some(other) => {
            return wrong(format!(
                "anthropic-version: \"{other}\" is not a valid version"
            ));
        }
        None => return wrong("anthropic-version: header is required"),
    };
    let request = call.request()?;
    let unified = read_request(request, version)?;
    let answer = reply(&unified);
    let id = digest(call.body);
    let model = request.get("model").cloned().unwrap_or_default();
    let (input, output) = (prompt_tokens(call.body), answer.all_tokens());
    let read = unified.cached(input);
    let (reason, stopped) = end(&answer);
    let refused = matches!(answer.content, AnswerContent::Refusal(_));
    let details = json!({ "type": "refusal", "category": "cyber", "explanation": answer.text() });
    let body = json!({
        "id": format!("msg_{id}"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks(&answer, &id),
        "stop_reason": reason,
        "stop_sequence": stopped,
        "stop_details": if refused { details } else { Value::Null },
        "usage": usage(request, &answer, (input, read), output),
    });
    Ok(VendorAnswer::json(200, &body)
        .with("request-id", &format!("req_{id}"))
        .spending(input - read, output))
}

/// Returns the usage of an answer. Tokens that are read from the cache count apart from the rest of the input. So do
/// the blocks of the system prompt that the request puts into the cache.
fn usage(request: &Value, answer: &UnifiedAnswer, (input, read): (u64, u64), output: u64) -> Value {
    let system = list_field(request, "system").iter();
    let cached = system.filter(|block| block.get("cache_control").is_some());
    let cached = cached
        .map(|block| block.to_string().len() as u64 / 4)
        .sum::<u64>();
    json!({
        "input_tokens": input.saturating_sub(cached + read),
        "cache_creation_input_tokens": cached,
        "cache_read_input_tokens": read,
        "output_tokens": output,
        "output_tokens_details": { "thinking_tokens": answer.thought_tokens },
        "service_tier": "standard",
    })
}

fn end(answer: &UnifiedAnswer) -> (&'static str, Option<&str>) {
    match (&answer.content, &answer.end) {
        (AnswerContent::Calls(_), _) => ("tool_use", None),
        (AnswerContent::Refusal(_), _) => ("refusal", None),
        (_, AnswerEnd::Stopped(sequence)) => ("stop_sequence", Some(sequence)),
        (_, AnswerEnd::Length) => ("max_tokens", None),
        (_, AnswerEnd::Whole) => ("end_turn", None),
    }
}

fn blocks(answer: &UnifiedAnswer, id: &str) -> Vec<Value> {
    let thought = answer.thought.as_ref().map(
        |thought| json!({ "type": "thinking", "thinking": thought, "signature": signature::sign(thought) }),
    );
    let content = match &answer.content {
        AnswerContent::Text(text) => vec![json!({ "type": "text", "text": text })],
        AnswerContent::Calls(calls) => encode_calls(calls, |at, call| {
            let id = format!("toolu_{id}{at}");
            json!({ "type": "tool_use", "id": id, "name": call.name, "input": call.arguments })
        }),
        AnswerContent::Refusal(_) => Vec::new(),
    };
    thought.into_iter().chain(content).collect()
}

fn read_request(request: &Value, version: ApiVersion) -> Result<UnifiedRequest, RequestProblem> {
    let Some(fields) = request.as_object() else {
        return Err(RequestProblem::Unreadable);
    };
    for field in fields.keys().map(String::as_str) {
        match (SAMPLING.contains(&field), version) {
            (true, ApiVersion::Of2023) => {}
            (true, ApiVersion::Of2026) => {
                return wrong(format!(
                    "{field}: not supported since anthropic-version 2026-10-21"
                ));
            }
            (false, _) if FIELDS.contains(&field) => {}
            (false, _) => return wrong(format!("{field}: Extra inputs are not permitted")),
        }
    }
    if text_field(request, "model").is_none() {
        return wrong("model: Field required");
    }
    let Some(max_tokens) = number_field(request, "max_tokens") else {
        return wrong("max_tokens: Field required");
    };
    if max_tokens == 0 {
        return wrong("max_tokens: Input should be greater than or equal to 1");
    }
    let reasoning = thinking(request, max_tokens)?;
    let (text, result) = conversation::last(request, version, reasoning)?;
    Ok(UnifiedRequest {
        text,
        result,
        tools: tools(request)?,
        choice: choice(request.get("tool_choice"))?,
        form: form(request),
        stops: super::openai::messages::text_list(request.get("stop_sequences")),
        max_tokens: Some(max_tokens),
        reasoning,
        single_call: request.pointer("/tool_choice/disable_parallel_tool_use")
            == Some(&json!(true)),
    })
}

fn thinking(request: &Value, max_tokens: u64) -> Result<bool, RequestProblem> {
    let Some(thinking) = request
        .get("thinking")
        .filter(|thinking| !thinking.is_null())
    else {
        return Ok(false);
    };
    match text_field(thinking, "type") {
        Some("enabled") => match number_field(thinking, "budget_tokens") {
            None => wrong("thinking.enabled.budget_tokens: Field required"),
            Some(budget) if budget < LEAST_BUDGET => wrong(
                "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
            ),
            Some(budget) if budget >= max_tokens => {
                wrong("`max_tokens` must be greater than `thinking.budget_tokens`.")
            }
            Some(_) => Ok(true),
        },
        Some("adaptive" | "between_tools") => Ok(true),
        Some("disabled") => Ok(false),
        _ => wrong(
            "thinking: Input tag does not match any of the expected tags: 'adaptive', 'between_tools', 'disabled', 'enabled'",
        ),
    }
}

fn tools(request: &Value) -> Result<Vec<RequestTool>, RequestProblem> {
    let tools = list_field(request, "tools").iter().enumerate();
    tools.map(|(at, value)| tool(at, value)).collect()
}

fn tool(at: usize, tool: &Value) -> Result<RequestTool, RequestProblem> {
    let Some(name) = text_field(tool, "name") else {
        return wrong(format!("tools.{at}.custom.name: Field required"));
    };
    match tool.get("input_schema") {
        Some(schema) if text_field(schema, "type") == Some("object") => {
            Ok(RequestTool::new(name, Some(schema)))
        }
        _ => wrong(format!(
            "tools.{at}.custom.input_schema.type: Field required"
        )),
    }
}

fn choice(choice: Option<&Value>) -> Result<ToolSelection, RequestProblem> {
    let Some(choice) = choice.filter(|choice| !choice.is_null()) else {
        return Ok(ToolSelection::Free);
    };
    let name = text_field(choice, "name");
    match (text_field(choice, "type"), name) {
        (Some("auto"), _) => Ok(ToolSelection::Free),
        (Some("any"), _) => Ok(ToolSelection::Any),
        (Some("none"), _) => Ok(ToolSelection::Never),
        (Some("tool"), Some(name)) => Ok(ToolSelection::Named(name.to_owned())),
        (Some("tool"), None) => wrong("tool_choice.tool.name: Field required"),
        _ => wrong(
            "tool_choice: Input tag does not match any of the expected tags: 'auto', 'any', 'tool', 'none'",
        ),
    }
}

fn form(request: &Value) -> AnswerForm {
    let schema = request.pointer("/output_config/format/schema");
    schema.map_or(AnswerForm::Text, |schema| {
        AnswerForm::Schema(schema.clone())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(version: ApiVersion, fields: Value) -> Result<UnifiedRequest, RequestProblem> {
        let mut request = json!({ "model": "c", "max_tokens": 2_000, "messages": [{ "role": "user", "content": "hi" }] });
        for (name, value) in fields.as_object().expect("fields") {
            request[name] = value.clone();
        }
        read_request(&request, version)
    }

    #[test]
    fn the_newer_version_takes_no_temperature() {
        assert!(read(ApiVersion::Of2023, json!({ "temperature": 1.0 })).is_ok());
        assert!(read(ApiVersion::Of2026, json!({ "temperature": 1.0 })).is_err());
    }

    #[test]
    fn a_request_is_checked_strictly() {
        assert!(read(ApiVersion::Of2026, json!({})).is_ok());
        assert!(read(ApiVersion::Of2026, json!({ "max_tokens": null })).is_err());
        assert!(read(ApiVersion::Of2026, json!({ "colour": "blue" })).is_err());
        for (budget, fine) in [(1_023, false), (1_024, true), (2_000, false)] {
            let thinking = json!({ "thinking": { "type": "enabled", "budget_tokens": budget } });
            assert_eq!(read(ApiVersion::Of2026, thinking).is_ok(), fine, "{budget}");
        }
    }
}
