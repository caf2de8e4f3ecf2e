//! Mistral's failures.

use super::{FailureRow, row, row_with_headers};

#[rustfmt::skip]
pub(super) const ROWS: &[FailureRow] = &[
    row_with_headers("rate_limited", 429, &[("retry-after", "1"), ("x-ratelimit-limit-req-minute", "60"), ("x-ratelimit-remaining-req-minute", "0")],
        r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}"#),
    row_with_headers("model_not_allowed-429", 429, &[("x-ratelimit-limit-req-minute", "0"), ("x-ratelimit-remaining-req-minute", "0")],
        r#"{"object":"error","message":"Rate limit exceeded","type":"rate_limited","param":null,"code":"1300"}"#),
    row("overloaded", 429,
        r#"{"object":"error","message":"Service tier capacity exceeded for this model.","type":"service_tier_capacity_exceeded","param":null,"code":"3505"}"#),
    row("billing_stop", 402,
        r#"{"detail":"You have reached your usage limit. Check your subscription."}"#),
    row("billing_stop-month", 429,
        r#"{"object":"error","message":"Your monthly spend limit has been reached.","type":"spend_limit_exceeded","param":null,"code":"1301"}"#),
    row("bad_key", 401,
        r#"{"detail":"Unauthorized"}"#),
    row("model_not_allowed", 404,
        r#"{"object":"error","message":"Invalid model: $MODEL","type":"invalid_model","param":null,"code":"1500"}"#),
    row("model_not_allowed-403", 403,
        r#"{"object":"error","message":"This model is not available on your plan: $MODEL","type":"forbidden","param":null,"code":"1501"}"#),
    row("context_too_long", 400,
        r#"{"object":"error","message":"Prompt contains 140000 tokens and 0 draft tokens, too large for model with 131072 maximum context length","type":"invalid_request_prompt","param":null,"code":"3051"}"#),
    row("bad_request", 422,
        r#"{"detail":[{"type":"extra_forbidden","loc":["body","colour"],"msg":"Extra inputs are not permitted","input":"blue"}]}"#),
    row("bad_request-400", 400,
        r#"{"object":"error","message":"Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant","type":"invalid_request_message_order","param":null,"code":"3230"}"#),
    row("bad_request-object", 422,
        r#"{"object":"error","message":{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{}}]},"type":"invalid_request_error","param":null,"code":null}"#),
    row("server_error", 500,
        r#"{"object":"error","message":"Internal server error","type":"internal_server_error","param":null,"code":"1000"}"#),
    row("server_error-503", 503,
        r#"{"object":"error","message":"Service unavailable.","type":"unreachable_backend","param":null,"code":"1100"}"#),
    row("server_error-502", 502,
        r#"<html><body>502 Bad Gateway</body></html>"#),
];
