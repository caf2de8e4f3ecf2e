//! Ollama's failures.

use super::{FailureRow, row};

#[rustfmt::skip]
pub(super) const ROWS: &[FailureRow] = &[
    row("model_not_allowed", 404,
        r#"{"error":"model '$MODEL' not found"}"#),
    row("bad_request", 400,
        r#"{"error":"invalid options: colour"}"#),
    row("overloaded", 503,
        r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#),
    row("server_error", 500,
        r#"{"error":"llama runner process has terminated: exit status 2"}"#),
    row("server_error-memory", 500,
        r#"{"error":"model requires more system memory (5.6 GiB) than is available (3.1 GiB)"}"#),
];
