//! Forebay against a real nats-server, real sockets and a simulated provider, in one binary.

mod standing;
mod support;

mod check;
mod contract;
mod costs;
mod crashes;
mod dead;
mod dialects;
mod disk;
mod dry_run;
mod examples;
mod fallback;
mod faults;
mod flows;
mod hostile;
mod identity;
mod joined;
mod journal;
mod kinds;
mod large;
mod nats_troubles;
mod no_configuration;
mod objects;
mod orders;
mod permissions;
mod process;
mod program;
mod publish;
mod replies;
mod reuse;
mod run_command;
mod services;
mod store;
mod tls;
mod topology;
