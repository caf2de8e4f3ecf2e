//! A strict fake of AI providers, for tests of anything that calls one.
//!
//! [`Provider`] listens on a real socket. It speaks the API of OpenAI, Azure, Anthropic, Gemini, Mistral, Cohere,
//! Bedrock, Ollama, Groq, DeepSeek or OpenRouter. Each account speaks one API.
//!
//! The provider enforces the limits of an account to the letter. It refuses a call with the vendor's own text,
//! headers and status. It fails on demand ([`fault`]) and records each call ([`record`]). An answer depends on its
//! request alone, so two runs can be compared byte by byte. The provider shares no pacing code with Forebay, so the
//! two cannot be wrong together.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use forebay_simulator::{Config, Provider};
//!
//! // Two calls in any minute, and none beyond them.
//! let account = "name=one,key=sk-one,limit=2/1m".parse()?;
//! let config = Config::new(vec![account]);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let provider = Provider::start(config, listener)?;
//!
//! // Configure the client under test with `provider.base_url()` and the key `sk-one`. Then read the calls:
//! assert_eq!(provider.calls(), []);
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`account`] (keys and limits), `serve` (one call from arrival to answer), `admission` and `window`
//! (counting), `dialect` (each vendor's API), `failure` (each vendor's errors).

pub mod account;
mod window;

mod admission;
mod cost;
mod fixture;
mod limits;
mod refusal;

pub mod fault;
pub mod record;

mod route;
mod serve;
mod signature;
mod state;
mod vendor;

mod answer;
mod asked;
mod call;
mod dialect;
mod failure;
mod field;
mod multipart;
mod parts;
mod schema;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::any;
use tokio::net::TcpListener;

pub use failure::{VendorFailure, failures};
use fault::FaultPlan;
use record::RecordEntry;
pub use state::Config;
use state::SharedState;
pub use vendor::Vendor;

/// A running simulated provider. Dropping it ends the server.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    shared: Arc<SharedState>,
    server: tokio::task::JoinHandle<()>,
}

impl Provider {
    /// Starts a provider that serves on `listener`.
    ///
    /// # Errors
    /// Returns an error if the record's file cannot be opened or the listener has no address. Also returns one if a
    /// key is given twice, or if more than one account has no key.
    pub fn start(config: Config, listener: TcpListener) -> std::io::Result<Self> {
        if let Some(conflict) = account::conflict(&config.accounts) {
            return Err(std::io::Error::other(conflict));
        }
        let address = listener.local_addr()?;
        let shared = Arc::new(SharedState::new(config)?);
        let router = Router::new()
            .fallback(any(serve::handle))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            // Serving ends with the listener; no caller is left to receive an error.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    /// Returns the provider's address, `http://HOST:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the provider's address as a `base_url` for OpenAI's API, `http://HOST:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Returns the calls so far.
    pub fn calls(&self) -> Vec<RecordEntry> {
        self.shared.record.entries()
    }

    /// Injects `faults` into all later calls, instead of the faults before.
    pub fn fail(&self, faults: FaultPlan) {
        *self.shared.faults() = faults;
    }

    /// Returns the embedding with which the provider answers `text`.
    pub fn vector(text: &str) -> Vec<f64> {
        answer::vector(text, answer::DIMENSIONS)
    }

    /// Returns the provider's accounts.
    pub fn accounts(&self) -> Vec<account::Config> {
        self.shared
            .accounts
            .iter()
            .map(|account| account.config().clone())
            .collect()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.server.abort();
    }
}
