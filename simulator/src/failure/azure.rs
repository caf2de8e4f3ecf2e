//! Azure's failures.

use super::{FailureRow, row, row_with_headers};

#[rustfmt::skip]
pub(super) const ROWS: &[FailureRow] = &[
    row_with_headers("rate_limited", 429, &[("retry-after", "2"), ("retry-after-ms", "1500")],
        r#"{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation under Azure OpenAI API have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 2 seconds."}}"#),
    row_with_headers("rate_limited-code", 429, &[("retry-after", "2"), ("x-ratelimit-limit-requests", "-1")],
        r#"{"error":{"message":"Rate limit is exceeded. Try again in 2 seconds.","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#),
    row("exceeds_limit", 429,
        r#"{"error":{"message":"Request too large for $MODEL on tokens per min (TPM): Limit 30000, Requested 40123.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}"#),
    row("billing_stop", 429,
        r#"{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#),
    row("billing_stop-403", 403,
        r#"{"error":{"code":"403","message":"Your resource has been temporarily blocked because we detected behavior that may violate our content policy."}}"#),
    row("bad_key", 401,
        r#"{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource."}}"#),
    row("model_not_allowed", 404,
        r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."}}"#),
    row("context_too_long", 400,
        r#"{"error":{"message":"This model's maximum context length is 128000 tokens. However, your messages resulted in 130051 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#),
    row("content_filtered", 400,
        r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":false,"severity":"safe"},"jailbreak":{"filtered":true,"detected":true},"self_harm":{"filtered":false,"severity":"safe"},"sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":true,"severity":"medium"}}}}}"#),
    row("bad_request", 400,
        r#"{"error":{"message":"Unrecognized request argument supplied: colour","type":"invalid_request_error","param":null,"code":null}}"#),
    row("bad_request-422", 422,
        r#"{"error":{"message":"Invalid type for 'messages'.","type":"invalid_request_error","param":null,"code":null}}"#),
    row("model_not_allowed-version", 404,
        r#"{"error":{"code":"404","message":"Resource not found"}}"#),
    row("server_error", 500,
        r#"{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}"#),
    row("overloaded", 503,
        r#"{"error":{"message":"The engine is currently overloaded, please try again later","type":"server_error","param":null,"code":null}}"#),
    row("server_error-502", 502,
        r#"<html><body>502 Bad Gateway</body></html>"#),
];
