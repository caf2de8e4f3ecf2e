//! DeepSeek's failures.

use super::{FailureRow, row};

#[rustfmt::skip]
pub(super) const ROWS: &[FailureRow] = &[
    row("rate_limited", 429,
        r#"{"error":{"message":"Rate limit reached: too many requests at once","type":"rate_limit_reached_error","param":null,"code":"rate_limit_reached_error"}}"#),
    row("billing_stop", 402,
        r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}"#),
    row("bad_key", 401,
        r#"{"error":{"message":"Authentication Fails, Your api key: ****$KEY_TAIL is invalid","type":"authentication_error","param":null,"code":"invalid_request_error"}}"#),
    row("bad_key-missing", 401,
        r#"Authentication Fails (governor)"#),
    row("model_not_allowed", 400,
        r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#),
    row("context_too_long", 400,
        r#"{"error":{"message":"This model's maximum context length is 131072 tokens. However, you requested 140000 tokens. Please reduce the length of the messages or completion.","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#),
    row("bad_request", 400,
        r#"{"error":{"message":"Failed to deserialize the JSON body into the target type: messages: missing field `role`","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#),
    row("bad_request-422", 422,
        r#"{"error":{"message":"Invalid parameters","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#),
    row("server_error", 500,
        r#"{"error":{"message":"Internal server error","type":"server_error","param":null,"code":"internal_error"}}"#),
    row("overloaded", 503,
        r#"{"error":{"message":"Service is too busy. We advise users to temporarily switch to alternative LLM API service providers.","type":"service_unavailable_error","param":null,"code":"service_unavailable_error"}}"#),
];
