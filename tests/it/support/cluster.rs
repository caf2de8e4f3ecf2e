//! A cluster of three NATS servers.

use std::path::Path;
use std::time::Duration;

use tokio::process::Child;

use super::{eventually_within, nats_server};

/// How long a cluster may take to choose its leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Three servers, each with JetStream. They end when this is dropped.
pub(crate) struct Cluster {
    servers: Vec<Child>,
    addresses: Vec<String>,
}

impl Cluster {
    /// Starts the servers, and waits until JetStream answers.
    pub(crate) async fn start(dir: &Path) -> Self {
        let routes = [(); 3].map(|()| free_port());
        let all = routes.map(|port| format!("\"nats://127.0.0.1:{port}\""));
        let (mut servers, mut addresses) = (Vec::new(), Vec::new());
        for (index, route) in routes.into_iter().enumerate() {
            let dir = dir.join(format!("server-{index}"));
            std::fs::create_dir_all(&dir).expect("a directory");
            let config = format!(
                "server_name: server-{index}\njetstream {{ store_dir: {:?} }}\n\
                 cluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
                dir.join("store"),
                all.join(", ")
            );
            let (server, address) = nats_server(&dir, &config, &[]).await;
            servers.push(server);
            addresses.push(address);
        }
        let cluster = Self { servers, addresses };
        cluster.wait_for_leader().await;
        cluster
    }

    /// Its address, as the configuration takes it.
    pub(crate) fn url(&self) -> String {
        let urls = self.addresses.iter();
        let urls: Vec<_> = urls.map(|address| format!("nats://{address}")).collect();
        urls.join(",")
    }

    /// Kills a server. It is gone from then on.
    pub(crate) async fn kill(&mut self, server: usize) {
        self.servers[server].kill().await.expect("killed");
    }

    async fn wait_for_leader(&self) {
        let addresses: Vec<_> = self.addresses.clone();
        let client = async_nats::connect(addresses).await.expect("connected");
        let context = async_nats::jetstream::new(client);
        eventually_within(LEADER_TIMEOUT, "a leader of the cluster", async || {
            context.query_account().await.ok()
        })
        .await;
    }
}

/// A port that is free now. A route must be known before its server starts.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}
