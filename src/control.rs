//! The services over NATS for operators and for clients that wait for an answer. `nats micro ls`
//! lists them.

pub mod messages;

mod depths;
mod handlers;

pub mod controls;
pub mod dead_letters;
pub mod events;

use std::sync::Arc;

use async_nats::service::{Service, ServiceExt};
use futures::StreamExt;
use tracing::warn;

use crate::cluster::account_state::StateWriter;
use crate::control::controls::OrderBook;
use crate::nats::connection::Connection;
use crate::worker::JetStreamWorker;

use crate::control::handlers::ControlHandlers;
pub use depths::depths;

/// The services of a running worker.
pub struct ControlServices {
    service: Service,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl ControlServices {
    /// Starts to answer requests.
    ///
    /// # Errors
    /// Returns an error when a subject cannot be served.
    pub async fn start(
        connection: &Connection,
        worker: Arc<JetStreamWorker>,
        writer: StateWriter,
        book: OrderBook,
    ) -> Result<Self, async_nats::Error> {
        let (client, names) = (&connection.client, &connection.names);
        let service = client
            .service_builder()
            .description("An asynchronous broker for AI requests")
            .start("forebay", env!("CARGO_PKG_VERSION"))
            .await?;
        let handlers = Arc::new(ControlHandlers {
            connection: connection.clone(),
            worker,
            writer,
            book,
        });
        let mut tasks = Vec::new();
        let subjects = [
            ("queues", names.ctl("queues")),
            ("accounts", names.ctl("accounts")),
            ("accounts-disable", names.ctl("accounts.disable")),
            ("accounts-enable", names.ctl("accounts.enable")),
            ("pause", names.ctl("pause")),
            ("resume", names.ctl("resume")),
            ("cancel", names.ctl("cancel")),
            ("dead-list", names.ctl("dead.list")),
            ("dead-show", names.ctl("dead.show")),
            ("dead-replay", names.ctl("dead.replay")),
            ("dead-drop", names.ctl("dead.drop")),
            ("results", names.ctl("results")),
            ("ask", names.ask()),
        ];
        for (name, subject) in subjects {
            let endpoint = service.endpoint_builder().name(name);
            let mut requests = endpoint.add(subject).await?;
            let handlers = Arc::clone(&handlers);
            tasks.push(tokio::spawn(async move {
                while let Some(request) = requests.next().await {
                    tokio::spawn(Arc::clone(&handlers).answer(name, request));
                }
            }));
        }
        Ok(Self { service, tasks })
    }

    /// Stops the services.
    pub async fn stop(self) {
        for task in self.tasks {
            task.abort();
        }
        if let Err(error) = self.service.stop().await {
            warn!(%error, "the services did not stop cleanly");
        }
    }
}
