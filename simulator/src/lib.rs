//! A strict fake of AI providers, for tests of anything that calls one.
//!
//! [`Provider`] listens on a real socket and speaks the API of OpenAI, Azure, Anthropic, Gemini, Mistral, Cohere,
//! Bedrock, Ollama, Groq, DeepSeek or OpenRouter, whichever each of its accounts is configured for. It enforces the
//! limits of an account to the letter and refuses in the vendor's own words, headers and status. It fails on demand
//! ([`fault`]), and it records each call ([`record`]). An answer depends on its request alone, so two runs can be
//! compared byte by byte. It shares no pacing code with Forebay, so the two cannot be wrong together.
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
//! // Give `provider.base_url()` and the key `sk-one` to what you test. Then look at what it was asked:
//! assert_eq!(provider.calls(), []);
//! # Ok(())
//! # }
//! ```
//!
//! Reading order: [`account`] (keys and limits), `serve` (one call from arrival to answer), `admission` and `window`
//! (what is counted), `dialect` (each vendor's API), `failure` (each vendor's errors).

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

/// A running simulated provider. It ends when this is dropped.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    shared: Arc<SharedState>,
    server: tokio::task::JoinHandle<()>,
}

impl Provider {
    /// Starts to serve on `listener`.
    ///
    /// # Errors
    /// When the record's file cannot be opened, the listener has no address, or a key opens two accounts.
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
            // Serving ends with the listener; there is nobody to tell.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            shared,
            server,
        })
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address, as a `base_url` of OpenAI's.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it was asked so far.
    pub fn calls(&self) -> Vec<RecordEntry> {
        self.shared.record.entries()
    }

    /// From now on this goes wrong.
    pub fn fail(&self, faults: FaultPlan) {
        *self.shared.faults() = faults;
    }

    /// The vector that a text is answered with.
    pub fn vector(text: &str) -> Vec<f64> {
        answer::vector(text, answer::DIMENSIONS)
    }

    /// The accounts that it has.
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
