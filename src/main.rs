//! The `forebay` program.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    // This must come first. async-nats and reqwest must find the same TLS crypto provider, and
    // rustls panics when it has to choose between two.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return ExitCode::from(forebay::cli::USAGE);
    }
    forebay::process::dump_no_core();
    forebay::cli::main().await
}
