//! The command `forebay serve`.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::anyhow;
use serde_json::json;
use tokio::sync::Notify;

use super::{GlobalOptions, USAGE, print};
use crate::app::{App, Started};
use crate::cluster::worker_lease::WhenHeld;
use crate::config::Config;
use crate::nats::connection::Error;
use crate::process::data_dir::display_path;
use crate::process::shutdown::{self, Hangup};

/// Serve jobs until a signal arrives. After the first signal, no new jobs are taken and those in
/// flight are finished. A second signal ends the process at once, and jobs in flight are delivered
/// again. SIGHUP reads keys in files again, unless serve was started at a terminal: then it ends it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// If another process serves, wait until it ends, and then take over
    #[arg(long)]
    standby: bool,
}

pub(super) async fn serve(global: &GlobalOptions, args: Args) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let reloads = Arc::<Notify>::default();
    // A terminal that is closed ends what was started at it. A service manager asks to read keys again.
    let hangup = match std::io::stdin().is_terminal() {
        true => Hangup::Ends,
        false => Hangup::Notifies(Arc::clone(&reloads)),
    };
    let stop = shutdown::on_signal(hangup, Some(config.call.grace));
    let stop = stop.map_err(|error| Error::Usage(error.into()))?;
    let when_held = if args.standby {
        WhenHeld::StandBy
    } else {
        WhenHeld::GiveUp
    };
    let started = tokio::select! {
        started = App::start(&config, when_held) => started?,
        () = stop.cancelled() => return Ok(0),
    };
    let app = match started {
        Started::Here(app) => app,
        Started::Elsewhere(by) => {
            let pid = by
                .pid
                .map_or_else(String::new, |pid| format!(" by process {pid}"));
            print::error(&format!(
                "the data directory {} is in use{pid}; stop that process, name another directory, or \
                 wait for it with `forebay serve --standby`",
                display_path(&config.data.dir)
            ));
            return Ok(USAGE);
        }
    };
    print_ready(global, &config, &app);
    let lease_lost = loop {
        tokio::select! {
            () = stop.cancelled() => break false,
            () = app.lease_lost() => break true,
            () = reloads.notified() => app.read_keys_again(&config),
        }
    };
    app.stop(config.call.grace).await;
    if lease_lost {
        Err(Error::Unreachable(anyhow!("another worker has taken over")))
    } else {
        Ok(0)
    }
}

fn print_ready(global: &GlobalOptions, config: &Config, app: &App) {
    let server = app.connection.client.server_info();
    let pools: Vec<_> = config.pools.keys().collect();
    let holder = match &config.nats.url {
        Some(_) => None,
        None => Some(config.data.dir.join("forebay.json")),
    };
    let holder = holder.map(|holder| std::path::absolute(&holder).unwrap_or(holder));
    if global.json {
        let at = format!("{}:{}", server.host, server.port);
        let ready = json!({ "ready": { "pools": pools, "nats": at, "nats_version": server.version, "holder": holder } });
        return print::note(&ready.to_string());
    }
    let pools = match pools.is_empty() {
        true => format!(
            "for each model that is asked for, with accounts of {}",
            config.account_names().join(", ")
        ),
        false => pools
            .into_iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let credential = holder.map_or_else(String::new, |holder| {
        format!(
            "; its address with the credential is in {}",
            holder.display()
        )
    });
    print::note(&format!(
        "ready: pools {pools}; NATS {} on {}:{}{credential}",
        server.version, server.host, server.port
    ));
}
