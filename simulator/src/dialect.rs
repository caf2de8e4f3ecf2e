//! The dialects: how each vendor reads a request and encodes an answer.

mod anthropic;
mod bedrock;
mod cohere;
mod gemini;
mod mistral;
mod ollama;
pub(crate) mod openai;

use serde_json::{Value, json};

use super::answer::{CREATED, VendorAnswer, digest};
use super::call::{Outcome, RequestProblem, VendorCall};
use super::failure::{self, FAILURE_PREFIX, FailureContext};
use super::route::ApiTask;
use super::vendor::Vendor;

/// The name of a model that no account may use.
const NO_MODEL: &str = "no-such-model";

/// Returns the answer to an admitted call. If `instead` names a failure, returns that failure.
pub(super) fn answer(call: &VendorCall<'_>, instead: Option<&str>) -> VendorAnswer {
    let request = serde_json::from_slice(call.body).ok();
    let call = &VendorCall {
        request: request.as_ref(),
        ..*call
    };
    let model = model(call);
    let context = FailureContext {
        key: call.key,
        model: &model,
        account: &call.account.name,
        body: call.body,
    };
    let failure = instead.and_then(|case| failure::answer(call.vendor, case, &context));
    if let Some(failure) = failure.or_else(|| failure::requested(call.vendor, &context)) {
        return failure;
    }
    let outcome = match call.task {
        _ if model == NO_MODEL => Err(RequestProblem::Case("model_not_allowed")),
        _ if model.starts_with(FAILURE_PREFIX) => Err(RequestProblem::Request(format!(
            "no failure is called {model}"
        ))),
        ApiTask::Unversioned => Err(RequestProblem::Case("model_not_allowed-version")),
        _ => vendor_answer(call),
    };
    outcome.unwrap_or_else(|problem| refused(call.vendor, &problem, &context))
}

fn vendor_answer(call: &VendorCall<'_>) -> Outcome {
    match call.vendor {
        vendor if vendor.speaks_as_openai() => openai::answer(call),
        Vendor::Anthropic => anthropic::answer(call),
        Vendor::Gemini => gemini::answer(call),
        Vendor::Mistral => mistral::answer(call),
        Vendor::Cohere => cohere::answer(call),
        Vendor::Bedrock => bedrock::answer(call),
        _ => ollama::answer(call),
    }
}

/// Returns the model that a call names in its address, in its JSON body or in a field of its form.
fn model(call: &VendorCall<'_>) -> String {
    if let Some(model) = call.model {
        return model.to_owned();
    }
    if call.task == ApiTask::Transcribe {
        return openai::media::model_of_form(call).unwrap_or_default();
    }
    let model = call.request.and_then(|request| request.get("model"));
    model.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns the vendor's answer to a call with a problem.
pub(super) fn refused(
    vendor: Vendor,
    problem: &RequestProblem,
    context: &FailureContext<'_>,
) -> VendorAnswer {
    match problem {
        RequestProblem::Case(case) => {
            let failure = failure::answer(vendor, case, context);
            failure.unwrap_or_else(|| bad_request(vendor, case))
        }
        RequestProblem::Request(message) => bad_request(vendor, message),
        RequestProblem::Field(path, message) => field(vendor, path, message),
        RequestProblem::Address(path) => unknown_address(vendor, path),
        RequestProblem::Unreadable if vendor == Vendor::Mistral => {
            field(vendor, &["body".to_owned()], "JSON decode error")
        }
        RequestProblem::Unreadable => {
            bad_request(vendor, "We could not parse the JSON body of your request.")
        }
    }
}

/// Encodes an error in the vendor's form.
fn error(vendor: Vendor, status: u16, code: Option<&str>, message: &str) -> VendorAnswer {
    let id = format!("req_{}", digest(message.as_bytes()));
    let kind = if status == 404 {
        "not_found_error"
    } else {
        "invalid_request_error"
    };
    let word = if status == 404 {
        "NOT_FOUND"
    } else {
        "INVALID_ARGUMENT"
    };
    match vendor {
        Vendor::Anthropic => {
            let error = json!({ "type": kind, "message": message });
            let body = json!({ "type": "error", "error": error, "request_id": id });
            VendorAnswer::json(status, &body).with("request-id", &id)
        }
        Vendor::Gemini => {
            let error = json!({ "code": status, "message": message, "status": word });
            VendorAnswer::json(status, &json!({ "error": error }))
        }
        Vendor::Mistral => {
            let body = json!({ "object": "error", "message": message, "type": kind, "param": null, "code": "3230" });
            VendorAnswer::json(status, &body)
        }
        Vendor::Cohere => {
            VendorAnswer::json(status, &json!({ "id": &id[4..], "message": message }))
        }
        Vendor::Bedrock => {
            let name = if status == 404 {
                "ResourceNotFoundException"
            } else {
                "ValidationException"
            };
            let answer = VendorAnswer::json(status, &json!({ "message": message }));
            answer
                .with("x-amzn-errortype", name)
                .with("x-amzn-requestid", &id)
        }
        Vendor::Ollama => VendorAnswer::json(status, &json!({ "error": message })),
        Vendor::OpenRouter => {
            let metadata = json!({ "error_type": "invalid_request" });
            let error = json!({ "code": status, "message": message, "metadata": metadata });
            VendorAnswer::json(status, &json!({ "error": error }))
        }
        Vendor::DeepSeek => as_openai(status, Some("invalid_request_error"), message),
        Vendor::OpenAi | Vendor::Azure | Vendor::Groq => as_openai(status, code, message),
    }
}

fn as_openai(status: u16, code: Option<&str>, message: &str) -> VendorAnswer {
    let kind = "invalid_request_error";
    let body =
        json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
    let id = format!("req_{}", digest(message.as_bytes()));
    VendorAnswer::json(status, &body).with("x-request-id", &id)
}

fn bad_request(vendor: Vendor, message: &str) -> VendorAnswer {
    error(vendor, 400, None, message)
}

fn unknown_address(vendor: Vendor, path: &str) -> VendorAnswer {
    error(
        vendor,
        404,
        Some("unknown_url"),
        &format!("Unknown request URL: {path}."),
    )
}

/// Encodes an error about one field. Mistral lists wrong fields; the others name the field in the message.
fn field(vendor: Vendor, path: &[String], message: &str) -> VendorAnswer {
    if vendor == Vendor::Mistral {
        let detail = json!([{ "type": "value_error", "loc": path, "msg": message, "input": null }]);
        return VendorAnswer::json(422, &json!({ "detail": detail }));
    }
    bad_request(vendor, &format!("{}: {message}", path.join(".")))
}

/// Returns OpenRouter's answer to a request for the state of a key.
pub(super) fn key(label: &str) -> VendorAnswer {
    let data = json!({ "label": label, "limit": null, "limit_remaining": null, "usage": 0, "is_free_tier": false });
    VendorAnswer::json(200, &json!({ "data": data }))
}

/// Returns the vendor's list of models.
pub(super) fn models(vendor: Vendor) -> VendorAnswer {
    match vendor {
        Vendor::Anthropic => {
            let model = json!({
                "type": "model", "id": "claude-sonnet-4-5", "display_name": "Claude Sonnet 4.5",
                "created_at": "2025-09-29T00:00:00Z", "lifecycle": "active",
            });
            VendorAnswer::json(
                200,
                &json!({
                    "data": [model], "has_more": false, "first_id": "claude-sonnet-4-5", "last_id": "claude-sonnet-4-5"
                }),
            )
        }
        Vendor::Gemini => {
            let model = json!({
                "name": "models/gemini-2.5-flash", "version": "001", "displayName": "Gemini 2.5 Flash",
                "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536,
                "supportedGenerationMethods": ["generateContent"],
            });
            VendorAnswer::json(200, &json!({ "models": [model] }))
        }
        Vendor::Cohere => {
            let model = json!({ "name": "command-a-03-2025", "endpoints": ["chat"], "context_length": 256_000 });
            VendorAnswer::json(200, &json!({ "models": [model] }))
        }
        Vendor::Ollama => {
            let model = json!({
                "name": "llama3.2:latest", "model": "llama3.2:latest", "modified_at": "2026-01-01T00:00:00Z",
                "size": 2_019_393_189u64, "digest": digest(b"llama3.2"),
                "details": { "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "3.2B", "quantization_level": "Q4_K_M" },
            });
            VendorAnswer::json(200, &json!({ "models": [model] }))
        }
        Vendor::Mistral => {
            let model = json!({
                "id": "mistral-small-latest", "object": "model", "created": CREATED, "owned_by": "mistralai", "type": "base",
                "capabilities": { "completion_chat": true, "function_calling": true, "vision": true },
            });
            VendorAnswer::json(200, &json!({ "object": "list", "data": [model] }))
        }
        _ => {
            let model = |id: &str| json!({ "id": id, "object": "model", "created": CREATED, "owned_by": "forebay" });
            let data = [model("gpt-4o-mini"), model("text-embedding-3-small")];
            VendorAnswer::json(200, &json!({ "object": "list", "data": data }))
                .with("x-request-id", "req_models")
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn answered(vendor: Vendor, model: &str) -> VendorAnswer {
        let account = format!("name=a,key=k,provider={}", vendor.name())
            .parse()
            .expect("a config");
        let body = json!({ "model": model }).to_string();
        let call = VendorCall {
            vendor,
            task: ApiTask::Chat,
            model: None,
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
            request: None,
            account: &account,
            key: "k",
        };
        answer(&call, None)
    }

    #[test]
    fn every_failure_comes_by_its_name() {
        for failure in failure::failures() {
            let vendor: Vendor = failure.provider.parse().expect("a provider");
            let answer = answered(vendor, &format!("fail-{}", failure.case));
            assert_eq!(answer.status.as_u16(), failure.status, "{failure:?}");
        }
    }

    #[test]
    fn a_model_that_is_not_there_and_a_failure_that_is_none_are_refused_by_all() {
        for vendor in Vendor::ALL {
            let expected = if vendor == Vendor::DeepSeek { 400 } else { 404 };
            // Bedrock's first row of that class is a 403: a model that the account may not use.
            let expected = if vendor == Vendor::Bedrock {
                403
            } else {
                expected
            };
            assert_eq!(
                answered(vendor, NO_MODEL).status.as_u16(),
                expected,
                "{}",
                vendor.name()
            );
            assert_eq!(
                answered(vendor, "fail-nothing").status.as_u16(),
                400,
                "{}",
                vendor.name()
            );
        }
    }
}
