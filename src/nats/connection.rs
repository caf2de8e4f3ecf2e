//! A connection to NATS, and the errors that decide the exit code of a command.

use std::time::Duration;

use anyhow::anyhow;
use async_nats::connection::State;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, Event, Message, RequestError};
use bytes::Bytes;
use forebay_schemas::Names;
use forebay_schemas::rights::inbox_of_user;
use forebay_workers::queue::jetstream::JetStreamQueue;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, ConfigErrors};
use crate::nats::stream_secrets::StreamSecrets;

/// The reason why a command ends, as far as the exit code depends on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request or the configuration is invalid.
    #[error("{0:#}")]
    Usage(anyhow::Error),
    /// NATS or a provider is unreachable.
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
}

impl From<ConfigErrors> for Error {
    fn from(mistakes: ConfigErrors) -> Self {
        Self::Usage(anyhow!(mistakes))
    }
}

/// A connection to NATS, with the names of everything on it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// JetStream on this connection.
    pub context: Context,
    /// The names of subjects, streams and buckets.
    pub names: Names,
    /// The secrets of its streams.
    pub secrets: StreamSecrets,
    /// Is cancelled when this process ends the connection itself.
    closing: CancellationToken,
}

impl Connection {
    /// Marks the end of the connection as intended, so that it is not logged.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Returns true if the connection is established now.
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Returns the queue of jobs on this connection.
    pub(crate) fn queue(&self) -> JetStreamQueue {
        let Self { client, names, .. } = self;
        JetStreamQueue::new(client.clone(), names.clone())
    }

    /// Sends a request to the service `verb` of the worker, and returns the reply.
    ///
    /// # Errors
    /// Returns an error when no worker listens, or when none replies in time.
    pub(crate) async fn request_control(
        &self,
        verb: &str,
        request: Bytes,
    ) -> Result<Message, RequestError> {
        let subject = self.names.ctl(verb);
        self.client.request(subject, request).await
    }

    /// Connects to NATS.
    ///
    /// # Errors
    /// Returns an error when the URL is invalid, or when NATS does not answer. An attempt to
    /// connect takes up to 5 seconds.
    pub async fn open(url: &str, config: &Config) -> Result<Self, Error> {
        let unreachable = |error: anyhow::Error| {
            Error::Unreachable(error.context(format!(
                "NATS at {} does not answer",
                without_credential(url)
            )))
        };
        let addresses: Vec<async_nats::ServerAddr> = url
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::Usage(anyhow!("[nats] url: {error}")))?;
        let closing = CancellationToken::new();
        let closing_for_events = closing.clone();
        let mut options = async_nats::ConnectOptions::new();
        // The client takes a credential from its options, not from the URL.
        if let Some((user, password)) = addresses
            .iter()
            .find_map(|at| Some((at.username()?, at.password()?)))
        {
            options = options
                .user_and_password(user.to_owned(), password.to_owned())
                .custom_inbox_prefix(inbox_of_user(user));
        }
        let options = options
            .name("forebay")
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(Duration::from_secs(10)))
            .event_callback(move |event| {
                log_event(&event, closing_for_events.is_cancelled());
                std::future::ready(())
            });
        let client = options.connect(addresses).await;
        let client = client.map_err(|error| unreachable(error.into()))?;
        let context = jetstream::new(client.clone());
        Ok(Self {
            client,
            context,
            names: config.nats.names.clone(),
            secrets: StreamSecrets::default(),
            closing,
        })
    }
}

fn log_event(event: &Event, is_closing: bool) {
    match event {
        Event::Connected => info!("connected to NATS"),
        _ if is_closing => {}
        // This process has dropped the client.
        Event::Closed => {}
        Event::Disconnected => warn!("the connection to NATS is lost, connecting again"),
        event => warn!(%event, "NATS"),
    }
}

/// Returns a URL without its credential, for messages.
fn without_credential(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
        None => url
            .rsplit_once('@')
            .map_or(url, |(_, host)| host)
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_printed_without_its_credential() {
        assert_eq!(without_credential("nats://a:b@h:4222"), "nats://h:4222");
        assert_eq!(without_credential("nats://h:4222"), "nats://h:4222");
        assert_eq!(without_credential("a:b@h"), "h");
    }
}
